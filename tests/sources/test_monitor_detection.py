"""What the monitor makes of time away, of a pool that is mostly down, and of operators; on a clock of its own."""

from __future__ import annotations

from collections import Counter

import pytest

from rproxy.net.addresses import Address
from rproxy.policies.registry import POLICIES
from rproxy.pool.backend import Backend
from rproxy.pool.states import Administration, State
from rproxy.sources.agents.prober import Timing
from rproxy.wire.pdu import Pdu, ProbeRequest, Register, Unregister
from tests.fakes import AGENT_PORT, RaisingPolicy, logged, run, texts
from tests.policies.balancing import policy
from tests.sources.monitoring import AGENT, RTT_S, Bench, transitions

HOSTS = [f"10.0.0.{number}" for number in range(1, 5)]


def pool(bench: Bench) -> list[Backend]:
    return [bench.up((host, AGENT_PORT)) for host in HOSTS]


@pytest.mark.parametrize("away_s", [0.6, 2.0, 15.0, 3600.0])
def test_no_back_end_goes_down_while_this_process_is_away(away_s: float) -> None:
    """The answers of that time are read only afterwards, when their time has passed."""
    bench = Bench(timing=Timing(probe_interval_s=0.2))
    backends = pool(bench)
    run(bench.clock, 3)
    with logged() as events:
        for _ in range(5):
            bench.clock.advance(away_s)
            run(bench.clock, 3)
    assert [backend.state for backend in backends] == [State.UP] * len(HOSTS)
    assert [backend.losses.rate for backend in backends] == [0] * len(HOSTS)
    run(bench.clock, 60)
    lines = texts(events)
    assert 1 <= len(lines) <= 6
    assert all(line.startswith("this process was away") for line in lines)


def test_one_that_dies_meanwhile_is_noticed_afterwards() -> None:
    bench = Bench()
    backends = pool(bench)
    bench.silent.add(HOSTS[0])
    bench.clock.advance(60)
    run(bench.clock, 8)
    assert [backend.state for backend in backends] == [State.DOWN] + [State.UP] * 3


@pytest.mark.parametrize(("away_s", "there_s"), [(0.3, 0.3), (0.9, 0.1), (1.5, 0.3), (1.9, 0.1)])
def test_one_that_dies_is_noticed_though_this_process_is_away_again_and_again(away_s: float, there_s: float) -> None:
    """Within twice the time that it takes otherwise, and no other one is lost meanwhile."""
    bench = Bench()
    dead, *others = pool(bench)
    run(bench.clock, 20)
    bench.silent.add(HOSTS[0])
    died_at = bench.clock.seconds()
    with logged() as events:
        while dead.state is not State.DOWN:
            bench.clock.advance(away_s)
            run(bench.clock, there_s)
            assert bench.clock.seconds() - died_at < 2 * 8.4
        assert [(backend.state, backend.losses.rate) for backend in others] == [(State.UP, 0)] * 3
    assert sum("was away" in text for text in texts(events)) <= 1


def test_a_probe_on_its_way_through_a_time_away_has_so_much_longer() -> None:
    bench = Bench()
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 5.1)
    bench.clock.advance(2)
    assert backend.health.misses == 0
    run(bench.clock, 0.5)
    assert backend.health.misses == 1


def test_a_registration_that_is_not_answered_in_a_time_away_earns_no_second_probe() -> None:
    bench = Bench()
    bench.silent.add(AGENT[0])
    bench.register()
    bench.clock.advance(2)
    run(bench.clock, 20)
    assert len(bench.transport.sent) == 1
    assert len(bench.pool) == 0


def test_in_a_panic_the_policy_is_told_of_all_that_may_get_a_client() -> None:
    bench = Bench(panic_below=0.5)
    backends = pool(bench)
    bench.silent.update(HOSTS[:3])
    told = bench.policy.told["reported"]
    run(bench.clock, 6)
    before = {backend: told[backend] for backend in backends}
    with logged() as events:
        run(bench.clock, 3)
    assert set(bench.pool.eligible) == set(backends)
    assert all(told[backend] > before[backend] for backend in backends)
    assert sum("less than half of the back-ends are up" in text for text in texts(events)) == 1


