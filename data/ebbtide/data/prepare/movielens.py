"""MovieLens: ratings of films.

Format: the README of each edition at https://grouplens.org/datasets/movielens, and
``recommenders/datasets/movielens.py`` of https://github.com/recommenders-team/recommenders:

- 20M, 25M, 32M, latest: ``ratings.csv`` (``userId``, ``movieId``, ``rating``, ``timestamp`` in Unix seconds) and
  ``movies.csv`` (``movieId``, ``title``, ``genres``); CSV with a header, UTF-8, titles with commas in quotes.
- 1M, 10M: ``ratings.dat`` and ``movies.dat`` with the same columns, no header, separated by ``::``; titles of 1M are in
  Latin-1.

A title ends with the year in brackets, genres are separated by ``|``; ``(no genres listed)`` stands for none.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ebbtide.data.errors import DataError
from ebbtide.data.prepare.folder import SourceFolder, scan_csv
from ebbtide.data.prepare.source import Frames, Source, left_out
from ebbtide.data.prepare.texts import clean, sentences
from ebbtide.data.text_files import read_utf8

_RATING = ("userId", "movieId", "rating", "timestamp")
_FILM = ("movieId", "title", "genres")
_LINE_END = "\x01"


def read(folder: SourceFolder) -> Frames:
    """One edition."""
    ratings = folder.find_one("ratings.csv", "ratings.dat")
    films = ratings.with_name(f"movies{ratings.suffix}")
    if not films.is_file():
        raise DataError(f"{films}: no such file; expected the unpacked files of {folder.origin}")
    rows = scan_csv(ratings, *_RATING) if ratings.suffix == ".csv" else _scan_dat(ratings)
    table = scan_csv(films, *_FILM) if films.suffix == ".csv" else _read_films(films)
    events = rows.select(
        left_out({}),
        user="userId",
        item="movieId",
        time=pl.from_epoch(pl.col("timestamp").cast(pl.Int64, strict=False), time_unit="s")
        .dt.cast_time_unit("ms")
        .dt.replace_time_zone("UTC"),
        weight=pl.col("rating").cast(pl.Float32, strict=False),
    )
    genres = pl.when(pl.col("genres") != "(no genres listed)").then("genres")
    items = table.select(
        item="movieId",
        title=clean(pl.col("title")),
        text=sentences(pl.col("title"), genres.str.replace_all("|", ", ", literal=True)),
        year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64),
        genres=genres,
    )
    return Frames(events, items)


def _scan_dat(file: Path) -> pl.LazyFrame:
    """Lines whose fields are separated by ``::``, which is no separator that a CSV reader knows."""
    lines = pl.scan_csv(
        file, glob=False, has_header=False, separator=_LINE_END, quote_char=None, schema={"line": pl.String()}
    )
    fields = pl.col("line").str.strip_chars_end("\r").str.split_exact("::", len(_RATING) - 1)
    return lines.select(fields.struct.rename_fields(list(_RATING))).unnest("line")


def _read_films(file: Path) -> pl.LazyFrame:
    lines = read_utf8(file, "latin-1").decode().splitlines()
    # A title may have colons of its own: the id ends at the first "::", the genres begin after the last.
    fields = pl.col("line").str.extract_groups(r"^(\d+)::(.*)::([^:]*)$").struct.rename_fields(list(_FILM))
    return pl.LazyFrame({"line": lines}, schema={"line": pl.String()}).select(fields).unnest("line")


SOURCE = Source("movielens", "MovieLens", "https://grouplens.org/datasets/movielens", read)
