"""Event times as Unix milliseconds: numbers of a unit found by magnitude, ISO 8601, or text of a named format."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from ebbtide.data.bad_rows import shown, value_at
from ebbtide.data.errors import DataError
from ebbtide.data.iso_times import iso_ms
from ebbtide.data.tables import Table
from ebbtide.data.time_hints import ROUNDED, compact_layout, likely_reading
from ebbtide.interest.time_units import PLAUSIBLE_S, TimeUnit, day

EXPECTED = "Unix time in s, ms, us or ns between 1995 and 2200, a date-time, or ISO 8601 text"

_YEAR_MS = 31_557_600_000
_DAY_MS = 86_400_000
_SMALL_LOG = 100
_MAX_MS = PLAUSIBLE_S[1] * 1000
_EXAMINED = 10_000


@dataclass
class Times:
    """Times of a column, and which rows have none that can be used."""

    ms: pl.Series
    """``[rows]``, int64: Unix milliseconds, UTC; null where the time cannot be used."""
    faults: list[tuple[str, pl.Series, str]] = field(default_factory=list)
    """Reason, the rows (bool), and what the first such value probably is."""
    unit: TimeUnit | None = None
    """Of numeric times."""


def read_times(
    table: Table,
    column: str,
    unit: TimeUnit | None = None,
    time_format: str | None = None,
    *,
    found: TimeUnit | None = None,
) -> Times:
    """The times of a column.

    Args:
        table: Read by `read_table`.
        column: Numbers of one unit, dates, date-times, or text (UTC where it names no zone).
        unit: Of numbers; None: by magnitude. A stated unit also allows times that count from another start than 1970.
        time_format: strptime format of text (or of dates written as numbers), such as ``%d/%m/%Y %H:%M``.
        found: What the magnitude of earlier numbers of the column says.

    Raises:
        DataError: The column's type is no time, no value can be read, or another unit than the stated one is right.
    """
    if unit is not None and time_format is not None:
        raise DataError(f"time: got --time-unit {unit.value} and --time-format {time_format!r}; expected one of them")
    values = table.frame[column]
    kind = values.dtype
    if isinstance(kind, (pl.Date, pl.Datetime)):
        _refuse_other_unit(table, column, values)
        return _of_ms(table, column, values.dt.epoch("ms"))
    if isinstance(kind, (pl.Time, pl.Duration)):
        raise table.type_error(column, f"{EXPECTED} (a time of day or a duration has no date)")
    if kind == pl.Float32:
        raise table.type_error(column, "int64 or float64: a 32-bit float holds a Unix time to within minutes only")
    if kind.is_numeric():
        # With a format a float column holds whole numbers as well: data frames store integers with gaps as floats.
        is_float = time_format is None and not kind.is_integer()
        values = values.cast(pl.Float64 if is_float else pl.Int64, strict=False)
        if time_format is None:
            return _of_numbers(table, column, values, unit, found)
    elif not isinstance(kind, (pl.String, pl.Categorical, pl.Enum, pl.Binary, pl.Null)):
        raise table.type_error(column, EXPECTED)
    texts = (values.cast(pl.String) if kind.is_numeric() else table.text(column, is_id=True)).str.strip_chars()
    texts = texts.set(texts == "", None)
    if time_format is not None:
        return _of_format(table, column, texts, time_format)
    numbers = _numbers_in(texts)
    count = len(texts) - texts.null_count()
    if count and numbers.is_not_null().sum() * 2 > count:
        return _of_numbers(table, column, numbers, unit, found)
    times = _of_ms(table, column, iso_ms(texts))
    if times.ms.null_count() == len(times.ms) and count:
        _refuse_column(table, column, texts.is_not_null())
    return times


def in_future(times_ms: pl.Series) -> tuple[pl.Series, int]:
    """Times far after the body of a log, which begins at the 10 % quantile of the times and ends at the 90 % quantile.

    Args:
        times_ms: Unix milliseconds; null for rows that do not count.

    Returns:
        True for times later than the body's end by more than the body's length and by more than some years, and these
        years: 5, or 20 for a log of fewer than 100 events, whose body says little.
    """
    years = 5 if len(times_ms) - times_ms.null_count() >= _SMALL_LOG else 20
    begin, end = (times_ms.quantile(share, "lower") for share in (0.1, 0.9))
    if begin is None or end is None:
        return pl.repeat(False, len(times_ms), dtype=pl.Boolean, eager=True), years
    return (times_ms > end + max(end - begin, years * _YEAR_MS)).fill_null(False), years


def _numbers_in(texts: pl.Series) -> pl.Series:
    """Texts as numbers, exact where all are whole; null where a text is no number."""
    floats = texts.cast(pl.Float64, strict=False)
    # A spreadsheet writes 1.7E+09 for 1700000123: the digits are lost.
    is_number = floats.is_finite().fill_null(False) & ~texts.str.contains(ROUNDED).fill_null(False)
    floats = floats.set(~is_number, None)
    whole = texts.cast(pl.Int64, strict=False)
    return whole if whole.null_count() == floats.null_count() else floats


def _of_ms(table: Table, column: str, ms: pl.Series) -> Times:
    before, after = (ms < 0).fill_null(False), (ms >= _MAX_MS).fill_null(False)
    zero = ms.is_between(0, _DAY_MS, closed="left").fill_null(False)
    faults = [
        ("an unreadable time", ms.is_null(), _hint(table, column, ms.is_null())),
        ("a time before 1970", before, ""),
        ("a time of 1970-01-01, which programs write for a missing one", zero, ""),
        ("a time after 2200", after, ""),
    ]
    return Times(ms.set(before | zero | after, None), faults)


def _of_format(table: Table, column: str, texts: pl.Series, time_format: str) -> Times:
    if "%Z" in time_format:
        raise DataError(
            f"--time-format: got {time_format!r}; expected %z for an offset such as +0100. The name of a zone gives no "
            "offset: write it as it stands, as in '%Y-%m-%d %H:%M:%S UTC', and times are read as UTC"
        )
    if ("%H" in time_format or "%I" in time_format) and "%M" not in time_format:
        # polars reads no hour without its minutes.
        texts, time_format = texts + " 00", f"{time_format} %M"
    # strptime's %f is a fraction of a second; polars calls that %.f and reads %f as nanoseconds.
    polars_format = time_format.replace(".%f", "%.f").replace("%f", "%6f")
    try:
        read = texts.str.to_datetime(polars_format, strict=False, time_unit="ms")
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"--time-format: got {time_format!r}; expected a strptime format ({reason})") from None
    if read.null_count() == len(read) and texts.null_count() < len(texts):
        row = texts.is_not_null().arg_max() or 0
        raise table.error(column, row, f"a time of the form --time-format {time_format!r}")
    return _of_ms(table, column, read.dt.epoch("ms"))


def _of_numbers(table: Table, column: str, numbers: pl.Series, unit: TimeUnit | None, found: TimeUnit | None) -> Times:
    given = numbers.is_not_null()
    plausible = {one: _is_plausible(numbers, one) for one in TimeUnit}
    counts = {one: int(rows.sum()) for one, rows in plausible.items()}
    best = max(counts, key=lambda one: counts[one])
    if unit is None:
        if found is None and not counts[best] and given.any():
            _refuse_column(table, column, given)
        layout = None if found else compact_layout(numbers)
        if layout is not None:
            row = given.arg_max() or 0
            raise table.error(
                column,
                row,
                f"{EXPECTED}. All values are dates of the form {layout}: add --time-format {layout}, or --time-unit "
                f"{best.value} if this is {day(numbers[row], best)}",
            )
        unit = found or best
        usable = plausible[unit]
    elif unit is not best and counts[best] == given.sum() > 0 and not counts[unit]:
        row = given.arg_max() or 0
        raise table.error(
            column,
            row,
            f"times in {unit.value} (--time-unit): that would be {day(numbers[row], unit)}; in {best.value} it is "
            f"{day(numbers[row], best)}",
        )
    elif counts[unit] * 2 > given.sum():
        usable = plausible[unit]
    else:
        usable = ((numbers >= 0) & (numbers < PLAUSIBLE_S[1] * unit.per_second)).fill_null(False)
    faults = [("an unreadable time", ~given, _hint(table, column, ~given))]
    for other in TimeUnit:
        if other is not unit:
            rows = plausible[other] & ~usable
            faults.append((f"a time in {other.value} among times in {unit.value}", rows, _hint(table, column, rows)))
    known = plausible[TimeUnit.s] | plausible[TimeUnit.ms] | plausible[TimeUnit.us] | plausible[TimeUnit.ns]
    rest = given & ~usable & ~known
    before = rest & (numbers < 0).fill_null(False)
    faults.append(("a time before 1970", before, ""))
    faults.append(("a time outside 1995 to 2200", rest & ~before, _hint(table, column, rest & ~before)))
    return Times(_to_ms(numbers.set(~usable, None), unit), faults, unit)


def _is_plausible(numbers: pl.Series, unit: TimeUnit) -> pl.Series:
    first, end = (second * unit.per_second for second in PLAUSIBLE_S)
    return numbers.is_between(first, end, closed="left").fill_null(False)


def _to_ms(numbers: pl.Series, unit: TimeUnit) -> pl.Series:
    if unit is TimeUnit.s:
        ms = numbers * 1000
    else:
        per_ms = unit.per_second // 1000
        ms = numbers // per_ms if numbers.dtype.is_integer() else numbers / per_ms
    return (ms if ms.dtype.is_integer() else ms.cast(pl.Float64).round(0)).cast(pl.Int64)


def _hint(table: Table, column: str, rows: pl.Series) -> str:
    """What the first of the values is likely to mean; empty where nothing fits."""
    at = rows.arg_max()
    if at is None or not rows[at]:
        return ""
    value = value_at(table.frame[column], at)
    reading = "" if value is None else likely_reading(str(value))
    return f"{shown(value)} {reading}" if reading else ""


def _refuse_other_unit(table: Table, column: str, values: pl.Series) -> None:
    """Refuses date-times that were made from numbers of another unit: all of them in 1970, or far in the future.

    Raises:
        DataError: With the date that is right.
    """
    given = values.drop_nulls()
    if isinstance(given.dtype, pl.Date) or given.is_empty() or _is_plausible(given.dt.epoch("ms"), TimeUnit.ms).any():
        return
    # Programs that read numbers as nanoseconds may have stored the result in another unit.
    for numbers in (given.to_physical(), given.dt.epoch("ns")):
        for unit in TimeUnit:
            if _is_plausible(numbers, unit).all():
                raise table.error(
                    column,
                    values.is_not_null().arg_max() or 0,
                    f"the times of the events. The numbers behind them are {unit.value} since 1970, which gives "
                    f"{day(numbers[0], unit)}: make the date-times of this unit, or store the numbers",
                )


def _refuse_column(table: Table, column: str, rows: pl.Series) -> None:
    row = rows.arg_max() or 0
    given = table.frame[column].filter(rows)
    # From the whole column: the days above 12 may all come late in a month.
    reading = likely_reading(*map(str, given.gather_every(max(1, len(given) // _EXAMINED))))
    hint = f"It {reading}" if reading else "--time-format names another format"
    raise table.error(column, row, f"{EXPECTED}. {hint}")
