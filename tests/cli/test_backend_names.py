"""Which back-end an operator means."""

from __future__ import annotations

import socket

import pytest

from rproxy.cli.backend_names import Target, address_of, find, find_all
from rproxy.cli.client import Failure
from tests.cli.fake_proxy import Canned, row

ROWS = (
    row("10.1.1.1", 80, "web"),
    row("10.1.1.2", 80, "web"),
    row("10.1.1.2", 8000, "app"),
    row("10.1.1.3", 80, "web"),
    row("10.1.1.3", 80, "app"),
    row("2001:db8::5", 443, "a/b c"),
)


def proxy(*rows: dict[str, object]) -> Canned:
    return Canned({"/api/backends": {"backends": rows or ROWS}})


@pytest.mark.parametrize(
    ("text", "service", "found"),
    [
        ("10.1.1.1:80", None, "web/10.1.1.1:80"),
        ("10.1.1.1", None, "web/10.1.1.1:80"),
        ("::ffff:10.1.1.1", None, "web/10.1.1.1:80"),
        ("[::ffff:a01:101]:80", None, "web/10.1.1.1:80"),
        ("web/10.1.1.1", None, "web/10.1.1.1:80"),
        ("10.1.1.2:8000", None, "app/10.1.1.2:8000"),
        ("10.1.1.3:80", "app", "app/10.1.1.3:80"),
        ("app/10.1.1.3:80", "app", "app/10.1.1.3:80"),
        ("[2001:db8::5]:443", None, "a/b c/[2001:db8::5]:443"),
        ("2001:0DB8::0:5", None, "a/b c/[2001:db8::5]:443"),
        ("[2001:db8::5]", None, "a/b c/[2001:db8::5]:443"),
        ("a/b c/[2001:db8::5]:443", None, "a/b c/[2001:db8::5]:443"),
        ("web/10.9.9.9:80", None, "web/10.9.9.9:80"),
        ("[2001:DB8::9]:80", "web", "web/[2001:db8::9]:80"),
    ],
)
def test_it_may_be_named_in_many_ways(text: str, service: str | None, found: str) -> None:
    client = proxy()
    rows = [each for each in ROWS if service in (None, each["service"])]
    client.documents["/api/backends"]["backends"] = rows
    assert str(find(client, text, service)) == found


@pytest.mark.parametrize(
    ("text", "service", "message"),
    [
        ("10.1.1.2", None, "'10.1.1.2' may be web/10.1.1.2:80 or app/10.1.1.2:8000: name one of them"),
        ("10.1.1.3:80", None, "'10.1.1.3:80' may be web/10.1.1.3:80 or app/10.1.1.3:80: name one of them"),
        ("10.1.1.4:80", None, "there is no back-end '10.1.1.4:80'; do you mean 10.1.1."),
        ("10.7.1.4", None, "there is no back-end '10.7.1.4'"),
        ("other/10.1.1.1", None, "service other has no back-end '10.1.1.1'"),
        ("web/10.1.1.1", "app", "'web/10.1.1.1' is of service 'web', but --service is 'app'"),
        ("", None, "'' names no back-end: give ADDRESS:PORT, ADDRESS or SERVICE/ADDRESS:PORT"),
        ("10.1.1.1:http", None, "names no back-end"),
        ("10.1.1.1:65536", None, "names no back-end"),
        ("10.1.1.1:" + 5000 * "1", None, "names no back-end"),
        ("[::1", None, "names no back-end"),
        ("web/", None, "names no back-end"),
        ("/10.1.1.1:80", None, "names no back-end"),
        ("[2001:db8::1]80", None, "names no back-end"),
        ("10.1.1.1:", None, "names no back-end"),
        ("x\x1b[31m", None, "there is no back-end 'x\\x1b[31m', but 10.1.1.1:80, "),
    ],
)
def test_what_is_not_one_is_said_with_those_that_there_are(text: str, service: str | None, message: str) -> None:
    client = proxy()
    if text.startswith("other/"):
        client.documents["/api/backends"] = {"backends": []}
    with pytest.raises(Failure) as failed:
        find(client, text, service)
    assert str(failed.value).startswith(message) or message in str(failed.value)
    assert str(failed.value).isprintable()


def test_the_nearest_names_are_said() -> None:
    with pytest.raises(Failure, match=r"do you mean 10\.1\.1\.20:8080\?$"):
        find(proxy(row("10.1.1.20", 8080, "a"), row("192.168.7.7", 1, "b")), "10.1.1.20:808", None)


def test_without_near_ones_some_are_listed() -> None:
    rows = [row(f"10.1.1.{number}") for number in range(1, 10)]
    with pytest.raises(Failure, match=r"'zzz', but 10\.1\.1\.1:80, .*, 10\.1\.1\.6:80 and 3 more$"):
        find(proxy(*rows), "zzz", None)


def test_an_address_that_is_not_there_may_be_of_the_only_service() -> None:
    """An operator's word for it may be."""
    assert find(proxy(row(service="web")), "10.9.9.9:80", None) == Target("web", "10.9.9.9:80")


def test_a_hosts_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def lookup(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        if host != "app1":
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, 1, 6, "", ("10.1.1.1", 0)), (socket.AF_INET6, 1, 6, "", ("2001:db8::9", 0, 0, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert find(proxy(), "app1", None) == find(proxy(), "web/app1:80", None) == Target("web", "10.1.1.1:80")
    with pytest.raises(Failure, match=r"there is no back-end 'app2'"):
        find(proxy(), "app2", None)
    assert set(asked) == {"app1", "app2"}


def test_a_question_may_be_about_several() -> None:
    assert list(map(str, find_all(proxy(), "10.1.1.3", None))) == ["web/10.1.1.3:80", "app/10.1.1.3:80"]
    assert find_all(proxy(), "10.1.1.3:80", None) == [Target("", "10.1.1.3:80")]
    with pytest.raises(Failure, match=r"there is no back-end '10\.1\.1\.9'"):
        find_all(proxy(), "10.1.1.9", None)


def test_a_list_is_of_one_address() -> None:
    assert address_of(proxy(), "10.1.1.3", None) == "10.1.1.3:80"
    with pytest.raises(Failure, match=r"'10\.1\.1\.2' may be 10\.1\.1\.2:80 or 10\.1\.1\.2:8000: name one of them"):
        address_of(proxy(), "10.1.1.2", None)
