from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import cast

import attrs
import pytest

from rproxy.net.addresses import Address, Network
from rproxy.observe.publisher import Publisher
from rproxy.pool.backend import Registration
from rproxy.pool.states import Administration, Override, State
from rproxy.sources.saved.keeper import RETRY_S, STOP_S, TRIES, TRY_AGAIN_S, WRITE_EVERY_S, Keeper
from rproxy.sources.saved.overrides import SavedOverrides
from rproxy.sources.saved.rows import Rows, Saved, decoded
from rproxy.sources.saved.state_file import TAKEN_OVER, StateFile, StateFileError
from rproxy.timing.work_queue import WorkQueue
from rproxy.wire.pdu import ProbeRequest, Unregister
from tests.fakes import AGENT_PORT, logged, pool_of, run, texts
from tests.sources.monitoring import AGENT, DEFAULTS, RTT_S, Bench

KNOWN = Registration(AGENT, instance=7, interval_s=300.0, weight=300)
KEY = (AGENT[0], 80)
GIVEN_UP_S = TRIES * (DEFAULTS.probe_timeout_s + TRY_AGAIN_S) + 0.1
LATER = attrs.evolve(KNOWN, agent=("10.0.0.2", AGENT_PORT))


class File:
    """One in memory; while `error` is set neither reading nor writing it succeeds."""

    path = "/state"
    shared = False

    def __init__(self, rows: Rows, overrides: SavedOverrides) -> None:
        self.rows = rows
        self.overrides = overrides
        self.writes = 0
        self.error = ""

    def read(self) -> Saved:
        self._fail()
        return Saved(dict(self.rows), dict(self.overrides))

    def write(self, pieces: Iterable[bytes]) -> None:
        self._fail()
        saved = decoded(b"".join(pieces))
        self.rows, self.overrides = saved.rows, saved.overrides
        self.writes += 1

    def _fail(self) -> None:
        if self.error:
            raise StateFileError(self.error)


class Keeping:
    def __init__(
        self,
        rows: Rows | None = None,
        overrides: SavedOverrides | None = None,
        *,
        allow: tuple[Network, ...] = (),
        file: StateFile | None = None,
    ) -> None:
        self.bench = Bench(allow=allow)
        self.clock = self.bench.clock
        self.pools = {"web": self.bench.pool}
        self.file = File(rows or {}, overrides or {})
        """Unless another one is given."""
        self.unsaved: list[Address] = []
        self.hangs = False
        self.hanging: list[Callable[[], None]] = []
        self.keeper = Keeper(
            file or cast(StateFile, self.file),
            lambda: self.pools,
            self.bench.monitor,
            self.clock,
            WorkQueue(self.clock),
            self._in_background,
            lambda: self.unsaved,
        )

    def _in_background(self, work: Callable[[], str], done: Callable[[str], None]) -> None:
        def finish() -> None:
            done(work())

        if self.hangs:
            self.hanging.append(finish)
        else:
            self.clock.callLater(0, finish)

    def run(self, seconds: float) -> None:
        run(self.clock, seconds)

    def start(self) -> None:
        self.keeper.load()
        self.keeper.start()
        self.run(0)

    def save(self) -> list[None]:
        """What it came to so far."""
        saved: list[None] = []
        self.keeper.save().addCallback(saved.append)
        return saved

    def stop(self) -> list[None]:
        """What it came to so far."""
        ended: list[None] = []
        self.keeper.stop().addCallback(ended.append)
        self.run(0)
        return ended


def test_a_back_end_is_written_once_its_agent_has_answered_and_not_before() -> None:
    keeping = Keeping()
    keeping.bench.silent.add("10.0.0.2")
    keeping.start()
    backend = keeping.bench.up()
    keeping.bench.register(("10.0.0.2", AGENT_PORT))
    keeping.run(WRITE_EVERY_S)
    assert keeping.file.rows == {KEY: backend.registration}


def test_only_what_has_changed_is_written_and_at_most_once_a_second() -> None:
    keeping = Keeping()
    keeping.start()
    keeping.run(10 * WRITE_EVERY_S)
    assert keeping.file.writes == 0
    keeping.bench.up()
    keeping.run(10 * WRITE_EVERY_S)
    assert keeping.file.writes == 1
    began = keeping.clock.seconds()
    for number in range(2, 200):
        keeping.bench.up((f"10.0.0.{number}", AGENT_PORT))
    assert 2 < keeping.file.writes <= 1 + (keeping.clock.seconds() - began) / WRITE_EVERY_S + 1
    keeping.run(WRITE_EVERY_S)
    assert len(keeping.file.rows) == 199


