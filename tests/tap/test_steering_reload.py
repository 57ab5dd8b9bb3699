"""What operators say, over reloads and the proxy's own restart."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import cast

import attrs
import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rproxy.admin.control import Refusal, Target
from rproxy.config.model import BackendConfig
from rproxy.net.addresses import Address
from rproxy.pool.states import Administration, Override
from rproxy.sources.saved.keeper import Keeper
from rproxy.sources.saved.overrides import SavedOverrides
from rproxy.sources.saved.rows import Saved, encoded
from rproxy.tap.steering import SAVE_S
from rproxy.wire.pdu import Register, Unregister
from rproxy.wire.pdu import encode as packed
from tests.fakes import logged, run, texts
from tests.tap.services import AGENT, ProxyBench, ended
from tests.tap.test_reload import OTHER, Reloaded
from tests.tap.test_several_services import DB, WEB

FIRST: Address = (AGENT[0], 80)


def drain(bench: Reloaded, service: str, backend: str) -> None:
    bench.service._steering.drain(Target(service, backend))


def administrations(bench: Reloaded) -> dict[tuple[str, str], str]:
    rows = bench.service.status()["backends"]
    return {(row["service"], row["address"]): row["administration"] for row in rows if row["state"] != "departed"}


def test_a_word_holds_over_a_reload() -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    drain(bench, "web", "10.0.0.1:80")
    bench.service._steering.weigh(Target("web", "10.0.0.1:80"), 7)
    bench.apply(attrs.evolve(WEB, policy="random", wait_s=1.0))
    bench.settle()
    (row,) = bench.service.status()["backends"]
    assert (row["state"], row["administration"], row["weight"]) == ("draining", "drain", 7)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_word_follows_a_back_end_that_is_another_services_now(*, is_there: bool) -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    drain(bench, "web", "10.0.0.1:80")
    if not is_there:
        bench.service.monitor.datagramReceived(packed(Unregister(80, 80)), AGENT)
    site = attrs.evolve(WEB, name="site")
    bench.apply(site)
    bench.settle()
    if not is_there:
        run(bench.reactor, 1)
        bench.service.monitor.datagramReceived(packed(Register(80, 20_000, instance=81)), AGENT)
        bench.answer()
    assert administrations(bench) == {("site", "10.0.0.1"): "drain"}
    bench.service._steering.ready(Target("site", "10.0.0.1:80"))
    bench.apply(WEB)
    bench.settle()
    assert administrations(bench) == {("web", "10.0.0.1"): "ready"}


def test_a_word_stays_where_its_back_end_stays_and_leaves_others_as_they_are() -> None:
    other = attrs.evolve(WEB, name="other", listen=("8081",))
    bench = Reloaded(WEB, other)
    bench.backend_up(80)
    drain(bench, "web", "10.0.0.1:80")
    before = {("web", "10.0.0.1"): "drain", ("other", "10.0.0.1"): "ready"}
    assert administrations(bench) == before
    bench.apply(WEB, attrs.evolve(other, listen=("8082",)))
    bench.settle()
    assert administrations(bench) == before
    bench.apply(attrs.evolve(WEB, allow=(ip_network(f"{OTHER[0]}/32"),)), other)
    bench.settle()
    assert administrations(bench) == {("other", "10.0.0.1"): "ready"}


def test_that_of_a_configured_back_end_follows_it_as_well() -> None:
    backends = (BackendConfig(("10.0.0.1", 80), check="none"),)
    web, db = attrs.evolve(WEB, backends=backends), attrs.evolve(DB, takes_agents=False)
    bench = Reloaded(web, db)
    run(bench.reactor, 1)
    drain(bench, "web", "10.0.0.1:80")
    bench.apply(WEB, attrs.evolve(db, backends=backends))
    run(bench.reactor, 1)
    (row,) = bench.service.status()["backends"]
    assert (row["service"], row["state"]) == ("db", "draining")


def test_what_was_said_before_a_restart_holds_before_the_first_client(tmp_path: Path) -> None:
    state = tmp_path / "state"
    overrides: SavedOverrides = {("default", FIRST): Override(Administration.DRAIN, 7, 17.0)}
    state.write_bytes(b"".join(encoded(Saved(overrides=overrides), 10)))
    backends = (BackendConfig(FIRST, check="none"),)
    bench = ProxyBench(listen=("8080",), backends=backends, state_file=str(state))
    bench.start()
    run(bench.reactor, 1)
    (row,) = bench.service.status()["backends"]
    assert (row["state"], row["weight"]) == ("draining", 7)


@attrs.define
class Keeping:
    """A keeper of a state file that is written when the test says so."""

    saved: Deferred[None]
    taken_over: bool = False

    def save(self) -> Deferred[None]:
        return self.saved


def test_a_process_that_is_replaced_takes_no_words_any_more() -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    steering, target = bench.service._steering, Target("web", "10.0.0.1:80")
    steering.keeper = cast(Keeper, Keeping(Deferred(), taken_over=True))
    for call in (steering.drain, steering.maint, steering.ready, lambda target: steering.weigh(target, 7)):
        with pytest.raises(Refusal, match="another process takes over from this one"):
            call(target)
    assert administrations(bench) == {("web", "10.0.0.1"): "ready"}
    assert ended(steering.shed(target, 1)) == [0]


def test_who_turns_out_to_be_replaced_when_a_word_is_saved_says_so() -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    keeping = Keeping(Deferred())
    bench.service._steering.keeper = cast(Keeper, keeping)
    done = bench.service._steering.drain(Target("web", "10.0.0.1:80"))
    keeping.taken_over = True
    keeping.saved.callback(None)
    failed: list[Failure] = []
    done.addErrback(failed.append)
    assert [failure.check(Refusal) for failure in failed] == [Refusal]


@pytest.mark.parametrize("late", [True, False])
def test_an_operator_waits_for_the_state_file_but_not_for_long(*, late: bool) -> None:
    bench = Reloaded(WEB)
    bench.backend_up(80)
    saved: Deferred[None] = Deferred()
    bench.service._steering.keeper = cast(Keeper, Keeping(saved))
    done = ended(bench.service._steering.drain(Target("web", "10.0.0.1:80")))
    assert administrations(bench) == {("web", "10.0.0.1"): "drain"}
    with logged() as events:
        run(bench.reactor, SAVE_S - 0.1)
        assert done == []
        if late:
            run(bench.reactor, 0.2)
        saved.callback(None)
        run(bench.reactor, 0.2)
    assert done == [None]
    said = "what an operator said is in force, but not in the state file yet"
    assert texts(events).count(said) == late
