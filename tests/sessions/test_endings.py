"""The ways in which a session ends."""

from __future__ import annotations

from rproxy.sessions.endings import Ending


def test_an_ending_is_the_name_of_a_counter() -> None:
    counts = {ending: number for number, ending in enumerate(Ending)}
    assert {str(ending): number for ending, number in counts.items()} == counts
    assert counts["backend-reset"] == counts[Ending.BACKEND_RESET]  # type: ignore[index]
    assert {hash(ending) for ending in Ending} == {hash(str(ending)) for ending in Ending}