def test_what_an_agent_registers_anew_and_what_has_gone_is_written() -> None:
    keeping = Keeping()
    keeping.start()
    backend = keeping.bench.up()
    keeping.run(WRITE_EVERY_S)
    keeping.bench.register(interval_ms=30_000)
    keeping.run(WRITE_EVERY_S)
    assert keeping.file.rows[KEY].interval_s == backend.registration.interval_s == 30.0
    keeping.bench.register()
    keeping.bench.register(interval_ms=30_000)
    keeping.run(WRITE_EVERY_S)
    assert keeping.file.writes == 2
    keeping.bench.receive(Unregister(80, 1))
    keeping.run(WRITE_EVERY_S)
    assert keeping.file.rows == {}


def test_what_is_down_is_kept() -> None:
    keeping = Keeping()
    keeping.start()
    backend = keeping.bench.up()
    keeping.bench.silent.add(AGENT[0])
    keeping.run(15)
    assert backend.state is State.DOWN
    assert list(keeping.file.rows) == [KEY]


def test_strangers_are_left_out() -> None:
    keeping = Keeping()
    keeping.unsaved.append(KEY)
    keeping.start()
    keeping.bench.up()
    keeping.bench.up(("10.0.0.2", AGENT_PORT))
    keeping.run(WRITE_EVERY_S)
    assert list(keeping.file.rows) == [("10.0.0.2", 80)]


def test_rows_of_the_last_life_are_probed_at_once_and_serve_with_their_answer() -> None:
    keeping = Keeping({KEY: KNOWN})
    keeping.start()
    assert keeping.bench.pool.eligible == []
    keeping.run(2 * RTT_S)
    (backend,) = keeping.bench.pool.eligible
    assert backend.registration == KNOWN
    keeping.run(400.0)
    assert backend.state is State.UP  # though it has not registered meanwhile
    assert keeping.file.writes == 0


def test_a_lost_probe_is_sent_again_twice() -> None:
    keeping = Keeping({KEY: KNOWN})
    keeping.bench.silent.add(AGENT[0])
    keeping.start()
    keeping.run(2.1)
    assert len(keeping.bench.probed_at) == TRIES == 3
    assert len(keeping.bench.pool) == 0
    keeping.bench.silent.clear()
    keeping.run(GIVEN_UP_S + WRITE_EVERY_S)
    assert len(keeping.bench.probed_at) == TRIES
    assert len(keeping.bench.pool) == 0
    assert keeping.file.rows == {}


def test_an_answer_to_the_last_one_is_enough() -> None:
    keeping = Keeping({KEY: KNOWN})
    keeping.bench.silent.add(AGENT[0])
    keeping.start()
    keeping.run(DEFAULTS.probe_timeout_s + TRY_AGAIN_S + 0.2)
    assert len(keeping.bench.probed_at) == 2
    keeping.bench.silent.clear()
    keeping.run(DEFAULTS.probe_timeout_s + TRY_AGAIN_S)
    assert len(keeping.bench.pool.eligible) == 1
    assert keeping.file.rows == {KEY: KNOWN}


def test_those_that_have_not_answered_yet_stay_in_the_file_until_they_are_given_up() -> None:
    keeping = Keeping({KEY: KNOWN})
    keeping.bench.silent.add(AGENT[0])
    keeping.start()
    keeping.run(0.6)
    keeping.bench.up(("10.0.0.2", AGENT_PORT))
    keeping.run(WRITE_EVERY_S)
    assert len(keeping.file.rows) == 2
    assert len(keeping.stop()) == 1
    assert len(keeping.file.rows) == 2


def test_all_rows_are_probed_within_a_second() -> None:
    rows = {
        (host, 80): attrs.evolve(KNOWN, agent=(host, 9)) for host in (f"10.0.{n >> 8}.{n & 255}" for n in range(1024))
    }
    keeping = Keeping(rows)
    keeping.start()
    keeping.run(1.0)
    assert len(keeping.bench.pool.eligible) == 1024


def test_a_row_from_outside_the_allowed_networks_is_not_asked() -> None:
    keeping = Keeping({KEY: KNOWN, ("10.0.0.2", 80): LATER}, allow=(ip_network("10.0.0.2/32"),))
    keeping.start()
    keeping.run(GIVEN_UP_S + WRITE_EVERY_S)
    assert [backend.address for backend in keeping.bench.pool] == ["10.0.0.2"]
    assert list(keeping.file.rows) == [("10.0.0.2", 80)]


