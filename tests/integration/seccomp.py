"""Runs a program without some system calls, as sandboxes do: `python seccomp.py RULE… -- PROGRAM ARGUMENT…`.

A rule is CALL=ERROR, or CALL:ARGUMENT:COMPARISON:VALUE=ERROR for those calls alone whose argument, 0 to 5, compares so
("eq" or "lt", 32 bits of it): `splice:4:eq:1048576=EPERM`. The program may gain no privileges from then on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_LOAD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_GREATER_OR_EQUAL = 0x35
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_ERROR = 0x00050000
_NUMBER_AT = 0
_ARCHITECTURE_AT = 4
_ARGUMENTS_AT = 16
# linux/audit.h, and the calls' numbers
_ARCHITECTURES = {
    "x86_64": (0xC000003E, {"splice": 275, "pipe2": 293, "fcntl": 72, "sendto": 44}),
    "aarch64": (0xC00000B7, {"splice": 76, "pipe2": 59, "fcntl": 25, "sendto": 206}),
}


def wrapper(*rules: str) -> list[str]:
    """What a command line begins with that is to run under these rules."""
    return [sys.executable, str(Path(__file__)), *rules, "--"]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _rule(text: str, numbers: dict[str, int]) -> list[bytes]:
    """Falls through where it does not apply."""
    call, _, error = text.partition("=")
    name, *condition = call.split(":")
    end = [_instruction(_RETURN, _ERROR | getattr(errno, error))]
    if condition:
        argument, comparison, value = int(condition[0]), condition[1], int(condition[2])
        equal = comparison == "eq"
        jump = (_JUMP_EQUAL, value, 0, 1) if equal else (_JUMP_GREATER_OR_EQUAL, value, 1, 0)
        end = [_instruction(_LOAD, _ARGUMENTS_AT + 8 * argument), _instruction(*jump), *end]
    return [_instruction(_LOAD, _NUMBER_AT), _instruction(_JUMP_EQUAL, numbers[name], 0, len(end)), *end]


def forbid(*rules: str) -> None:
    """Have the kernel answer so from now on, in this process and in what it becomes. Raises `OSError`."""
    architecture, numbers = _ARCHITECTURES[platform.machine()]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _ALLOW),
        *(instruction for rule in rules for instruction in _rule(rule, numbers)),
        _instruction(_RETURN, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, filter_, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    at = sys.argv.index("--")
    forbid(*sys.argv[1:at])
    os.execvp(sys.argv[at + 1], sys.argv[at + 1 :])
