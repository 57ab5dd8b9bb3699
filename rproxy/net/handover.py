"""Handing the ports of one process over to another that is bound to the same addresses (SO_REUSEPORT), on Linux.

The kernel distributes connections and datagrams over the sockets of such a group by hash. Closing a listening socket
resets what is in its accept queue, and the handshakes that are under way. So a socket that is to be closed must first
get no more SYNs, which the group's program (SO_ATTACH_REUSEPORT_CBPF) and a filter of its own see to, and then be
accepted from for as long as a handshake takes. Neither needs a privilege.

Places in a group, on which programs decide, are those of the order in which its sockets were bound (UDP) or began to
listen (TCP); when one is closed, the last one takes its place (net/core/sock_reuseport.c).
"""

from __future__ import annotations

import select
import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

LAST_HANDSHAKES_S: Final = 0.9
"""How long a socket is accepted from after the last SYN. A SYN that its filter drops is sent again after 1 s (RFC 6298,
2.1), and finds the socket closed then.
"""
_ATTACH_FILTER: Final = 26
_ATTACH_REUSEPORT_CBPF: Final = 51
_DETACH_REUSEPORT_BPF: Final = 68
"""Of socket(7), which Python does not name."""
_LOAD_BYTE, _AND, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x54, 0x15, 0x06
"""Instructions of classic BPF (linux/bpf_common.h): LD|B|ABS, ALU|AND|K, JMP|JEQ|K, RET|K."""
_ALL: Final = 0xFFFFFFFF
_FLAGS_AT: Final = 13
"""Offset of the flags in a TCP header, which is where the filter of a TCP socket begins to read."""
_SYN, _SYN_ACK = 0x02, 0x12
_NO_SYN: Final = (
    (_LOAD_BYTE, 0, 0, _FLAGS_AT),
    (_AND, 0, 0, _SYN_ACK),
    (_JUMP_IF_EQUAL, 0, 1, _SYN),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, _ALL),
)
_LISTENS: Final = "0A"
"""TCP_LISTEN in /proc/net/tcp, where listening sockets come first."""

Program = Sequence[tuple[int, int, int, int]]


def members(sock: socket.socket) -> int:
    """How many sockets are bound to the address of `sock`, this one included; 1 where that is unknown."""
    listens = sock.type == socket.SOCK_STREAM
    name = ("tcp" if listens else "udp") + ("6" if sock.family == socket.AF_INET6 else "")
    wanted = _as_in_proc(sock)
    try:
        return max(sum(1 for address in _bound(name, listens=listens) if address == wanted), 1)
    except (OSError, ValueError):
        return 1


def give_to_newest(sock: socket.socket) -> bool:
    """Have the last socket that joined the group of `sock` get everything. Returns whether there are others in it."""
    number = members(sock)
    if number > 1:
        _give_to(sock, number - 1)
    return number > 1


def give_to_previous(sock: socket.socket) -> None:
    """Have `sock`, which has just joined its group, get nothing yet: all goes to the one that joined before it."""
    number = members(sock)
    if number > 1:
        _give_to(sock, number - 2)


def give_to_all(sock: socket.socket) -> None:
    """Undo both: the hash decides again. Call it just before closing `sock`, too: its place changes its owner then."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, _DETACH_REUSEPORT_BPF, 0)


def _give_to(sock: socket.socket, place: int) -> None:
    with suppress(OSError):  # a kernel without these programs: the hash goes on to decide
        _attach(sock, _ATTACH_REUSEPORT_CBPF, ((_RETURN, 0, 0, place),))


def refuse_syns(sock: socket.socket) -> None:
    """Have a listening socket drop further SYNs, which its clients send again later. Handshakes under way go on."""
    with suppress(OSError):
        _attach(sock, _ATTACH_FILTER, _NO_SYN)


def has_queued(sock: socket.socket) -> bool:
    """Whether clients are in the accept queue of a listening socket."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(0))


def _attach(sock: socket.socket, option: int, program: Program) -> None:
    """Raises `OSError`."""
    code = array("B", b"".join(struct.pack("@HBBI", *instruction) for instruction in program))
    address, _ = code.buffer_info()
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), address))  # struct sock_fprog


def _as_in_proc(sock: socket.socket) -> str:
    """The socket's address as /proc/net/tcp and udp write it: 32-bit words in the host's order, and the port."""
    host, port = sock.getsockname()[:2]
    packed = socket.inet_pton(sock.family, host.partition("%")[0])
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _bound(name: str, *, listens: bool) -> Iterator[str]:
    """The local addresses of all UDP sockets, or of listening TCP sockets. Raises `OSError`, `ValueError`."""
    with open(f"/proc/net/{name}", encoding="ascii") as lines:
        next(lines)
        for line in lines:
            _, local, _, state, *_ = line.split()
            if listens and state != _LISTENS:
                return
            yield local
