"""ISO 8601 texts as Unix milliseconds: one polars format for the common case, a pattern for all other rows."""

from __future__ import annotations

import polars as pl

_COMMON = (
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f%:z",
    "%Y-%m-%d %H:%M:%S%.f%:z",
    "%Y-%m-%d %H:%M:%S%.f UTC",
    "%Y-%m-%d",
)
_PATTERN = (
    # Extended or basic date; year first with slashes too, as no country writes year, day, month.
    r"^(?P<year>\d{4})(?:[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})|(?P<month2>\d{2})(?P<day2>\d{2}))"
    r"(?:(?:[Tt]|\s+)(?P<hour>\d{1,2}):?(?P<minute>\d{2})(?::?(?P<second>\d{2})(?:[.,](?P<fraction>\d+))?)?"
    r"\s*(?:[Zz]|UTC|GMT|(?P<sign>[+-])(?P<zone_hour>\d{2})(?::?(?P<zone_minute>\d{2}))?)?)?$"
)
_MAX_ZONE_HOURS = 15


def iso_ms(texts: pl.Series) -> pl.Series:
    """Unix milliseconds of ISO 8601 texts (UTC where a text names no zone); null where a text is none.

    Args:
        texts: Extended (``2024-01-05T12:00:00+01:00``) or basic (``20240105T120000Z``), with T or spaces, with any or
            no zone, also ``UTC``; the rows of one column may differ.
    """
    ms = pl.Series(texts.name, [None], dtype=pl.Int64).new_from_index(0, len(texts))
    first = texts.drop_nulls().head(1)
    for layout in _COMMON:
        if len(first) and _parse(first, layout).null_count() == 0:
            ms = _parse(texts, layout)
            break
    rest = (ms.is_null() & texts.is_not_null()).arg_true()
    return ms if not len(rest) else ms.scatter(rest, _by_pattern(texts.gather(rest)))


def _parse(texts: pl.Series, layout: str) -> pl.Series:
    return texts.str.to_datetime(layout, strict=False, time_unit="ms").dt.epoch("ms")


def _by_pattern(texts: pl.Series) -> pl.Series:
    found = texts.str.extract_groups(_PATTERN).struct.unnest()

    def number(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Int64).fill_null(0)

    def padded(name: str) -> pl.Expr:
        return pl.col(name).fill_null("00").str.zfill(2)

    date = pl.concat_str(
        "year",
        pl.coalesce("month", "month2").str.zfill(2),
        pl.coalesce("day", "day2").str.zfill(2),
        padded("hour"),
        padded("minute"),
        padded("second"),
    )
    fraction = pl.col("fraction").fill_null("0").str.slice(0, 3).str.pad_end(3, "0").cast(pl.Int64)
    zone_ms = (number("zone_hour") * 60 + number("zone_minute")) * 60_000
    sign = pl.when(pl.col("sign") == "-").then(-1).otherwise(1)
    is_zone = (number("zone_hour") < _MAX_ZONE_HOURS) & (number("zone_minute") < 60)
    ms = date.str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="ms").dt.epoch("ms") + fraction - sign * zone_ms
    return found.select(pl.when(is_zone).then(ms)).to_series()
