"""Time units, and what a value that is no plausible time probably is: for error messages."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from enum import Enum

PLAUSIBLE_S = (788_918_400, 7_258_118_400)
"""1995-01-01 and 2200-01-01 in Unix seconds. So narrow that the ranges of the four units are apart from each other and
from dates written as numbers, .NET ticks and Windows file times."""

ROUNDED = r"^\d(?:[.,]\d{1,7})?[eE]\+?\d+$"
"""A number that a spreadsheet has rounded, as in ``1.7E+09``: too few digits for a time."""

_EXCEL_DAYS = (20_000, 80_000)
_EXCEL_EPOCH = datetime(1899, 12, 30, tzinfo=timezone.utc)
_NUMBER_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_SLASHED = re.compile(r"^(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?:[ T,]+(\d{1,2}):(\d{2})(:\d{2})?.*)?$")
_TIME_OF_DAY = re.compile(r"^\d{1,3}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?$")
_DURATION = re.compile(r"^(P[\dT]|\d+ days?\b)")


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


def likely_reading(*values: str) -> str:
    """What the first value is and which option or change reads it: the end of a sentence; empty where nothing fits.

    Args:
        values: Of one column; the later ones decide between day first and month first.
    """
    value = values[0].strip()
    if match := _SLASHED.match(value):
        return _slashed(match, values)
    if _TIME_OF_DAY.match(value):
        return "looks like a time of day, which has no date: write date and time into one column"
    if _DURATION.match(value):
        return "looks like a duration: write the time of the event"
    if re.match(ROUNDED, value):
        return "has lost its last digits in a spreadsheet: export the column as text"
    try:
        number = float(value)
    except ValueError:
        return ""
    if number != number or abs(number) == float("inf"):
        return ""
    unit = plausible_unit(number)
    if unit is not None:
        return f"is {day(number, unit)} in {unit.value}"
    digits = value.removesuffix(".0")
    layout = _NUMBER_FORMATS.get(len(digits))
    if layout and digits.isdigit():
        try:
            date = datetime.strptime(digits, layout)
        except ValueError:
            pass
        else:
            return f"looks like the date {date:%Y-%m-%d} written as a number: add --time-format {layout}"
    if _EXCEL_DAYS[0] <= number <= _EXCEL_DAYS[1]:
        date = _EXCEL_EPOCH + timedelta(days=number)
        return f"looks like the Excel serial number of {date:%Y-%m-%d}: save the column as yyyy-mm-dd hh:mm:ss"
    if number >= 0:
        return (
            f"would be {day(number, TimeUnit.s)} in s, so it may be a duration or count from another start: "
            "--time-unit s (ms, us, ns) reads it like that"
        )
    return ""


def _slashed(match: re.Match[str], values: tuple[str, ...]) -> str:
    clock = ("" if match[5] is None else " %H:%M") + ("" if match[7] is None else ":%S")
    year = "%Y" if len(match[4]) == 4 else "%y"
    formats = [f"{match[2].join((*order, year))}{clock}" for order in (("%d", "%m"), ("%m", "%d"))]
    found = [other for other in map(_SLASHED.match, map(str.strip, values)) if other]
    if any(int(other[1]) > 12 for other in found):
        return f"has the day first: add --time-format '{formats[0]}'"
    if any(int(other[3]) > 12 for other in found):
        return f"has the month first: add --time-format '{formats[1]}'"
    return f"has day and month in an unknown order: add --time-format '{formats[0]}' or '{formats[1]}'"
