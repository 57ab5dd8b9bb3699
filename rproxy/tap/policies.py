"""The policy that a service is configured with, and a throttled log of its exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

from rproxy.config.model import SOURCE_AFFINITY, ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.policies.affinity import Affinity
from rproxy.policies.drawing import Rng
from rproxy.policies.own_options import PolicyError, read_options
from rproxy.policies.registry import make_policy
from rproxy.policies.report import ReportOptions
from rproxy.pool.policy import Policy
from rproxy.timing.rate_limit import RateLimit

LOG_EVERY_S: Final = 10.0
REPORT: Final = "report"
"""The policy that `--saturation` is for."""


class PolicyFailureLog:
    """Logs the exception that is being handled, at most one in `LOG_EVERY_S` seconds."""

    log = Logger()

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._throttle = RateLimit.once_in(LOG_EVERY_S)

    def __call__(self) -> None:
        if self._throttle.admit(self._seconds()):
            self.log.failure("the policy failed; further failures in the next seconds are not logged")


def saturation_of(service: ServiceConfig) -> float | None:
    """The saturation of the report's score that is shown: the policy's own, if that is `report`."""
    if service.policy != REPORT:
        return service.saturation
    return read_options(ReportOptions, _options(service)).saturation


def policy_of(service: ServiceConfig, rng: Rng) -> Policy:
    """The service's policy, with the affinity around it. Raises `ConfigError` if it cannot be made."""
    try:
        policy = make_policy(service.policy, _options(service), rng)
    except PolicyError as error:
        raise ConfigError(str(error), service.key("policy"), service.policy) from error
    return Affinity(policy) if service.affinity == SOURCE_AFFINITY else policy


def have_one_policy(service: ServiceConfig, other: ServiceConfig) -> bool:
    """Whether two configurations name the same policy with the same options, and the same affinity."""
    first, second = ((each.policy, _options(each), each.affinity) for each in (service, other))
    return first == second


def _options(service: ServiceConfig) -> dict[str, Any]:
    options = dict[str, Any](service.policy_options)
    if service.policy == REPORT:
        options.setdefault("saturation", service.saturation)
    return options