def test_a_panic_is_over_with_one_line() -> None:
    bench = Bench(panic_below=0.5)
    pool(bench)
    bench.silent.update(HOSTS[:3])
    run(bench.clock, 10)
    assert bench.pool.panicking
    bench.silent.clear()
    with logged() as events:
        run(bench.clock, 20)
    assert not bench.pool.panicking
    assert "at least half of the back-ends are up again" in texts(events)


def test_one_that_misses_in_a_panic_is_not_passed_over_again_and_again() -> None:
    bench = Bench(panic_below=0.5)
    (backend, *_) = pool(bench)
    bench.silent.update(HOSTS)
    run(bench.clock, 10)
    failed = bench.policy.told["failed"][backend]
    run(bench.clock, 20)
    assert bench.policy.told["failed"][backend] == failed


def test_one_that_refuses_in_a_panic_is_told_of_when_its_hold_down_is_over() -> None:
    bench = Bench(panic_below=0.5)
    backend = bench.up()
    bench.silent.add(AGENT[0])
    run(bench.clock, 10)
    for _ in range(3):
        bench.pool.refused(backend, bench.clock.seconds())
    assert bench.pool.eligible == []
    told = bench.policy.told["reported"][backend]
    run(bench.clock, backend.health.hold_s - 1)
    assert (bench.pool.eligible, bench.policy.told["reported"][backend]) == ([], told)
    run(bench.clock, 6.6)
    assert bench.pool.eligible == [backend]
    assert bench.policy.told["reported"][backend] > told


def test_the_policy_is_told_of_one_that_is_forgotten() -> None:
    bench = Bench()
    backend = bench.up()
    told = bench.policy.told["reported"][backend]
    bench.receive(Unregister(80, 1))
    assert bench.policy.told["reported"][backend] == told + 1


def test_the_policy_is_not_told_of_what_somebody_registers_in_a_back_ends_name() -> None:
    """It would take that for a sign of life from one that has just missed a probe."""
    bench = Bench()
    backend = bench.up()
    bench.silent.add(AGENT[0])
    told = bench.policy.told["reported"][backend]
    bench.register((AGENT[0], 6666), instance=2)
    assert bench.policy.told["reported"][backend] == told
    bench.register(interval_ms=30_000)
    assert bench.policy.told["reported"][backend] == told + 1


def test_agents_that_start_again_and_again_cost_one_log_line_in_ten_seconds() -> None:
    bench = Bench()
    bench.up()
    with logged() as events:
        for instance in range(2, 32):
            bench.register(instance=instance)
            run(bench.clock, 1)
    assert 3 <= len(texts(events)) <= 4
    assert {text.partition(" (")[0] for text in texts(events)} == {"back-end 10.0.0.1:80: its agent was started again"}
    assert "(10 times since the last line)" in texts(events)[-1]


@pytest.mark.parametrize("broken", ["failed", "reported"])
def test_a_policy_that_fails_is_logged_once_in_ten_seconds_and_keeps_no_rule_from_acting(broken: str) -> None:
    policy = RaisingPolicy(broken)
    bench = Bench(policy=policy)
    with logged() as events:
        backend = bench.up()
        run(bench.clock, 12)
        assert backend.share == 1
        bench.silent.add(AGENT[0])
        run(bench.clock, 8.6)
        assert backend.state is State.DOWN
        bench.silent.clear()
        run(bench.clock, 20)
    assert bench.pool.eligible == [backend]
    failures = [text for text in texts(events) if text.startswith("the policy failed")]
    assert 1 <= len(failures) <= 5


def test_an_agent_that_drains_is_logged_when_that_changes() -> None:
    bench = Bench()
    with logged() as events:
        bench.up()
        for draining in (True, True, False, False):
            bench.answer["draining"] = draining
            run(bench.clock, 10)
    assert [text for text in texts(events) if "asks for" in text] == [
        "back-end 10.0.0.1:80: its agent asks for no new clients: it drains, or its service fails its check",
        "back-end 10.0.0.1:80: its agent asks for clients again",
    ]


def test_an_agent_that_changes_its_mind_again_and_again_costs_one_log_line_in_ten_seconds() -> None:
    bench = Bench(timing=Timing(probe_interval_s=0.2))
    bench.up()
    with logged() as events:
        for number in range(150):
            bench.answer["draining"] = bool(number % 2)
            run(bench.clock, 0.2)
        run(bench.clock, 20)
    assert 2 <= len(texts(events)) <= 5
    assert "no new clients" in texts(events)[-1]


