"""The data sets of the quality benchmark, read by file and column names alone, and their short forms."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ebbtide.data.dataset import DataReference

ROOT = Path(__file__).parents[2]
HOLDOUT = "time:0.2"
_SEED = 0


@dataclass(frozen=True)
class DataSet:
    """Where a log is, how it is read, and whether users take things again in it."""

    name: str
    reference: DataReference
    repeats: bool
    quick_users: int
    """Users in the short form."""
    users: int | None = None
    """Users in the full form; None for all. Fewer than all are drawn by a seed, with the items they took."""


def _reference(events: Path, catalog: Path, user: str, item: str, time: str, template: str) -> DataReference:
    return DataReference(
        events=str(events),
        catalog=str(catalog),
        user_column=user,
        item_column=item,
        time_column=time,
        weight_column=None,
        catalog_item_column=item,
        text_template=template,
        title_template=None,
        max_bad_rows=0.01,
        holdout=HOLDOUT,
    )


def movielens() -> DataSet:
    """The shipped film ratings."""
    folder = ROOT / "examples" / "movielens-small"
    return DataSet(
        name="movielens-small",
        reference=_reference(
            *(folder / "ratings.parquet", folder / "movies.parquet"),
            *("userId", "movieId", "timestamp", "{title} ({year}). {genres}"),
        ),
        repeats=False,
        quick_users=100,
    )


def complete_journey(folder: Path, python: Path | None) -> DataSet:
    """Groceries; written into ``folder`` by the environment that has them, once."""
    events, catalog = folder / "transactions.parquet", folder / "products.parquet"
    if not (events.is_file() and catalog.is_file()):
        script = Path(__file__).parent / "complete_journey.py"
        if python is None:
            raise FileNotFoundError(f"{folder}: no {events.name}; expected it there, or --library to write it")
        subprocess.run([str(python), str(script), str(folder)], check=True)
    return DataSet(
        name="complete-journey",
        reference=_reference(
            *(events, catalog, "household_id", "product_id", "transaction_timestamp"),
            "{product_type}. {product_category}, {department}. {brand} brand, {package_size}",
        ),
        repeats=True,
        quick_users=40,
    )


def drawn(dataset: DataSet, users: int | None, folder: Path) -> DataReference:
    """The files to read: the whole data set, or the events of a few users and the items they took, which are written.

    Args:
        dataset: What to draw from.
        users: How many; None for all.
        folder: For the files.
    """
    reference = dataset.reference
    if users is None:
        return reference
    events = pl.read_parquet(reference.events)
    everyone = events[reference.user_column].unique().sort().to_numpy()
    chosen = np.random.default_rng(_SEED).choice(everyone, min(users, len(everyone)), replace=False)
    events = events.filter(pl.col(reference.user_column).is_in(chosen.tolist()))
    taken = events[reference.item_column].unique().to_list()
    catalog = pl.read_parquet(str(reference.catalog)).filter(pl.col(reference.catalog_item_column).is_in(taken))
    folder.mkdir(parents=True, exist_ok=True)
    events.write_parquet(folder / "events.parquet")
    catalog.write_parquet(folder / "catalog.parquet")
    return reference.model_copy(
        update={"events": str(folder / "events.parquet"), "catalog": str(folder / "catalog.parquet")}
    )
