"""When a proxy is ready for clients."""

from __future__ import annotations

from twisted.internet.task import Clock

from rproxy.observe.readiness import faults
from rproxy.sessions.service import Service
from tests.fakes import pool_of, pool_with, registered


def test_it_is_where_every_service_has_an_eligible_back_end() -> None:
    clock = Clock()
    web, mail = Service(pool_with(2), clock, name="web"), Service(pool_of(), clock, name="mail")
    assert list(faults([web], stopping=False)) == []
    assert list(faults([web, mail], stopping=False)) == ["mail: there are no back-ends"]
    registered(mail.pool, "10.0.0.1")
    assert list(faults([web, mail], stopping=False)) == ["mail: none of 1 back-ends gets clients"]
    web.pool.limit_each(1, 0.0)
    for _ in range(2):
        web.pool.choose(0.0)
    mail.is_leaving = True
    assert list(faults([web, mail], stopping=False)) == ["web: 2 of 2 back-ends are full, and no other gets clients"]


def test_it_is_not_while_it_stops() -> None:
    assert list(faults([Service(pool_with(1), Clock())], stopping=True)) == ["stopping"]
