"""Last.fm 1K: every listen of 992 users.

Format: http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html. One file without header, separated by tabs, with
quotes as ordinary characters, newest listen of a user first:

    userid  timestamp (2009-05-04T23:08:57Z)  artist MBID  artist name  track MBID  track name

MBIDs may be empty. A track is known by the names of artist and track; its id is its first MBID, or the two names where
it has none. The data set was published in May 2010, yet single listens have a later time (2013): the clock was wrong.
"""

from __future__ import annotations

from datetime import datetime, timezone

import polars as pl

from ebbtide.data.prepare.folder import SourceFolder, scan_tsv
from ebbtide.data.prepare.source import Frames, Source, left_out
from ebbtide.data.prepare.texts import clean

PUBLISHED = datetime(2010, 6, 1, tzinfo=timezone.utc)
"""No listen can be later."""

_FILE = "userid-timestamp-artid-artname-traid-traname.tsv"
_NAMES = ("artist", "track")


def read(folder: SourceFolder) -> Frames:
    """The file of listens; the file of user profiles is not used."""
    file = folder.find_one(_FILE, f"{_FILE}.gz")
    rows = scan_tsv(file, "user", "time", "artist_mbid", "artist", "mbid", "track").with_columns(
        *(clean(pl.col(name)) for name in ("artist", "track", "mbid")),
        time=pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", strict=False, time_unit="ms", time_zone="UTC"),
    )
    names = pl.concat_str(_NAMES, separator=" / ")
    tracks = rows.drop_nulls(_NAMES).group_by(_NAMES).agg(pl.col("mbid").drop_nulls().sort().first())
    tracks = tracks.with_columns(item=pl.coalesce("mbid", names))
    events = rows.join(tracks, on=_NAMES, how="left", maintain_order="left").select(
        left_out(
            {
                "listens without the name of artist or track": pl.col("artist").is_null() | pl.col("track").is_null(),
                "listens later than the data set": pl.col("time") >= PUBLISHED,
            }
        ),
        "user",
        "item",
        "time",
    )
    items = tracks.sort(_NAMES).select(
        "item",
        "artist",
        title=pl.format("{} - {}", "artist", "track"),
        text=pl.format("{}, a song by {}", "track", "artist"),
    )
    return Frames(events, items)


SOURCE = Source("lastfm-1k", "Last.fm 1K users", "http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html", read)
