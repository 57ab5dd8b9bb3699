from __future__ import annotations

import json

from rproxy.observe.shadow_json import ROWS, ComparedPolicies, ShadowStatus
from rproxy.policies.registry import POLICIES
from rproxy.policies.shadow import Shadow
from tests.policies.balancing import Balance, policy
from tests.policies.test_shadow import Always, no_failure


def status_of(*compared: ComparedPolicies, now: float) -> ShadowStatus:
    return ShadowStatus(lambda: compared, lambda: now)


def test_both_policies_and_each_back_end_are_shown() -> None:
    shadow = Shadow(Always(), policy("least-connections"), no_failure)
    balance = Balance(shadow)
    first, second = balance.all_up(2, weight=50)
    balance.serve(4, held=True)
    document = status_of(ComparedPolicies("web", "always", "least-connections", shadow), now=balance.now).document()
    (service,) = document["services"]
    assert service.pop("backends") == [
        {
            "backend": backend.name,
            "weight": 50,
            "compared": True,
            "acting": {"sessions": acting, "choices": acting, "choices_minute": acting},
            "shadow": {"sessions": 2, "choices": 2, "choices_minute": 2},
        }
        for backend, acting in ((first, 4), (second, 0))
    ]
    even = {"mean": 4.0, "max": 4.0, "deviation": 0.0}
    herd = {"mean": 4.0, "max": 8.0, "deviation": 4.0}
    assert service == {
        "service": "web",
        "choices": 4,
        "differed": 2,
        "unplaced": 0,
        "failures": 0,
        "minute": {"choices": 4, "differed": 2},
        "acting": {
            "policy": "always",
            "sessions": {"now": herd, "minute": {"max": 8.0, "deviation": 1.5}, "all": {"max": 8.0, "deviation": 1.5}},
            "choices": {"minute": herd, "all": herd},
        },
        "shadow": {
            "policy": "least-connections",
            "sessions": {"now": even, "minute": {"max": 4.0, "deviation": 0.5}, "all": {"max": 4.0, "deviation": 0.5}},
            "choices": {"minute": even, "all": even},
        },
    }


def test_what_is_over_for_a_minute_remains_in_all() -> None:
    shadow = Shadow(Always(), Always(last=True), no_failure)
    balance = Balance(shadow)
    balance.all_up(2)
    balance.serve(2, held=False)
    ((service,),) = status_of(ComparedPolicies("a", "b", "c", shadow), now=balance.now + 100.0).document().values()
    assert (service["choices"], service["minute"]) == (2, {"choices": 0, "differed": 0})
    choices = service["acting"]["choices"]
    assert (choices["minute"]["max"], choices["all"]) == (0.0, {"mean": 1.0, "max": 2.0, "deviation": 1.0})


def test_one_that_can_get_no_clients_is_shown_but_not_compared() -> None:
    shadow = Shadow(Always(last=True), Always(), no_failure)
    balance = Balance(shadow)
    first, last = balance.all_up(2)
    balance.serve(2, held=False)
    balance.report(last, draining=True)
    ((service,),) = status_of(ComparedPolicies("a", "b", "c", shadow), now=balance.now).document().values()
    assert [(row["backend"], row["compared"]) for row in service["backends"]] == [
        (first.name, True),
        (last.name, False),
    ]
    assert service["acting"]["choices"]["all"]["max"] == 0.0


def test_without_a_shadow_there_is_no_service() -> None:
    assert list(status_of(now=0.0).rendered()) == [b'{"services": []}\n']


def test_a_service_without_back_ends_is_shown() -> None:
    shadow = Shadow(Always(), Always(), no_failure)
    both = [ComparedPolicies(name, "b", "c", shadow) for name in ("one", "two")]
    services = status_of(*both, now=0.0).document()["services"]
    assert [(each["service"], each["backends"]) for each in services] == [("one", []), ("two", [])]


def test_many_back_ends_are_rendered_in_pieces_while_they_come_and_go() -> None:
    shadow = Shadow(policy("round-robin"), policy("random"), no_failure)
    balance = Balance(shadow)
    backends = balance.all_up(2 * ROWS + 1)
    balance.serve(50, held=False)
    pieces = []
    for number, piece in enumerate(status_of(ComparedPolicies("a", "b", "c", shadow), now=balance.now).rendered()):
        pieces.append(piece)
        balance.unregister((backends[-1 - number].address, 5555))
        balance.open()
    assert len(pieces) == 4
    (service,) = json.loads(b"".join(pieces))["services"]
    assert len(service["backends"]) == len(backends)


def test_every_built_in_policy_can_be_the_shadow_of_any_service() -> None:
    for name in POLICIES:
        shadow = Shadow(Always(), policy(name), no_failure)
        balance = Balance(shadow)
        balance.all_up(3)
        balance.serve(30, held=True)
        (service,) = status_of(ComparedPolicies("a", "b", name, shadow), now=balance.now).document()["services"]
        assert sum(row["shadow"]["sessions"] for row in service["backends"]) == 30
