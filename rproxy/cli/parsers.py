"""The options of the operators' commands. What the commands need is imported when one runs."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

BACKEND: Final = "ADDRESS:PORT; ADDRESS or a host's name where that is one; SERVICE/ADDRESS:PORT"
SORTS: Final = (
    "backend",
    "service",
    "state",
    "since",
    "sessions",
    "total",
    "score",
    "cpu",
    "memory",
    "load",
    "rtt",
    "loss",
    "tcp",
    "weight",
    "up",
    "down",
    "age",
)
"""The keys of the columns of back-ends that are in every table. `cli.columns` is imported only when needed."""
INTERVAL_S: Final = 2.0
WEIGHT_MAX: Final = 65535


def add_parsers(parser: argparse.ArgumentParser, commands: Any) -> None:
    """Add the subcommands to argparse's `commands`, and to `parser` and to each of them the options of them all."""
    _add_place(parser, None)
    for add in (_status, _sessions, _events, _choices, _explain, _shadow, _doubts, _steer, _weight, _kill, _shed):
        add(commands)


def _add_place(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument(
        "--url",
        metavar="URL",
        default=default,
        help="the proxy's --admin listener: http://HOST:PORT or unix:PATH (default $RPROXY_URL, http://127.0.0.1:8404)",
    )
    parser.add_argument("--token-file", metavar="FILE", default=default, help="a file with the proxy's token")


def _parser(commands: Any, name: str, text: str, description: str = "") -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=description or _sentence(text))
    _add_place(parser, argparse.SUPPRESS)  # which leaves what was given before the command
    parser.set_defaults(run=partial(_run, name), wrong=parser.error)
    return parser


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _run(command: str, options: argparse.Namespace) -> int:
    from rproxy.cli.main import run

    return run(command, options)


def _add_service(parser: argparse.ArgumentParser, text: str = "those of one service") -> None:
    parser.add_argument("--service", metavar="NAME", help=text)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the proxy's document instead")


def _status(commands: Any) -> None:
    text = "show services and back-ends"
    description = """\
Shows a proxy's services and back-ends as tables: on a terminal the columns that fit, otherwise all. 'rproxy docs
commands' says what the columns are."""
    parser = _parser(commands, "status", text, description)
    parser.add_argument("place", metavar="URL", nargs="?", help="as --url")
    parser.add_argument(
        "--watch", action="store_true", help="show them again and again; on a terminal with keys, as top"
    )
    parser.add_argument("--interval", metavar="S", type=_seconds, default=INTERVAL_S, help="with --watch (default 2)")
    parser.add_argument("--sort", metavar="KEY", type=_sort, default=SORTS[0], help=f"one of {', '.join(SORTS)}")
    parser.add_argument("--reverse", action="store_true", help="sort the other way round")
    _add_service(parser)
    parser.add_argument("--state", metavar="STATE,…", type=_words, default=(), help="back-ends in these states")
    _add_json(parser)


def _sessions(commands: Any) -> None:
    parser = _parser(commands, "sessions", "list sessions, the longest first")
    parser.add_argument("--client", metavar="IP|NETWORK", help="those of these clients")
    parser.add_argument("--backend", metavar="BACKEND", help=f"those on one back-end: {BACKEND}")
    _add_service(parser)
    parser.add_argument("--limit", metavar="N", type=_natural, help="at most so many (default 1000)")
    _add_json(parser)


def _events(commands: Any) -> None:
    parser = _parser(commands, "events", "list what has happened in the last hour")
    parser.add_argument("--follow", "-f", action="store_true", help="go on with those to come")
    parser.add_argument("--backend", metavar="BACKEND", help=f"of one back-end: {BACKEND}")
    _add_service(parser)
    parser.add_argument("--limit", metavar="N", type=_natural, help="the last N")
    _add_json(parser)


def _choices(commands: Any) -> None:
    parser = _parser(commands, "choices", "list the last choices of back-ends, the newest first")
    parser.add_argument("--client", metavar="IP|NETWORK", help="for these clients")
    parser.add_argument("--backend", metavar="BACKEND", help=f"of one back-end: {BACKEND}")
    _add_service(parser)
    parser.add_argument("--candidates", action="store_true", help="show each with all that were compared")
    parser.add_argument("--limit", metavar="N", type=_natural, help="at most so many (default 50)")
    _add_json(parser)


