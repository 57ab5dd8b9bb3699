"""The formats of the access log. All are lines of text; what they show of a session is in `docs/access_log.rst`."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from math import inf
from typing import Final, Protocol

from rproxy.sessions.endings import Ending
from rproxy.sessions.record import SessionRecord

TEXTS_KEPT: Final = 256
"""Texts of seconds and of listeners that are kept: most records have the same."""
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""Not those of the locale."""


class Lines(Protocol):
    """Makes lines of records."""

    def __call__(self, records: Sequence[SessionRecord], offset_s: float) -> list[str]:
        """A line for each, without its end; `offset_s` is Unix time minus the clock of the records. Raises nothing."""
        ...


_JSON: Final = (
    '{"time":"%s.%03dZ","client":"%s",%s,"backend":"%s","score":%.6g,"report_age":%.3f,'
    '"tries":%d,"queue":%.6g,"connect":%.6f,"duration":%.6f,"up":%d,"down":%d,"ending":"%s"}'
)


def json_lines(records: Sequence[SessionRecord], offset_s: float) -> list[str]:
    """A JSON object for each, which has the same keys in each, and null for what is unknown."""
    made, second, stamp = [], -1, ""
    for record in records:
        service, listener, link, backend, tries, at, queue, connect, duration, up, down, ending, _, score, age = record
        ended_at = at + duration + offset_s
        if not 0.0 <= ended_at - second < 1.0:
            second = int(ended_at)
            stamp = utc(second)
        ms = (ended_at - second) * 1000
        if backend is None or connect is None or age is None or score is None or not -inf < score < inf:
            made.append(_json_line(record, "%s.%03dZ" % (stamp, ms)))  # noqa: UP031 - truncates, as the other does
            continue
        client, place, to, how = link.client_address(), _place(service, listener), backend.name, ending._value_
        made.append(_JSON % (stamp, ms, client, place, to, score, age, tries, queue, connect, duration, up, down, how))
    return made


def _json_line(record: SessionRecord, ended_at: str) -> str:
    """The line of a record of which something is unknown. `_JSON` makes the same of others, in half the time."""
    score, age, connect, backend = record.score, record.report_age_s, record.connect_s, record.backend
    shown = {
        "time": ended_at,
        "client": record.client,
        "service": record.service,
        "listener": record.listener,
        "backend": None if backend is None else backend.name,
        "score": float(f"{score:.6g}") if score is not None and -inf < score < inf else None,
        "report_age": None if age is None else round(age, 3),
        "tries": record.tries,
        "queue": round(record.queue_s, 6),
        "connect": None if connect is None else round(connect, 6),
        "duration": round(record.duration_s, 6),
        "up": record.up,
        "down": record.down,
        "ending": record.ending.value,
    }
    return json.dumps(shown, separators=(",", ":"))


@lru_cache(TEXTS_KEPT)
def _place(service: str, listener: str) -> str:
    return f'"service":{quoted(service)},"listener":{quoted(listener)}'


_TEXT: Final = "%s.%03dZ %s %s %s %s duration=%.6f up=%d down=%d tries=%d queue=%.6g connect=%.6f"
_AT_ONCE: Final = _TEXT.replace("queue=%.6g", "queue=0")
_UNCONNECTED: Final = "%s.%03dZ %s %s %s %s duration=%.6f up=%d down=%d tries=%d queue=%.6g connect=-"


def text_lines(records: Sequence[SessionRecord], offset_s: float) -> list[str]:
    """End, client, service, back-end and ending, then NAME=VALUE, separated by spaces; ``-`` for what is unknown.

    The policy's value is left out: noting it would cost a session as much as its line does. `_value_` of an ending is
    used since ``%s`` of an enumeration takes 0.2 µs more.
    """
    made, begin, end, stamp, last, name = [], 0.0, 0.0, "", None, ""
    for service, _, link, backend, tries, at, queue, connect, duration, up, down, ending, _, _, _ in records:
        ended_at = at + duration
        if not begin <= ended_at < end:
            second = int(ended_at + offset_s)
            begin, end, stamp = second - offset_s, second - offset_s + 1.0, utc(second)
        if service is not last:
            last, name = service, word(service)
        ms, client, how = (ended_at - begin) * 1000, link.client_address(), ending._value_
        if backend is None or connect is None:
            to = "-" if backend is None else backend.name
            line = _UNCONNECTED % (stamp, ms, client, name, to, how, duration, up, down, tries, queue)
        elif queue:
            line = _TEXT % (stamp, ms, client, name, backend.name, how, duration, up, down, tries, queue, connect)
        else:
            line = _AT_ONCE % (stamp, ms, client, name, backend.name, how, duration, up, down, tries, connect)
        made.append(line)
    return made


