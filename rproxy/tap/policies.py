"""The policies that a service is configured with, and a throttled log of their exceptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

import attrs
from twisted.logger import Logger

from rproxy.config.model import SOURCE_AFFINITY, ServiceConfig
from rproxy.config.validators import ConfigError
from rproxy.policies.affinity import Affinity
from rproxy.policies.drawing import Rng
from rproxy.policies.own_options import PolicyError, read_options
from rproxy.policies.registry import make_policy
from rproxy.policies.report import ReportOptions
from rproxy.policies.shadow import Shadow
from rproxy.pool.policy import Policy
from rproxy.timing.rate_limit import LOG_EVERY_S, RateLimit

REPORT: Final = "report"
"""The policy that `--saturation` is for."""
SHADOW: Final = "shadow"


class PolicyFailureLog:
    """Logs the exception that is being handled, at most one in `LOG_EVERY_S` seconds. `what` has failed."""

    log = Logger()

    def __init__(self, seconds: Callable[[], float], what: str = "the policy") -> None:
        self._seconds = seconds
        self._what = what
        self._throttle = RateLimit.once_in(LOG_EVERY_S)

    def __call__(self) -> None:
        if self._throttle.admit(self._seconds()):
            self.log.failure("{what} failed; further failures in the next seconds are not logged", what=self._what)


@attrs.frozen
class ServicePolicies:
    """The policy that chooses, and the one that it is compared with, if there is one."""

    acting: Policy
    shadow: Shadow | None

    @property
    def whole(self) -> Policy:
        """For the pool."""
        return self.acting if self.shadow is None else self.shadow


def saturation_of(service: ServiceConfig) -> float | None:
    """The saturation of the report's score that is shown: the policy's own, if that is `report`."""
    if service.policy != REPORT:
        return service.saturation
    return read_options(ReportOptions, _options(service)).saturation


def policies_of(service: ServiceConfig, seconds: Callable[[], float], acting: Policy | None = None) -> ServicePolicies:
    """The service's policies, with `acting` if that goes on. Raises `ConfigError` if one cannot be made."""
    acting = policy_of(service, Random()) if acting is None else acting
    if service.shadow is None:
        return ServicePolicies(acting, None)
    shadow = _made(service, SHADOW, service.shadow, _shadow_options(service), Random())
    return ServicePolicies(acting, Shadow(acting, shadow, PolicyFailureLog(seconds, "the shadow policy")))


def changed_policies(
    before: ServiceConfig, service: ServiceConfig, present: ServicePolicies, seconds: Callable[[], float]
) -> ServicePolicies | None:
    """The service's policies, as `service` changes them from `before`: None if it does not.

    Another shadow leaves the acting policy as it is. Raises `ConfigError`.
    """
    if not have_one_policy(before, service):
        return policies_of(service, seconds)
    first, second = ((each.shadow, _shadow_options(each)) for each in (before, service))
    return None if first == second else policies_of(service, seconds, present.acting)


def policy_of(service: ServiceConfig, rng: Rng) -> Policy:
    """The service's policy, with the affinity around it. Raises `ConfigError` if it cannot be made."""
    return _made(service, "policy", service.policy, _options(service), rng)


def _made(service: ServiceConfig, key: str, name: str, options: Mapping[str, Any], rng: Rng) -> Policy:
    try:
        policy = make_policy(name, options, rng)
    except PolicyError as error:
        raise ConfigError(str(error), service.key(key), name) from error
    return Affinity(policy) if service.affinity == SOURCE_AFFINITY else policy


def have_one_policy(service: ServiceConfig, other: ServiceConfig) -> bool:
    """Whether two configurations name the same policy with the same options, and the same affinity."""
    first, second = ((each.policy, _options(each), each.affinity) for each in (service, other))
    return first == second


def _options(service: ServiceConfig) -> dict[str, Any]:
    return _with_saturation(service, service.policy, service.policy_options)


def _shadow_options(service: ServiceConfig) -> dict[str, Any]:
    return _with_saturation(service, service.shadow, service.shadow_options)


def _with_saturation(service: ServiceConfig, name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    options = dict[str, Any](given)
    if name == REPORT:
        options.setdefault("saturation", service.saturation)
    return options