def test_an_agent_that_registers_meanwhile_is_what_it_says() -> None:
    keeping = Keeping({KEY: KNOWN})
    keeping.bench.silent.add(AGENT[0])
    keeping.start()
    keeping.bench.silent.clear()
    keeping.bench.register(instance=8)
    keeping.run(GIVEN_UP_S)
    assert keeping.bench.backend().registration.instance == 8
    keeping.run(WRITE_EVERY_S)
    assert keeping.file.rows[KEY].instance == 8


def test_a_row_is_probed_whatever_was_registered_in_its_name_before() -> None:
    """Somebody repeats those of its agent's earlier starts, which nobody answers to any more."""
    keeping = Keeping({KEY: KNOWN})
    bench = keeping.bench
    bench.silent.add(AGENT[0])
    bench.register(instance=100)
    keeping.start()
    for start in range(20):
        keeping.run(0.2)
        bench.register(instance=101 + start)
    asked = [pdu.instance_tag for pdu, _ in bench.transport.sent if isinstance(pdu, ProbeRequest)]
    assert (asked[:2], asked.count(KNOWN.instance)) == ([100, KNOWN.instance], TRIES)
    keeping.run(2 * WRITE_EVERY_S)
    assert keeping.file.rows == {}


def test_a_file_that_cannot_be_read_is_one_line_and_is_replaced() -> None:
    keeping = Keeping({KEY: KNOWN})
    keeping.file.error = "it is broken"
    with logged() as events:
        keeping.start()
        keeping.file.error = ""
        keeping.run(WRITE_EVERY_S)
    assert texts(events) == ["--state-file /state: it is broken; it is not used"]
    assert keeping.file.rows == {}


def test_a_write_that_fails_is_said_once_tried_again_seldom_and_its_success_said() -> None:
    keeping = Keeping()
    keeping.start()
    keeping.bench.up()
    keeping.file.error = "No space left on device"
    with logged() as events:
        keeping.run(100)
        assert texts(events) == ["--state-file /state: No space left on device; back-ends are not kept"]
        keeping.file.error = ""
        keeping.run(RETRY_S)
        assert texts(events)[1:] == ["--state-file /state: back-ends are kept again"]
    assert list(keeping.file.rows) == [KEY]


def test_while_a_write_hangs_no_other_begins() -> None:
    keeping = Keeping()
    keeping.hangs = True
    keeping.start()
    keeping.bench.up()
    keeping.run(100)
    assert len(keeping.hanging) == 1
    keeping.bench.up(("10.0.0.2", AGENT_PORT))
    keeping.hangs = False
    keeping.hanging.pop()()
    assert len(keeping.file.rows) == 1
    keeping.run(WRITE_EVERY_S)
    assert len(keeping.file.rows) == 2


def test_on_stopping_what_is_new_is_written() -> None:
    keeping = Keeping()
    keeping.start()
    keeping.bench.up()
    assert keeping.stop() == [None]
    assert list(keeping.file.rows) == [KEY]
    keeping.run(100)
    assert keeping.file.writes == 1


def test_on_stopping_what_has_come_during_a_write_is_written_too() -> None:
    keeping = Keeping()
    keeping.hangs = True
    keeping.start()
    keeping.bench.up()
    keeping.run(WRITE_EVERY_S)
    keeping.bench.up(("10.0.0.2", AGENT_PORT))
    ended = keeping.stop()
    assert ended == []
    keeping.hangs = False
    keeping.hanging.pop()()
    keeping.run(0)
    assert ended == [None]
    assert len(keeping.file.rows) == 2


def test_a_stop_does_not_wait_for_a_disk_that_hangs() -> None:
    keeping = Keeping()
    keeping.hangs = True
    keeping.start()
    keeping.bench.up()
    ended = keeping.stop()
    keeping.run(STOP_S - 0.1)
    assert ended == []
    keeping.run(0.2)
    assert ended == [None]
    keeping.hanging.pop()()
    keeping.run(100)


def test_a_stop_before_the_start_ends_at_once_or_soon() -> None:
    keeping = Keeping({KEY: KNOWN})
    ended = keeping.stop()
    keeping.run(STOP_S)
    assert ended == [None]
    assert keeping.file.rows == {KEY: KNOWN}


def test_what_can_neither_be_read_nor_written_is_one_line() -> None:
    keeping = Keeping()
    keeping.file.error = "it is no regular file"
    with logged() as events:
        keeping.start()
        keeping.bench.up()
        keeping.run(3 * RETRY_S)
    assert [text for text in texts(events) if "state" in text.split(":")[0]] == [
        "--state-file /state: it is no regular file; it is not used"
    ]


