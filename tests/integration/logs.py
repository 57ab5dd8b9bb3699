"""What a log says."""

from __future__ import annotations


def failures(log: str) -> list[str]:
    """The lines of a log that tell of an exception."""
    return [line for line in log.splitlines() if "Traceback" in line or "Unhandled" in line or "#error]" in line]
