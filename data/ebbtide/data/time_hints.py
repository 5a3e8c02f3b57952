"""What a value that is no plausible time probably is: for error messages."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from ebbtide.interest.time_units import TimeUnit, day, plausible_unit, written_date

ROUNDED = r"^\d(?:[.,]\d{1,7})?[eE]\+?\d+$"
"""A number that a spreadsheet has rounded, as in ``1.7E+09``: too few digits for a time."""

_EXCEL_DAYS = (20_000, 80_000)
_EXCEL_EPOCH = datetime(1899, 12, 30, tzinfo=timezone.utc)
_SLASHED = re.compile(r"^(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?:[ T,]+(\d{1,2}):(\d{2})(:\d{2})?.*)?$")
_TIME_OF_DAY = re.compile(r"^\d{1,3}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?$")
_DURATION = re.compile(r"^(P[\dT]|\d+ days?\b)")


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
    if found := written_date(value.removesuffix(".0")):
        date, layout = found
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