class HaproxyLines:
    """The lines of HAProxy's ``option tcplog`` (its configuration manual, 8.2.2), as syslog writes them to a file.

    The front-end and the back-end have the service's name, and a server is an address and port. Positions in queues are
    not known, and always 0.
    """

    def __init__(self, header: Header, sessions: SessionCounts) -> None:
        """`header` is what precedes the client, see `syslog_header`."""
        self._header = header
        self._sessions = sessions

    def __call__(self, records: Sequence[SessionRecord], offset_s: float) -> list[str]:
        """As `Lines`."""
        process, services = self._sessions()
        return [self._line(record, offset_s, process, services.get(record.service, 0)) for record in records]

    def _line(self, record: SessionRecord, offset_s: float, process: int, service: int) -> str:
        at, backend, name = record.started_at + offset_s, record.backend, word(record.service)
        second, ms = divmod(int(at * 1000), 1000)
        return (
            f"{self._header(int(at + record.duration_s))}{_client(record)} [{local(second)}.{ms:03d}] "
            f"{name} {name}/{'<NOSRV>' if backend is None else backend.name} "
            f"{_ms(record.queue_s) if record.tries or record.queue_s else -1}/{_ms(record.connect_s)}/"
            f"{_ms(record.duration_s)} {record.down} {termination_state(record)} "
            f"{process}/{service}/{service}/{0 if backend is None else backend.connections}/"
            f"{f'+{record.tries - 1}' if record.tries > 1 else 0} 0/0"
        )


SessionCounts = Callable[[], tuple[int, Mapping[str, int]]]
"""Returns how many sessions the process has now, and each of its services, by name."""
Header = Callable[[int], str]
"""Gets Unix time in s, and returns what a line begins with."""


def no_header(_: int) -> str:
    """For the journal, which has the time and the program itself."""
    return ""


def syslog_header(host: str, program: str, pid: int) -> Header:
    """The header of RFC 3164, section 4.1.2, without the priority, as syslog's files have it."""
    return lambda second: f"{local_month(second)} {host} {program}[{pid}]: "


def _client(record: SessionRecord) -> str:
    """As HAProxy writes it: an IPv6 address without brackets, and a client of a Unix socket as ``unix:0``."""
    client = record.client
    if client.startswith("["):
        host, _, port = client[1:].rpartition("]:")
        return f"{host}:{port}"
    return client if _IPV4.fullmatch(client) else "unix:0"


_IPV4: Final = re.compile(r"[0-9.]+:[0-9]+")


def _ms(time_s: float | None) -> int:
    return -1 if time_s is None else int(time_s * 1000)


_NORMAL: Final = "--"
_CAUSES: Final = {
    Ending.CLIENT_RESET: "C",
    Ending.CLIENT_GONE: "C",
    Ending.HANDSHAKE: "C",
    Ending.HEADER_TIMEOUT: "c",
    Ending.IDLE: "c",
    Ending.HALF_CLOSED: "c",
    Ending.VANISHED: "C",
    Ending.BACKEND_RESET: "S",
    Ending.NO_BACKEND: "S",
    Ending.UNREACHABLE: "S",
    Ending.QUEUE_FULL: "S",
    Ending.QUEUE_TIMEOUT: "s",
    Ending.DENIED: "P",
    Ending.UNTRUSTED: "P",
    Ending.BAD_HEADER: "P",
    Ending.BACKEND_DOWN: "D",
}
"""The first character of HAProxy's termination state (8.5 of its manual); of all others it is K, for killed."""
_IN_QUEUE: Final = {Ending.QUEUE_FULL, Ending.QUEUE_TIMEOUT}
_TO_SERVER: Final = {Ending.NO_BACKEND, Ending.UNREACHABLE}


def termination_state(record: SessionRecord) -> str:
    """Who ended the session, and when: D with data, C connecting, Q in the queue, R before a back-end was chosen."""
    ending = record.ending
    if ending is Ending.CLOSED:
        return _NORMAL
    if record.connect_s is not None:
        phase = "D"
    elif ending in _IN_QUEUE or (record.queue_s and not record.tries):
        phase = "Q"
    else:
        phase = "C" if record.tries or ending in _TO_SERVER else "R"
    return _CAUSES.get(ending, "K") + phase


@lru_cache(TEXTS_KEPT)
def word(text: str) -> str:
    """`text` as one word of visible characters, with the bytes of others as in Python's literals; ``-`` if empty."""
    if text.isascii() and text.isprintable() and " " not in text:
        return text or "-"
    return "".join(
        character if "!" <= character <= "~" else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
        for character in (chr(byte),)
    )


@lru_cache(TEXTS_KEPT)
def utc(second: int) -> str:
    """Unix time as ISO 8601 has it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(TEXTS_KEPT)
def local(second: int) -> str:
    """Unix time in this host's zone, as HAProxy writes it."""
    at = time.localtime(second)
    return f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{time.strftime('%Y:%H:%M:%S', at)}"


@lru_cache(TEXTS_KEPT)
def local_month(second: int) -> str:
    """Unix time in this host's zone, as syslog writes it."""
    at = time.localtime(second)
    return f"{_MONTHS[at.tm_mon - 1]} {at.tm_mday:2d} {time.strftime('%H:%M:%S', at)}"
