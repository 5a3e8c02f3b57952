"""Ranked lists before each basket: made by a model, or read from a predictions file that anyone may write.

A predictions file is Parquet or CSV, one row for each rank of each list: ``user`` (text), ``time`` (date-time, UTC),
``rank`` (from 1), ``item`` (text), ``score``, ``is_relevant`` (whether the item is in the basket) and
``relevant_items`` (how many are), so that every ranking metric can be computed from the file alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from ebbtide.data.baskets import Baskets, Ints
from ebbtide.data.catalog import Catalog
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.data.tables import read_table
from ebbtide.data.times import read_times
from ebbtide.interest.time_units import TimeUnit
from ebbtide.train.evaluation.online import OnlineReplay
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.scores import CONTEXT_EVENTS, exclude_seen, score_baskets
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import Popularity
from ebbtide.train.windows import LogTensors

Floats = npt.NDArray[np.float32]

LENGTH = 20
"""Length of a list: the longest cut-off of the metrics."""
NO_ITEM = -1
"""Fills a list that is shorter."""
_SHOWN = 3
_CSV_TIME = "%Y-%m-%dT%H:%M:%S%.3fZ"


@dataclass(frozen=True)
class RankedLists:
    """The best items before each basket, best first."""

    item: Ints
    """``[baskets, length]``, catalog indices, no item twice in a row; `NO_ITEM` where the list has ended."""
    score: Floats
    """``[baskets, length]``, not rising along a row; minus infinity where the list has ended."""


@torch.inference_mode()
def rank_baskets(
    model: InterestModel,
    log: EventLog,
    baskets: Baskets,
    popularity: Popularity | None,
    *,
    repeats: bool,
    context_events: int | None = CONTEXT_EVENTS,
    progress: Callable[[int], None] | None = None,
    learner: OnlineReplay | None = None,
    length: int = LENGTH,
) -> tuple[RankedLists, Floats]:
    """A model's lists over the whole catalog.

    Args:
        model: Put into evaluation mode.
        log: Events.
        baskets: The baskets to predict.
        popularity: The prior over time; None for a model without prior.
        repeats: Whether seen items may be in the list.
        context_events: How many events of a user count at most, the newest ones; None for all.
        progress: Called with the number of baskets just done.
        learner: Moves the users' alphas as the baskets happen; None where they stay as the gate has them.
        length: Of the lists.

    Returns:
        The lists, and alpha ``[baskets]`` as the model blended history and session.
    """
    tensors = LogTensors.of(log, model.config.session_gap_ms)
    item = np.full((len(baskets), length), NO_ITEM, dtype=np.int64)
    score = np.full((len(baskets), length), -np.inf, dtype=np.float32)
    alpha = np.empty(len(baskets), dtype=np.float32)
    for scored in score_baskets(
        *(model, log, tensors, baskets.head, popularity),
        context_events=context_events,
        with_difference=learner is not None,
    ):
        scores = scored.scores()
        if not repeats:
            exclude_seen(scores, tensors, scored.head)
        used_alpha = scored.alpha if learner is None else learner.learn(scored, scores)
        best = torch.topk(scores, min(length, scores.shape[1]))
        index = np.searchsorted(baskets.head, scored.head)
        width = best.indices.shape[1]
        score[index, :width] = best.values.numpy()
        item[index, :width] = np.where(np.isfinite(best.values.numpy()), best.indices.numpy(), NO_ITEM)
        alpha[index] = used_alpha.mean(1).numpy()
        if progress is not None:
            progress(len(scored.head))
    return RankedLists(item, score), alpha


def write_baskets(path: Path, log: EventLog, baskets: Baskets) -> None:
    """Writes what a recommender has to predict: ``user`` (text) and ``time`` (date-time, UTC) of each basket."""
    _write(_whose(log, baskets), path)


def _whose(log: EventLog, baskets: Baskets) -> pl.DataFrame:
    """User and time of each basket, ``[baskets]`` each."""
    user = np.searchsorted(log.start, baskets.head, side="right") - 1
    return pl.DataFrame(
        {
            "user": pl.Series(log.users, dtype=pl.String).gather(user),
            "time": pl.Series(log.time_ms[baskets.head]).cast(pl.Datetime("ms", "UTC")),
        }
    )


def _write(frame: pl.DataFrame, path: Path) -> None:
    """Writes CSV if the file's name says so, otherwise Parquet."""
    if path.suffix.lower() == ".csv":
        frame.write_csv(path, datetime_format=_CSV_TIME)
    else:
        frame.write_parquet(path)