def test_what_an_agent_asks_for_last_is_logged_when_ten_seconds_are_over() -> None:
    bench = Bench(timing=Timing(probe_interval_s=0.2))
    bench.up()
    with logged() as events:
        for draining in (True, False):
            bench.answer["draining"] = draining
            run(bench.clock, 1)
        assert [text for text in texts(events) if "clients again" in text] == []
        run(bench.clock, 10)
        assert "clients again" in texts(events)[-1]
        bench.answer["draining"] = True
        run(bench.clock, 1)
        bench.answer["draining"] = False
        run(bench.clock, 60)
    assert len(texts(events)) == 2, "in the end it was what the log said"


def test_an_operators_word_is_logged_and_told_to_the_policy() -> None:
    bench = Bench()
    backend = bench.up()
    told = bench.policy.told["reported"][backend]
    with logged() as events:
        bench.publish(bench.pool.administer(backend, Administration.DRAIN, bench.clock.seconds()))
        assert bench.pool.eligible == []
        bench.publish(bench.pool.administer(backend, Administration.READY, bench.clock.seconds()))
    assert bench.pool.eligible == [backend]
    assert bench.policy.told["reported"][backend] == told + 2
    assert texts(events) == [f"back-end 10.0.0.1:80: {word} (by an operator)" for word in ("drain", "ready")]


def test_a_lost_probe_and_the_answer_to_the_next_one_are_no_line() -> None:
    bench = Bench()
    bench.up()
    bench.silent.add(AGENT[0])
    with logged() as events:
        run(bench.clock, 5.6)
        bench.silent.clear()
        run(bench.clock, 5)
    assert list(events) == []


def test_its_share_grows_once_a_second_and_the_policy_is_told() -> None:
    bench = Bench(timing=Timing(probe_interval_s=60, liveness_s=120))
    backend = bench.up()
    told = bench.policy.told["reported"][backend]
    shares = []
    for _ in range(12):
        run(bench.clock, 1)
        shares.append(backend.share)
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1])
    assert bench.policy.told["reported"][backend] == told + 10


def test_strangers_are_probed_fifty_times_a_second_at_most_each_once_and_in_their_order() -> None:
    bench = Bench()
    strangers = [f"192.0.2.{number}" for number in range(1, 151)]
    bench.silent.update(strangers)
    for stranger in strangers:
        bench.receive(Register(80, 20_000, 1), (stranger, AGENT_PORT))
    run(bench.clock, 10)
    assert [address for _, (address, _) in bench.transport.sent] == strangers
    for first, last in zip(bench.probed_at, bench.probed_at[50:], strict=False):
        assert last - first >= 1 - 1e-6


def test_a_confirmed_back_end_is_probed_while_strangers_wait() -> None:
    bench = Bench()
    backend = bench.up()
    strangers = [f"192.0.2.{number}" for number in range(1, 251)]
    bench.silent.update(strangers)
    for stranger in strangers[:190]:
        bench.receive(Register(80, 20_000, 1), (stranger, AGENT_PORT))
    run(bench.clock, 20)
    assert (backend.state, backend.losses.rate) == (State.UP, 0)
    sent = zip(bench.probed_at, bench.transport.sent, strict=True)
    asked_at = [at for at, (_, (address, _)) in sent if address == AGENT[0]]
    assert asked_at == pytest.approx([0, 5, 10, 15, 20], abs=2 * RTT_S)


def test_one_taken_down_by_refused_connects_is_announced_like_any_other() -> None:
    bench = Bench()
    backend = bench.up()
    with logged() as events:
        for _ in range(3):
            bench.publish(bench.pool.refused(backend, bench.clock.seconds()))
    assert transitions(events) == [("up", "down")]
    assert "3 connects in a row failed" in texts(events)[0]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_in_a_panic_those_that_are_down_get_their_share(name: str) -> None:
    """Neither misses nor a connect that failed are held against them for ever: nothing else will be heard of them."""
    chosen_by = policy(name)
    bench = Bench(panic_below=0.5, policy=chosen_by)
    backends = pool(bench)
    run(bench.clock, 20)
    bench.silent.update(HOSTS[:3])
    run(bench.clock, 10)
    chosen_by.failed(backends[0], bench.clock.seconds())
    run(bench.clock, 6)
    assert bench.pool.panicking
    served = Counter[Backend]()
    for _ in range(40):
        backend = bench.pool.choose(bench.clock.seconds())
        assert backend is not None
        served[backend] += 1
    assert min(served[backend] for backend in backends) >= 4


