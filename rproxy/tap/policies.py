"""The policy that a service is configured with, guarded: its faults are logged and cost no client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from rproxy.config.model import ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.policies.guard import Guarded
from rproxy.policies.registry import PolicyError, Rng, make_policy
from rproxy.timing.rate_limit import RateLimit

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


def policy_of(service: ServiceConfig, rng: Rng, seconds: Callable[[], float]) -> Guarded:
    """The service's policy. Raises `ConfigError`, whatever is wrong with it."""
    try:
        policy = make_policy(service.policy, service.saturation, rng)
    except PolicyError as error:
        raise ConfigError(str(error), service.key("policy"), service.policy) from error
    return Guarded(policy, Complaints(seconds))