def _explain(commands: Any) -> None:
    text = "say why a back-end gets clients, or why it gets none"
    description = f"{_sentence(text)} Without a back-end, show the last choice with all that were compared."
    parser = _parser(commands, "explain", text, description)
    parser.add_argument("backend", metavar="BACKEND", nargs="?", help=BACKEND)
    _add_service(parser)
    _add_json(parser)


def _shadow(commands: Any) -> None:
    parser = _parser(commands, "shadow", "show what a second policy (--shadow) would have chosen")
    _add_service(parser, "of one service")
    _add_json(parser)


def _doubts(commands: Any) -> None:
    _add_json(_parser(commands, "doubts", "list what looks wrong"))


def _steer(commands: Any) -> None:
    add = partial(_steering, commands)
    add("drain", "give back-ends no new clients, until they are ready", "until their sessions have ended")
    add("maint", "as drain, and do not count them as down whatever is heard of them", "until their sessions have ended")
    add("ready", "end drain and maint", "until they may get clients")


def _steering(commands: Any, name: str, text: str, until: str) -> None:
    parser = _parser(commands, name, text)
    parser.add_argument("backends", metavar="BACKEND", nargs="*", help=BACKEND)
    _add_service(parser, "of this service")
    _add_wait(parser, until)


def _add_wait(parser: argparse.ArgumentParser, until: str) -> None:
    text = f"wait {until}, at most S seconds"
    parser.add_argument("--wait", metavar="S", nargs="?", type=_seconds_or_word, const=math.inf, help=text)


def _weight(commands: Any) -> None:
    parser = _parser(commands, "weight", "set a back-end's weight, whatever its agent or the configuration says")
    parser.add_argument("backend", metavar="BACKEND", help=BACKEND)
    parser.add_argument("weight", metavar="N|default", type=_weight_of, help="1 to 65535, 100 is normal")
    _add_service(parser, "of this service")


def _kill(commands: Any) -> None:
    text = "reset sessions at once, or all sessions on a back-end"
    parser = _parser(commands, "kill", text)
    parser.add_argument(
        "sessions", metavar="SESSION", nargs="*", type=_natural, help="its number, see 'rproxy sessions'"
    )
    parser.add_argument("--backend", metavar="BACKEND", help=f"all sessions on it: {BACKEND}")
    _add_service(parser, "of this service")


def _shed(commands: Any) -> None:
    text = "reset a back-end's sessions little by little, those that are idle first"
    parser = _parser(commands, "shed", text, f"{_sentence(text)} Drain it first, or new ones come.")
    parser.add_argument("backend", metavar="BACKEND", help=BACKEND)
    parser.add_argument("rate", metavar="N/s", type=_rate, help="at most so many a second; 0 stops it")
    _add_service(parser, "of this service")
    _add_wait(parser, "until none is left")


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _seconds_or_word(text: str) -> float | str:
    """A word after ``--wait`` that is no number is a back-end."""
    try:
        return _seconds(text)
    except argparse.ArgumentTypeError:
        if re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?s?|nan|inf", text):
            raise
        return text


def _rate(text: str) -> float:
    """Sessions a second."""
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate, such as 5/s")
    return rate


def _sort(text: str) -> str:
    """A key or the beginning of one."""
    found = [key for key in SORTS if key == text] or [key for key in SORTS if text and key.startswith(text.lower())]
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SORTS)}")
    return found[0]


def _weight_of(text: str) -> int | None:
    """None for the default."""
    if text == "default":
        return None
    if text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= WEIGHT_MAX:
        return int(text)
    hint = "; 'rproxy drain' keeps new clients away" if text == "0" else ""
    raise argparse.ArgumentTypeError(f"{text!r} is no weight from 1 to {WEIGHT_MAX}, nor 'default'{hint}")


def _words(text: str) -> Sequence[str]:
    return tuple(filter(None, text.split(",")))