def test_that_rows_were_given_up_is_written_as_soon_as_it_can_be() -> None:
    keeping = Keeping({KEY: KNOWN})
    keeping.bench.silent.add(AGENT[0])
    keeping.start()
    keeping.file.error = "No space left on device"
    keeping.run(GIVEN_UP_S + 2 * WRITE_EVERY_S)
    assert keeping.file.rows == {KEY: KNOWN}
    keeping.file.error = ""
    keeping.run(RETRY_S)
    assert keeping.file.rows == {}


def test_a_back_end_of_two_pools_is_one_row_and_stays_while_either_has_it() -> None:
    keeping = Keeping()
    publish = Publisher()
    other = keeping.bench.monitor.add(pool_of(), publish)
    publish.subscribe(other.observers())
    keeping.pools["mail"] = other.pool
    keeping.start()
    backend = keeping.bench.up()
    assert len(other.pool) == 1
    keeping.run(WRITE_EVERY_S)
    assert (keeping.file.rows, keeping.file.writes) == ({KEY: backend.registration}, 1)
    keeping.bench.agents.exclude(backend)
    keeping.run(2 * WRITE_EVERY_S)
    assert keeping.file.rows == {KEY: backend.registration}
    (row,) = other.pool
    other.exclude(row)
    keeping.run(2 * WRITE_EVERY_S)
    assert keeping.file.rows == {}


def test_a_row_is_given_up_only_once_no_pool_waits_for_its_answer() -> None:
    keeping = Keeping({KEY: KNOWN})
    publish = Publisher()
    other = keeping.bench.monitor.add(pool_of(), publish)
    publish.subscribe(other.observers())
    keeping.bench.silent.add(KEY[0])
    keeping.start()
    assert [len(pool) for pool in (keeping.bench.pool, other.pool)] == [1, 1]
    keeping.run(GIVEN_UP_S)
    assert [len(pool) for pool in (keeping.bench.pool, other.pool)] == [0, 0]
    assert keeping.bench.monitor.counters.probes["registration"] == 2 * TRIES


@pytest.mark.parametrize("early", [True, False])
def test_a_word_in_a_hand_over_is_the_new_one_s_or_refused(tmp_path: Path, *, early: bool) -> None:
    """Whether the operator speaks to the old process before the new one reads the file, or after it."""
    old, new = (Keeping(file=StateFile(str(tmp_path / "state"), shared=True)) for _ in range(2))
    old.start()
    if not early:
        new.keeper.load()
    old.bench.pool.overrides.administer(KEY, Administration.DRAIN, 0.0)
    saved = old.save()
    old.run(0)
    if early:
        new.keeper.load()
    said = new.bench.pool.overrides.of(KEY).administration
    assert (saved, old.keeper.taken_over, said is Administration.DRAIN) == ([None], not early, early)
    new.keeper.start()
    old.run(3 * WRITE_EVERY_S)
    new.run(3 * WRITE_EVERY_S)
    assert StateFile(str(tmp_path / "state")).read().overrides.keys() == ({WEB} if early else set())


@pytest.mark.parametrize("hangs", [False, True])
def test_who_has_been_replaced_says_so_once_and_writes_no_more(*, hangs: bool) -> None:
    keeping = Keeping()
    keeping.start()
    keeping.bench.up()
    keeping.file.error = TAKEN_OVER
    with logged() as events:
        keeping.run(WRITE_EVERY_S + 0.1)
        keeping.file.error = ""
        keeping.run(3 * RETRY_S)
        keeping.hangs = hangs
        ended = keeping.stop()
        keeping.run(0)
    assert ended == [None]
    assert keeping.file.writes == 0
    assert texts(events).count(f"--state-file /state: {TAKEN_OVER}") == 1
    assert not [text for text in texts(events) if "not kept" in text]
    assert keeping.hanging == []


def test_who_learns_on_stopping_that_it_has_been_replaced_stops_at_once() -> None:
    keeping = Keeping()
    keeping.start()
    keeping.bench.up()
    keeping.file.error = TAKEN_OVER
    ended = keeping.stop()
    keeping.run(0.1)
    assert ended == [None]


DRAIN = Override(Administration.DRAIN, since=17.0)
WEB: tuple[str, Address] = ("web", KEY)


