"""What operators ask for, and what is wrong with it."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from rproxy.observe.parameters import BadParameter, Missing, backend, canonical, network, service, whole


def test_what_is_not_given_is_none_or_the_default() -> None:
    assert (backend({}), network({}, "client"), service({}, ["web"]), whole({}, "limit", 5, 0, 9)) == (
        None,
        None,
        None,
        5,
    )


@pytest.mark.parametrize("text", ["-1", "10", "1.0", "", " 1", "٣", "9" * 5000, "1e3", "0x1"])
def test_a_number_is_whole_and_in_its_range(text: str) -> None:
    with pytest.raises(BadParameter, match=r"^limit must be a whole number from 0 to 9$"):
        whole({"limit": text}, "limit", 5, 0, 9)
    assert whole({"limit": "9"}, "limit", 5, 0, 9) == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.3/24", "10.1.2.0/24"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:a01:203", "10.1.2.3/32"),
        ("::ffff:10.1.2.3/120", "10.1.2.0/24"),
    ],
)
def test_a_network_may_be_one_address_or_that_of_an_address(text: str, expected: str) -> None:
    assert network({"client": text}, "client") == ip_network(expected)


@pytest.mark.parametrize("text", ["10.1.2", "x", "10.0.0.0/33", "10.0.0.0/x", "[::1]"])
def test_what_is_none_is_said(text: str) -> None:
    with pytest.raises(BadParameter, match=r"^client must be an IP address or a network"):
        network({"client": text}, "client")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[2001:DB8:0::1]:080", "[2001:db8::1]:80"),
        ("::1:80", "[::1]:80"),
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("[::FFFF:a00:1]:80", "10.0.0.1:80"),
        ("[0:0:0:0:0:ffff:10.0.0.1]:80", "10.0.0.1:80"),
    ],
)
def test_a_back_end_is_named_as_the_program_does(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert backend({"backend": text}) == expected


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1", "10.0.0.1:", ":80", "host:80", "10.0.0.1:x", "10.0.0.1:65536", "[10.0.0.1:80", "", "1:" + "9" * 30],
)
def test_what_names_none_is_said(text: str) -> None:
    with pytest.raises(BadParameter, match=r"ADDRESS:PORT"):
        canonical(text)


def test_a_service_that_there_is_not_is_missing() -> None:
    assert service({"service": "web"}, ["web", "mail"]) == "web"
    with pytest.raises(Missing, match=r"^no service has that name; there are web, mail$"):
        service({"service": "wed"}, ["web", "mail"])
    with pytest.raises(Missing, match=r"there are s0, s1.* and 5 more$"):
        service({"service": "wed"}, [f"s{number}" for number in range(15)])
