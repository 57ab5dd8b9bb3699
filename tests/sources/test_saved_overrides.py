"""A word that is said to be saved is in the file, whatever the disk does meanwhile."""

from __future__ import annotations

from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rproxy.sources.saved.keeper import RETRY_S, STOP_S
from tests.sources.test_saved_keeper import KEY, WEB, Keeping

FULL: Final = "No space left on device"


class SavingMachine(RuleBasedStateMachine):
    """An operator gives a back-end one weight after the other, each higher than the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.keeping = Keeping()
        self.keeping.start()
        self.weight = 0
        self.failed = 0
        """Times that the disk was full."""
        self.wrong: list[tuple[int, int]] = []
        """Weights that were said to be saved, and those that were in the file then."""
        self.waiting = 0

    @property
    def written(self) -> int:
        word = self.keeping.file.overrides.get(WEB)
        return 0 if word is None or word.weight is None else word.weight

    @rule()
    def say(self) -> None:
        self.weight += 1
        self.keeping.bench.pool.overrides.weigh(KEY, self.weight, self.keeping.clock.seconds())

    @rule()
    def save(self) -> None:
        weight, failed = self.weight, self.failed
        self.waiting += 1

        def saved(_: None) -> None:
            self.waiting -= 1
            if self.written < weight and self.failed == failed and not self.keeping.file.error:
                self.wrong.append((weight, self.written))

        self.keeping.keeper.save().addCallback(saved)

    @rule(seconds=st.sampled_from([0.0, 0.01, 1.0, 3.0]))
    def pass_s(self, seconds: float) -> None:
        self.keeping.run(seconds)

    @rule(hangs=st.booleans())
    def hang(self, hangs: bool) -> None:
        self.keeping.hangs = hangs
        if not hangs:
            writes, self.keeping.hanging = self.keeping.hanging, []
            for write in writes:
                write()

    @rule(full=st.booleans())
    def fill(self, full: bool) -> None:
        self.failed += 1
        self.keeping.file.error = FULL if full else ""

    @invariant()
    def what_is_said_to_be_saved_is_in_the_file(self) -> None:
        assert self.wrong == []

    def teardown(self) -> None:
        self.hang(False)
        self.fill(False)
        self.keeping.run(RETRY_S + 0.1)
        assert (self.written, self.waiting) == (self.weight, 0)
        self.say()
        self.save()
        assert self.keeping.stop() == [None]
        self.keeping.run(STOP_S)
        assert (self.written, self.waiting) == (self.weight, 0)
        assert self.keeping.hanging == []


TestSavingMachine = SavingMachine.TestCase
TestSavingMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
