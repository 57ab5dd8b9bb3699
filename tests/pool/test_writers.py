"""The pool alone writes to back-ends and calls the policy, as read in the source and as seen while it runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import attrs
import pytest
from twisted.internet.task import Clock

from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend, Counts, Health, Probing, Static, StaticTerms
from rproxy.pool.estimators import LossWindow, PoolMeans, Report, SmoothedRtt
from rproxy.pool.states import Administration, State
from rproxy.sessions.endings import Ending
from rproxy.tap.service import serve_pool
from rproxy.wire.agent_check import read
from rproxy.wire.pdu import Unregister
from tests.fakes import LinkedSessions, run
from tests.sources.monitoring import Bench

ROOT: Final = Path(__file__).parents[2] / "rproxy"
RECORDS: Final = (Backend, Counts, Health, Probing, Report, SmoothedRtt, LossWindow, PoolMeans, Static)
FIELDS: Final = {field.name for record in RECORDS for field in attrs.fields(record)}
"""Names that only the pool assigns to, but through `self`, which is another object elsewhere."""
OTHERS_FIELDS: Final = {
    ("agent/draining.py", "agent.draining"),
    ("net/udp_port.py", "port.port"),
    ("net/endpoints.py", "setattr"),
    ("carriers/portable/wrappers.py", "setattr"),
    ("sessions/first_byte.py", "watch.answered_at"),
    *(
        (f"carriers/splice/{module}.py", f"{leg}.state")
        for module in ("connect", "dispatch", "endings", "headers", "transfer")
        for leg in ("leg", "peer", "client", "backend", "source", "target", "target.peer")
    ),
}
"""What is assigned to fields of the same names of other objects: the agent, ports and transports, a watch, and the
splice legs, of which `backend` is one.
"""
CONTAINERS: Final = {"outstanding", "eligible", "losses", "rtt", "means", "report", "health", "counts", "probing"}
"""Attributes of a back-end or of the pool whose own methods may change them."""
CHANGES: Final = {"add", "append", "clear", "contribute", "discard", "extend", "insert", "pop", "remove", "replace"}
CHANGES_ANYTHING: Final = {"setattr", "delattr", "__setattr__", "__delattr__"}
POOLS_OWN: Final = {"_rows", "_eligibility", "_registrations", "_fallback", "_candidates"}
"""Parts of the pool that it alone calls."""
POLICYS: Final = {"reported", "opened", "failed", "closed", "choose"}


def writes(source: str) -> Iterator[str]:
    """Whatever may change a back-end or the pool's parts, by whatever name these go."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()) if node.attr in FIELDS and not is_self(node.value):
                yield ast.unparse(node)
            case ast.Subscript(value=ast.Attribute() as changed, ctx=ast.Store() | ast.Del()):
                if changed.attr in FIELDS | CONTAINERS and not is_self(changed.value):
                    yield ast.unparse(changed)
            case ast.Call(func=ast.Attribute(attr=method, value=ast.Attribute() as changed)):
                changes = method in CHANGES and changed.attr in CONTAINERS and not is_self(changed.value)
                if changes or method in CHANGES_ANYTHING:
                    yield ast.unparse(node.func)
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)) if name in CHANGES_ANYTHING:
                yield ast.unparse(node.func)
            case ast.Attribute() if node.attr in POOLS_OWN and not is_self(node.value):
                yield ast.unparse(node)


def is_self(expression: ast.expr) -> bool:
    return isinstance(expression, ast.Name) and expression.id == "self"


