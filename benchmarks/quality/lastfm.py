"""Reads the tagging events of Last.fm (HetRec 2011) from a folder of Parquet files, and writes events and catalog.

The folder has ``tag_events.parquet`` (userID, artistID, tagID, time), ``artists.parquet`` (id, name) and
``tags.parquet`` (tagID, tagValue). The terms of the data allow non-commercial use only, so it is not part of this
project. An event is a user who tags an artist, whatever the number of tags. The text of an artist names the tags that
it got before the validation period: later tags would tell who will tag it.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

_BEFORE_VALIDATION = 0.72
"""Share of the events before the validation period: nine tenths of the four fifths before the split time."""
_TAGS_PER_ARTIST = 8


def write_lastfm(source: Path, folder: Path) -> tuple[Path, Path]:
    """Writes ``events.parquet`` (user, artist, time) and ``artists.parquet`` (artist, text); returns their paths.

    Args:
        source: Folder with the three files.
        folder: Folder to write to.

    Raises:
        FileNotFoundError: One of the three files does not exist.
    """
    for name in ("tag_events.parquet", "artists.parquet", "tags.parquet"):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source}: got no {name}; expected tag_events, artists and tags as Parquet")
    tagged = pl.read_parquet(source / "tag_events.parquet")
    events = (
        tagged.select(user="userID", artist="artistID", time=pl.col("time").dt.cast_time_unit("ms"))
        .unique()
        .sort("time", "user", "artist")
    )
    until = events["time"][int(_BEFORE_VALIDATION * events.height)]
    tags = (
        tagged.filter(pl.col("time") < until)
        .join(pl.read_parquet(source / "tags.parquet"), on="tagID")
        .group_by("artistID", "tagValue")
        .len()
        .sort("len", "tagValue", descending=[True, False])
        .group_by("artistID", maintain_order=True)
        .agg(pl.col("tagValue").head(_TAGS_PER_ARTIST).str.join(", ").alias("tags"))
    )
    artists = (
        pl.read_parquet(source / "artists.parquet")
        .join(tags, left_on="id", right_on="artistID", how="left", maintain_order="left")
        .filter(pl.col("id").is_in(events["artist"].unique().to_list()))
        .select(artist="id", text=pl.concat_str(pl.col("name"), pl.lit(". ") + pl.col("tags"), ignore_nulls=True))
    )
    folder.mkdir(parents=True, exist_ok=True)
    events = events.join(artists, on="artist", how="semi")
    events.write_parquet(folder / "events.parquet")
    artists.write_parquet(folder / "artists.parquet")
    return folder / "events.parquet", folder / "artists.parquet"
