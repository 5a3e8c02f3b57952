"""Units of times: of numeric ones, recognised by magnitude, and of durations that people read."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from enum import Enum

PLAUSIBLE_S = (788_918_400, 7_258_118_400)
"""1995-01-01 and 2200-01-01 in Unix seconds. So narrow that the ranges of the four units are apart from each other and
from dates written as numbers, .NET ticks and Windows file times."""

_DURATIONS = ((365.25, "years"), (1.0, "days"), (1 / 24, "h"), (1 / 1440, "min"), (1 / 86_400, "s"))
"""Units that durations are shown in, with their days, the longest first."""
_ENDLESS_DAYS = 365_250.0
_ENDLESS_EVENTS = 100_000
_NUMBER_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


class TimeUnit(str, Enum):
    """Units of numeric times since 1970-01-01 UTC."""

    s = "s"
    ms = "ms"
    us = "us"
    ns = "ns"

    @property
    def per_second(self) -> int:
        """How many of the unit a second has."""
        return {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[self.value]


def plausible_unit(number: float) -> TimeUnit | None:
    """The unit in which a number is a time between 1995 and 2200; at most one is."""
    first, end = PLAUSIBLE_S
    return next((unit for unit in TimeUnit if first * unit.per_second <= number < end * unit.per_second), None)


def day(number: float, unit: TimeUnit) -> str:
    """The UTC date of a time, or its year where no calendar has it."""
    seconds = number / unit.per_second
    try:
        return f"{datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds):%Y-%m-%d}"
    except OverflowError:
        return f"the year {1970 + seconds / 31_557_600:,.0f}"


ENDLESS = "endless"
"""A duration of a thousand years, or of 100,000 events, or more."""


def duration(days: float) -> str:
    """A duration as people read it, with three digits: ``38 s``, ``5.8 min``, ``3.44 days``, ``12 years``.

    From a thousand years on it is ``endless``: no log tells the difference.
    """
    if days >= _ENDLESS_DAYS:
        return ENDLESS
    size, unit = next((one for one in _DURATIONS if days >= one[0]), _DURATIONS[-1])
    number = days / size
    shown = f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"
    return f"{shown} {unit}" if shown != "1" or unit == "s" else f"1 {unit.removesuffix('s')}"


def events_duration(events: float) -> str:
    """A half-life in later events, with three digits: ``36.3 events``.

    From 100,000 on it is ``endless``: hardly a user has so many.
    """
    shown = f"{events:,.3g}"
    return ENDLESS if events >= _ENDLESS_EVENTS else f"{shown} event{'' if shown == '1' else 's'}"


def written_date(digits: str) -> tuple[datetime, str] | None:
    """A date written as a number, such as 20230101, with its strptime format; None for other digits."""
    layout = _NUMBER_FORMATS.get(len(digits))
    if layout is None or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        return datetime.strptime(digits, layout).replace(tzinfo=timezone.utc), layout
    except ValueError:
        return None
