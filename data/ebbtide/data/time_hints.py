"""What a value that is no plausible time probably is: for error messages."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import polars as pl

from ebbtide.interest.time_units import TimeUnit, day, plausible_unit, written_date

ROUNDED = r"^\d(?:[.,]\d{1,7})?[eE]\+?\d+$"
"""A number that a spreadsheet has rounded, as in ``1.7E+09``: too few digits for a time."""

_EXCEL_DAYS = (34_700, 80_000)
"""1995 to 2119."""
_UNIX_DAYS = (9_131, 34_700)
"""1995 to 2065."""
_EXCEL_EPOCH = datetime(1899, 12, 30, tzinfo=timezone.utc)
_SLASHED = re.compile(r"^(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?:[ T,]+(\d{1,2}):(\d{2})(:\d{2})?.*)?$")
_TIME_OF_DAY = re.compile(r"^\d{1,3}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?$")
_AM_PM = re.compile(r"[AaPp]\.?[Mm]\b")
_LAYOUTS = (
    "%a, %d %b %Y %H:%M:%S GMT",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %H:%M:%S %z %Y",
    "%d/%b/%Y:%H:%M:%S %z",
    *(
        f"{date}{clock}"
        for date in ("%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%Y.%m.%d")
        for clock in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
    ),
)
"""Of texts that have only one reading."""
_OTHER_CLOCKS = (
    ("a number of .NET ticks", 1e7, 62_135_596_800),
    ("a Windows file time", 1e7, 11_644_473_600),
    ("a WebKit time", 1e6, 11_644_473_600),
    ("a Julian day", 1 / 86_400, 210_866_760_000),
)
"""Name, units per second, and seconds from its start to 1970."""
_CLOCK = r"([01]\d|2[0-3])"
_COMPACT = (
    ("%Y%m%d%H", rf"^(199[5-9]|20\d\d)\d{{4}}{_CLOCK}$", 1),
    ("%y%m%d%H%M", rf"^\d{{6}}{_CLOCK}[0-5]\d$", 30),
)
"""Format, pattern, and how many different numbers must be of this form."""
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
    layout = next((layout for layout in _LAYOUTS if _fits(value, layout)), None)
    if layout is not None:
        return f"has another form: add --time-format '{layout}'"
    try:
        number = float(value)
    except ValueError:
        return ""
    if number != number or abs(number) == float("inf"):
        return ""
    unit = plausible_unit(number)
    if unit is not None:
        return f"is {day(number, unit)} in {unit.value}"
    for name, per_second, before_1970 in _OTHER_CLOCKS:
        seconds = number / per_second - before_1970
        if plausible_unit(seconds) is TimeUnit.s:
            return f"looks like {name} of {day(seconds, TimeUnit.s)}: write Unix times"
    if found := written_date(value.removesuffix(".0")):
        date, layout = found
        return f"looks like the date {date:%Y-%m-%d} written as a number: add --time-format {layout}"
    if _EXCEL_DAYS[0] <= number <= _EXCEL_DAYS[1]:
        date = _EXCEL_EPOCH + timedelta(days=number)
        return f"looks like the Excel serial number of {date:%Y-%m-%d}: save the column as yyyy-mm-dd hh:mm:ss"
    if _UNIX_DAYS[0] <= number < _UNIX_DAYS[1]:
        return f"looks like the days since 1970 of {day(number * 86_400, TimeUnit.s)}: write the days times 86400"
    if number >= 0:
        return (
            f"would be {day(number, TimeUnit.s)} in s, so it may be a duration or count from another start: "
            "--time-unit s (ms, us, ns) reads it like that"
        )
    return ""


def _slashed(match: re.Match[str], values: tuple[str, ...]) -> str:
    is_half = _AM_PM.search(match[0]) is not None
    clock = "" if match[5] is None else " %I:%M" if is_half else " %H:%M"
    clock += ("" if match[7] is None else ":%S") + (" %p" if is_half and clock else "")
    year = "%Y" if len(match[4]) == 4 else "%y"
    formats = [f"{match[2].join((*order, year))}{clock}" for order in (("%d", "%m"), ("%m", "%d"))]
    found = [other for other in map(_SLASHED.match, map(str.strip, values)) if other]
    if any(int(other[1]) > 12 for other in found):
        return f"has the day first: add --time-format '{formats[0]}'"
    if any(int(other[3]) > 12 for other in found):
        return f"has the month first: add --time-format '{formats[1]}'"
    return f"has day and month in an unknown order: add --time-format '{formats[0]}' or '{formats[1]}'"


def _fits(value: str, layout: str) -> bool:
    try:
        datetime.strptime(value, layout)
    except ValueError:
        return False
    return True


def compact_layout(numbers: pl.Series) -> str | None:
    """The strptime format of dates written as numbers that are plausible Unix times too; None for other numbers.

    2024010112 (1 January 2024, 12 o'clock) is a time of the year 2034 in seconds, and 2401011200 one of 2046.

    Args:
        numbers: Of one column; null where a row has none.
    """
    given = numbers.drop_nulls()
    if not len(given) or not given.dtype.is_integer():
        return None
    texts = given.unique().cast(pl.String)
    for layout, pattern, fewest in _COMPACT:
        # One number in a hundred is a date by chance, so one that is no date is enough to tell.
        if len(texts) >= fewest and texts.str.contains(pattern).all():
            date = texts.str.slice(0, 8 if "%Y" in layout else 6)
            if not date.str.to_date(layout[:6], strict=False).has_nulls():
                return layout
    return None