def write_predictions(
    path: Path, lists: RankedLists, log: EventLog, baskets: Baskets, relevance: Relevance, catalog: Catalog
) -> None:
    """Writes the lists as a predictions file; see the top of this file for its columns."""
    kept = lists.item != NO_ITEM
    case, index = np.nonzero(kept)
    frame = _whose(log, baskets)[case].with_columns(
        rank=pl.Series((index + 1).astype(np.int32)),
        item=pl.Series(catalog.item_id, dtype=pl.String).gather(lists.item[kept]),
        score=pl.Series(lists.score[kept]),
        is_relevant=pl.Series(relevance.among(lists.item)[kept]),
        relevant_items=pl.Series(relevance.counts[case].astype(np.int32)),
    )
    _write(frame, path)


def read_predictions(path: Path, log: EventLog, baskets: Baskets, catalog: Catalog) -> RankedLists:
    """Lists from a predictions file; only ``user``, ``time``, ``rank`` and ``item`` are needed, other columns ignored.

    Args:
        path: Parquet, CSV, TSV or JSON Lines; ``time`` as a date-time, ISO 8601 text or Unix milliseconds. Ranks above
            20 are ignored.
        log: Events.
        baskets: Each must have a list in the file.
        catalog: For item ids.

    Raises:
        DataError: A column, a basket or an item is missing or unknown, a value cannot be read, or a rank is not unique.
    """
    table = read_table(path, ["user", "time", "rank", "item"])
    rank = table.frame["rank"].cast(pl.Int64, strict=False)
    if rank.null_count():
        raise table.error("rank", rank.is_null().arg_max() or 0, "a whole number from 1")
    times = read_times(table, "time", None if table.frame["time"].dtype == pl.String else TimeUnit.ms)
    if times.ms.null_count():
        raise table.error("time", times.ms.is_null().arg_max() or 0, "the time of a basket, as `--baskets` writes it")
    frame = pl.DataFrame(
        {
            "user": table.text("user", is_id=True),
            "time_ms": times.ms,
            "position": rank - 1,
            "id": table.text("item", is_id=True),
        }
    ).filter(pl.col("position") < LENGTH)
    cases = _whose(log, baskets).select(
        "user", time_ms=pl.col("time").dt.epoch("ms"), case=pl.Series(np.arange(len(baskets)))
    )
    items = pl.DataFrame({"id": catalog.item_id, "index": np.arange(len(catalog))})
    absent = cases.join(frame, on=["user", "time_ms"], how="anti")
    if absent.height:
        raise DataError(
            f"{path}: got no list for {absent.height:,} of the {len(baskets):,} baskets to predict, such as user "
            f"{absent['user'][0]!r} at {absent['time_ms'][0]}; expected the lists of the same data and holdout"
        )
    frame = frame.join(cases, on=["user", "time_ms"]).join(items, on="id", how="left")
    unknown = frame.filter(pl.col("index").is_null())["id"].unique().sort()
    if unknown.len():
        raise DataError(f"{path}: item: got {unknown.head(_SHOWN).to_list()}; expected ids of the catalog")
    if frame.select("case", "position").is_duplicated().any() or (frame["position"] < 0).any():
        raise DataError(f"{path}: rank: got the same rank twice in a list, or one below 1; expected 1, 2, 3, ...")
    if frame.select("case", "index").is_duplicated().any():
        raise DataError(f"{path}: item: got the same item twice in one list; expected each once")
    item = np.full((len(baskets), LENGTH), NO_ITEM, dtype=np.int64)
    score = np.full((len(baskets), LENGTH), -np.inf, dtype=np.float32)
    case, position = frame["case"].to_numpy(), frame["position"].to_numpy()
    item[case, position] = frame["index"].to_numpy()
    score[case, position] = -position
    return RankedLists(item, score)
