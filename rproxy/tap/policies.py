"""The policy that `--policy` names: built in, or any installed package's."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from twisted.logger import Logger
from twisted.python import usage

from rproxy.policies.registry import POLICIES, PolicyFactory
from rproxy.policies.weighted_random import Rng
from rproxy.pool.policy import Policy
from rproxy.timing.rate_limit import RateLimit

ENTRY_POINTS: Final = "rproxy.policies"
METHODS: Final = ("choose", "opened", "closed", "failed", "reported")
LOG_EVERY_S: Final = 10.0


class Complaints:
    """Logs the exception being handled, one in `LOG_EVERY_S` seconds."""

    log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._throttle = RateLimit.once_in(LOG_EVERY_S)

    def __call__(self) -> None:
        if self._throttle.admit(self._seconds()):
            self.log.failure("the policy failed; further failures in the next seconds are not logged")


def make_policy(name: str, saturation: float | None, rng: Rng) -> Policy:
    """The policy of that name. Raises `UsageError`, whatever is wrong with it."""
    factory = policy_factory(name)
    try:
        policy = factory(saturation, rng)
    except BaseException as error:
        raise usage.UsageError(f"--policy {name}: it cannot be made: {_told(error)}") from error
    missing = [method for method in METHODS if not _has(policy, method)]
    if missing:
        raise usage.UsageError(
            f"--policy {name}: what it makes ({type(policy).__name__}) has no method {', '.join(missing)}"
        )
    return policy


def policy_factory(name: str) -> PolicyFactory:
    """What makes it: built in, or an entry point in the group rproxy.policies. Raises `UsageError`."""
    factory = POLICIES.get(name)
    if factory is not None:
        return factory
    found = entry_points(group=ENTRY_POINTS)
    if name not in found.names:
        raise usage.UsageError(
            f"--policy {name}: no such policy; there are {', '.join([*POLICIES, *sorted(found.names)])}"
        )
    point = found[name]
    try:
        loaded: PolicyFactory = point.load()
    except BaseException as error:
        raise usage.UsageError(f"--policy {name}: cannot load {point.value}: {_told(error)}") from error
    if not callable(loaded):
        raise usage.UsageError(f"--policy {name}: {point.value} cannot be called")
    return loaded


def _has(policy: Policy, method: str) -> bool:
    try:
        return callable(getattr(policy, method, None))
    except BaseException:
        return False


def _told(error: BaseException) -> str:
    """In one line, even where the error cannot say what it is."""
    kind = type(error).__name__
    try:
        lines = str(error).split("\n")
    except BaseException:
        return kind
    return f"{kind}: {lines[0]}" if lines[0] else kind