def policy_calls(source: str) -> Iterator[str]:
    """Methods of a policy, called or taken for a call, on what is named after one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in POLICYS and "policy" in ast.unparse(node.value).lower():
            yield ast.unparse(node)


def others() -> list[tuple[str, str]]:
    """Every module outside the pool: its path and its text."""
    paths = [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] != "pool"]
    return [(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def test_no_other_room_writes_to_a_back_end() -> None:
    found = {(path, write) for path, text in others() for write in writes(text)}
    assert found - OTHERS_FIELDS == set()


def test_no_other_room_calls_a_policy() -> None:
    assert [(path, call) for path, text in others() for call in policy_calls(text)] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("backend.state = State.UP", ["backend.state"]),
        ("each.share = 1", ["each.share"]),
        ("self.backend.counts.pending += 1", ["self.backend.counts.pending"]),
        ("health = backend.health\nhealth.misses = 0", ["health.misses"]),
        ("a, (b, *x.share) = 1, (2, 3)", ["x.share"]),
        ("x.slot: int = 1", ["x.slot"]),
        ("for x.slot in y: pass", ["x.slot"]),
        ("with y as x.slot: pass", ["x.slot"]),
        ("[1 for x.slot in y]", ["x.slot"]),
        ("del x.registration", ["x.registration"]),
        ("x.means[0] = 1", ["x.means"]),
        ("backend.probing.outstanding.clear()", ["backend.probing.outstanding.clear"]),
        ("backend.losses.add(lost=True)", ["backend.losses.add"]),
        ("self._pool.eligible.append(backend)", ["self._pool.eligible.append"]),
        ("setattr(backend, name, 1)", ["setattr"]),
        ("object.__setattr__(backend, name, 1)", ["object.__setattr__"]),
        ("super(A, a).__setattr__(name, 1)", ["super(A, a).__setattr__"]),
        ("self._pool._rows.transition(backend)", ["self._pool._rows"]),
        ("self.state = 1", []),
        ("self.report.add(1)", []),
        ("x = backend.state", []),
    ],
)
def test_every_way_to_write_is_found(source: str, found: list[str]) -> None:
    assert list(writes(source)) == found


def test_a_call_of_a_policy_is_found() -> None:
    assert list(policy_calls("self._policy.reported(backend)")) == ["self._policy.reported"]
    assert list(policy_calls("told = policy.opened")) == ["policy.opened"]


def test_what_observers_read_of_a_back_end_cannot_be_assigned() -> None:
    """Its properties have no setter, and its records have no fields but those checked above."""
    properties = [each for each in vars(Backend).values() if isinstance(each, property)]
    assert [each for each in properties if each.fset is not None] == []
    assert {"pending", "established", "total", "misses", "refusals", "refusing", "hold_s", "held_until"} <= FIELDS
    assert [record for record in RECORDS if "__dict__" in dir(record)] == []


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The modules that assign to records while the test runs, and to which of them."""
    seen: dict[str, set[str]] = {}

    def assign(record: object, name: str, value: object) -> None:
        frame = sys._getframe(1)
        if not frame.f_code.co_filename.startswith("<attrs generated"):  # its __init__
            seen.setdefault(frame.f_globals["__name__"], set()).add(type(record).__name__)
        object.__setattr__(record, name, value)

    for record in RECORDS:
        monkeypatch.setattr(record, "__setattr__", assign)
    return seen


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_while_agents_sessions_and_operators_come_and_go_only_the_pool_writes(
    name: str, writers: dict[str, set[str]]
) -> None:
    bench = Bench(policy=POLICIES[name]({}, Random(1)), trace=True, panic_below=0.5)
    served = serve_pool(bench.pool, bench.clock, trace=True, publish=bench.publish)
    sessions = LinkedSessions(served.service)
    hosts = [(f"10.0.0.{number}", 5555) for number in range(1, 5)]
    first, second, third, _ = (bench.up(host) for host in hosts)
    live(bench.clock, sessions, 20)
    bench.silent |= {hosts[0][0], hosts[1][0]}
    run(bench.clock, 20.0)
    assert {first.state, second.state} == {State.DOWN}
    live(bench.clock, sessions, 20)
    bench.silent.clear()
    run(bench.clock, 30.0)
    bench.publish(bench.pool.administer(third, Administration.DRAIN, bench.clock.seconds()))
    pool = bench.pool
    bench.publish(pool.static.put(("10.0.0.9", 80), StaticTerms(100), bench.clock.seconds()))
    static = bench.backend("10.0.0.9")
    bench.publish(pool.static.checked(static, bench.clock.seconds(), rtt_ms=0.5))
    bench.publish(pool.static.said(static, read("50% drain"), bench.clock.seconds()))
    bench.receive(Unregister(80, 1), hosts[3])
    bench.monitor.exclude(second)
    run(bench.clock, 20.0)
    assert (first.state, len(bench.pool)) == (State.UP, 3)
    bench.stop()
    served.stop()
    assert {writer for writer in writers if not writer.startswith("rproxy.pool.")} == set()
    assert set().union(*writers.values()) == {record.__name__ for record in RECORDS}


def live(clock: Clock, sessions: LinkedSessions, many: int) -> None:
    """So many sessions, one after the other, connect, or fail to, carry bytes, and end."""
    for number in range(many):
        session = sessions.open()
        assert session.choose_backend() is not None
        if number % 4:
            session.connected()
            session.down = number
            run(clock, 0.2)
        else:
            session.connect_failed()
        session.ended(Ending.CLOSED)