class TestWhatOperatorsSay:
    def test_it_is_written_and_what_they_take_back_is_not(self) -> None:
        keeping = Keeping()
        keeping.start()
        keeping.bench.pool.overrides.administer(KEY, Administration.DRAIN, keeping.clock.seconds(), 17.0)
        keeping.run(WRITE_EVERY_S)
        assert keeping.file.overrides == {WEB: DRAIN}
        keeping.bench.up()
        keeping.bench.receive(Unregister(80, 1))
        keeping.run(WRITE_EVERY_S)
        assert (keeping.file.rows, keeping.file.overrides) == ({}, {WEB: DRAIN})
        keeping.bench.pool.overrides.administer(KEY, Administration.READY, keeping.clock.seconds())
        keeping.run(WRITE_EVERY_S)
        assert keeping.file.overrides == {}

    def test_it_holds_again_before_the_back_end_gets_clients(self) -> None:
        keeping = Keeping({KEY: KNOWN}, {WEB: DRAIN})
        with logged() as events:
            keeping.start()
        assert "in force as before, by an operator: web 10.0.0.1:80 drain" in texts(events)
        keeping.run(2 * RTT_S)
        (backend,) = keeping.bench.pool
        assert (backend.state, backend.override, keeping.bench.pool.eligible) == (State.UP, DRAIN, [])
        keeping.run(10 * WRITE_EVERY_S)
        assert keeping.file.writes == 0

    def test_that_of_a_service_that_there_is_no_more_is_dropped(self) -> None:
        keeping = Keeping({}, {("mail", KEY): DRAIN})
        keeping.start()
        assert len(keeping.bench.pool.overrides) == 0
        keeping.bench.up()
        keeping.run(WRITE_EVERY_S)
        assert keeping.file.overrides == {}

    def test_one_line_names_a_few(self) -> None:
        overrides = {("web", (f"10.0.0.{number}", 80)): Override(weight=number) for number in range(1, 12)}
        keeping = Keeping({}, dict(overrides))
        with logged() as events:
            keeping.start()
        (line,) = texts(events)
        assert line.startswith("in force as before, by an operator: web 10.0.0.1:80 weight 1, web 10.0.0.2:80 weight 2")
        assert line.endswith("web 10.0.0.8:80 weight 8 and 3 more")

    def test_it_is_saved_at_once_where_that_is_asked_for(self) -> None:
        keeping = Keeping()
        keeping.start()
        keeping.bench.pool.overrides.weigh(KEY, 7, keeping.clock.seconds())
        saved = keeping.save()
        keeping.run(0.01)
        assert saved == [None]
        assert keeping.file.overrides == {WEB: Override(weight=7)}
        assert keeping.save() == [None]
        keeping.run(10 * WRITE_EVERY_S)
        assert keeping.file.writes == 1

    def test_what_is_said_during_a_write_is_saved_by_another_one(self) -> None:
        keeping = Keeping()
        keeping.hangs = True
        keeping.start()
        keeping.bench.pool.overrides.weigh(KEY, 7, keeping.clock.seconds())
        first = keeping.save()
        keeping.run(0.01)
        keeping.bench.pool.overrides.weigh(KEY, 8, keeping.clock.seconds())
        second, third = keeping.save(), keeping.save()
        keeping.hangs = False
        keeping.hanging.pop()()
        assert (first, second) == ([None], [])
        assert keeping.file.overrides == {WEB: Override(weight=7)}
        keeping.run(0.01)
        assert (second, third) == ([None], [None])
        assert (keeping.file.overrides, keeping.file.writes) == ({WEB: Override(weight=8)}, 2)

    def test_a_write_that_fails_keeps_nobody_waiting(self) -> None:
        keeping = Keeping()
        keeping.start()
        keeping.file.error = "No space left on device"
        keeping.bench.pool.overrides.weigh(KEY, 7, keeping.clock.seconds())
        saved = keeping.save()
        keeping.run(0.01)
        assert saved == [None]
        keeping.file.error = ""
        keeping.run(RETRY_S)
        assert keeping.file.overrides == {WEB: Override(weight=7)}

    @pytest.mark.parametrize("hangs", [False, True])
    def test_nor_does_a_stop_or_another_process_that_writes_the_file(self, *, hangs: bool) -> None:
        keeping = Keeping()
        keeping.hangs = hangs
        keeping.start()
        keeping.bench.pool.overrides.weigh(KEY, 7, keeping.clock.seconds())
        saved = [keeping.save(), keeping.save()]
        keeping.run(0.01)
        ended = keeping.stop()
        saved.append(keeping.save())
        keeping.hangs = False
        for write in keeping.hanging:
            write()
        keeping.run(0.01)
        assert (saved, ended) == ([[None]] * 3, [None])
        assert keeping.file.overrides == {WEB: Override(weight=7)}

        replaced = Keeping()
        replaced.start()
        replaced.file.error = TAKEN_OVER
        replaced.bench.pool.overrides.weigh(KEY, 7, replaced.clock.seconds())
        saved = [replaced.save()]
        replaced.run(0.01)
        saved.append(replaced.save())
        assert saved == [[None], [None]]
