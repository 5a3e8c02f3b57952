"""Real data for the train stage, cut down so that a fit takes seconds."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ebbtide.data.catalog import read_catalog
from ebbtide.data.events import EventColumns, build_log, read_events
from ebbtide.train.encoder import embed_cached, encoder_fingerprint, encoder_folder

MOVIELENS = Path(__file__).parents[2] / "examples" / "movielens-small"
COLUMNS = EventColumns(user="userId", item="movieId", time="timestamp")


@pytest.fixture(scope="session")
def small_files(tmp_path_factory):
    """The ratings of 40 users and the films they rated, as files."""
    folder = tmp_path_factory.mktemp("small")
    ratings = pl.read_parquet(MOVIELENS / "ratings.parquet").filter(pl.col("userId") <= 40)
    popular = ratings["movieId"].value_counts().sort("count", "movieId", descending=True)["movieId"].head(300)
    ratings = ratings.filter(pl.col("movieId").is_in(popular.implode()))
    movies = pl.read_parquet(MOVIELENS / "movies.parquet").filter(pl.col("movieId").is_in(popular.implode()))
    ratings.write_parquet(folder / "ratings.parquet")
    movies.write_parquet(folder / "movies.parquet")
    return folder


@pytest.fixture(scope="session")
def small_log(small_files):
    catalog, _ = read_catalog(small_files / "movies.parquet", "movieId", "{title} ({year}). {genres}")
    frame, _ = read_events(small_files / "ratings.parquet", COLUMNS, catalog.index)
    return build_log(frame, catalog.index), catalog


@pytest.fixture(scope="session")
def small_vectors(small_log, tmp_path_factory):
    folder = encoder_folder("packaged")
    return embed_cached(folder, encoder_fingerprint(folder), small_log[1].text, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def random_log():
    """A made-up log with ties, long pauses and users of one event."""
    random = np.random.default_rng(3)
    lengths = [1, 2, 30, 7, 1, 19]
    users = np.repeat(np.arange(len(lengths)), lengths)
    times = np.sort(random.choice([0, 60_000, 10**7, 10**9], size=users.shape[0])).cumsum()
    frame = pl.DataFrame(
        {
            "user": [f"u{user}" for user in users],
            "item": [f"i{item}" for item in random.integers(0, 12, users.shape[0])],
            "time_ms": times.astype(np.int64),
            "weight": random.uniform(0.5, 2, users.shape[0]).astype(np.float32),
        }
    )
    return build_log(frame, {f"i{item}": item for item in range(12)})
