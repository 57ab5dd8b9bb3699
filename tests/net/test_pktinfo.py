"""Local addresses of datagrams, as the kernel tells and takes them."""

from __future__ import annotations

import socket

import pytest

from rproxy.net.pktinfo import arrival_address, source_control


def _mapped(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, host) + (7).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ((0, 8, bytes(4) + bytes([10, 0, 0, 1]) + bytes([10, 0, 0, 255])), "10.0.0.1"),
        ((41, 50, _mapped("::ffff:10.0.0.1")), "10.0.0.1"),
        ((41, 50, _mapped("2001:db8::1")), "2001:db8::1"),
        ((41, 50, _mapped("fe80::1")), "fe80::1%7"),
        ((41, 50, _mapped("ff02::1")), ""),
        ((41, 50, _mapped("::ffff:224.0.0.1")), ""),
    ],
)
def test_what_the_kernel_tells_is_an_address_to_answer_from(told: tuple[int, int, bytes], address: str) -> None:
    assert arrival_address(told) == address


def test_one_of_a_link_leaves_by_that_link() -> None:
    ((_, _, told),) = source_control("fe80::1%7", True)
    assert told == _mapped("fe80::1")
    ((_, _, told),) = source_control("2001:db8::1", True)
    assert told[16:] == bytes(4)
