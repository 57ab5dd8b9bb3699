from __future__ import annotations

from collections.abc import Callable

import pytest

from rproxy.admin.figures import count, duration, milliseconds, percentage, significant, size


@pytest.mark.parametrize(
    ("shown", "value", "text"),
    [
        (count, None, "–"),  # noqa: RUF001
        (count, 0, "0"),
        (count, 99_999, "99,999"),
        (count, 123_456, "123k"),
        (count, 1_234_567, "1.2M"),
        (size, 0, "0 B"),
        (size, 999, "999 B"),
        (size, 1000, "1.0 kB"),
        (size, 123_456_789, "123 MB"),
        (size, 4e12, "4.0 TB"),
        (significant, None, "–"),  # noqa: RUF001
        (significant, 0, "0.00"),
        (significant, 0.0056, "0.006"),
        (significant, 1.234, "1.23"),
        (significant, -12.34, "-12.3"),
        (significant, 1234.5, "1,234"),
        (significant, 1e6, "1.0M"),
        (milliseconds, 0.123, "0.12"),
        (milliseconds, 12.34, "12.3"),
        (milliseconds, 1234, "1,234"),
        (percentage, 0, "0"),
        (percentage, 0.042, "4.2"),
        (percentage, 0.5, "50"),
        (duration, None, "–"),  # noqa: RUF001
        (duration, 0.04, "0.0 s"),
        (duration, 42, "42 s"),
        (duration, 3600, "1 h"),
        (duration, 3725, "1 h 2 min"),
        (duration, 86_400 + 30, "1 d"),
        (duration, 278_000, "3 d 5 h"),
    ],
)
def test_figures_are_short_and_of_steady_width(shown: Callable[[float | None], str], value: float, text: str) -> None:
    assert shown(value) == text