def test_a_dead_back_end_whose_registration_is_repeated_is_forgotten_and_ends_the_panic() -> None:
    bench = Bench(panic_below=0.5)
    dead, other, *rest = pool(bench)
    for each in rest:
        bench.receive(Unregister(80, 1), (each.address, AGENT_PORT))
    bench.silent.add(dead.address)
    silent_alike = bench.up(("10.0.0.9", AGENT_PORT))
    bench.silent.add(silent_alike.address)
    run(bench.clock, 10)
    assert bench.pool.panicking
    for _ in range(60):
        bench.register((dead.address, AGENT_PORT))
        run(bench.clock, 1)
    assert (dead.state, silent_alike.state) == (State.FORGOTTEN, State.FORGOTTEN)
    assert not bench.pool.panicking
    assert bench.pool.eligible == [other]


def test_a_registration_is_no_sign_of_life_for_the_policy() -> None:
    bench = Bench()
    backend = bench.up()
    run(bench.clock, 12)
    bench.silent.add(AGENT[0])
    run(bench.clock, 5.7)
    assert backend.state is State.SUSPECT
    told = bench.policy.told["reported"][backend]
    bench.register()
    assert bench.policy.told["reported"][backend] == told


def test_what_departs_leaves_no_timer_and_is_forgotten_with_its_last_session() -> None:
    bench = Bench()
    backend = bench.up()
    assert bench.pool.choose(bench.clock.seconds()) is backend
    with logged() as events:
        bench.receive(Unregister(80, 1))
        assert (backend.state, bench.timers) == (State.DEPARTED, 0)
        run(bench.clock, 100)
        bench.publish(bench.pool.closed(backend, bench.clock.seconds(), was_connected=False, served_s=None))
    assert transitions(events) == [("up", "departed"), ("departed", "forgotten")]
    assert len(bench.pool) == 0


@pytest.mark.parametrize("answers", [True, False])
def test_one_that_registers_again_is_probed_and_taken_over_only_if_it_answers(answers: bool) -> None:
    bench = Bench()
    backend = bench.up()
    assert bench.pool.choose(bench.clock.seconds()) is backend
    bench.receive(Unregister(80, 1))
    if not answers:
        bench.silent.add(AGENT[0])
    bench.register(instance=2)
    run(bench.clock, 1)
    assert (backend.state, backend.connections) == ((State.UP if answers else State.DEPARTED), 1)
    if not answers:
        run(bench.clock, 60)
        assert bench.timers == 0
        assert len(bench.transport.sent) == 2


def test_replays_of_a_hosts_old_registrations_do_not_keep_its_agent_out() -> None:
    """A proxy that has just been restarted; agents of the second edition answer for their present start alone."""
    bench = Bench()
    hosts = [f"10.0.0.{number}" for number in range(1, 25)]

    def answer(pdu: Pdu, address: Address) -> None:
        if isinstance(pdu, ProbeRequest) and pdu.instance_tag == 99 and address[1] == AGENT_PORT:
            bench._answer(pdu, address)

    bench.transport.on_write = answer
    for step in range(150):
        for number, host in enumerate(hosts):
            for instance in range(1, 6):
                bench.receive(Register(80, 20_000, instance), (host, AGENT_PORT))
                bench.receive(Register(80, 20_000, instance), (host, 1024 + (step * 31 + number) % 60_000))
                bench.receive(Unregister(80, instance), (host, AGENT_PORT))
            if step == 50 + 2 * number:
                bench.receive(Register(80, 20_000, 99), (host, AGENT_PORT))
        run(bench.clock, 0.1)
    assert len(bench.pool.eligible) == len(hosts)
    assert {backend.registration.instance for backend in bench.pool.eligible} == {99}
    strangers = [at for at in bench.probed_at if at < 5]
    assert len(strangers) <= 5 * 50 + 1
