"""Ranked lists before each basket: made by a model, or read from a predictions file that anyone may write.

A predictions file is Parquet, one row for each rank of each list: ``user`` (text), ``time`` (date-time, UTC), ``rank``
(from 1), ``item`` (text), ``score``, ``is_relevant`` (whether the item is in the basket) and ``relevant_items``
(how many are), so that every ranking metric can be computed from the file alone.
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
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.scores import CONTEXT_EVENTS, exclude_seen, score_baskets
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import Popularity
from ebbtide.train.windows import LogTensors

Floats = npt.NDArray[np.float32]

LENGTH = 20
"""Places of a list: the longest cut-off of the metrics."""
NO_ITEM = -1
"""Fills a list that is shorter."""
_SHOWN = 3


@dataclass(frozen=True)
class RankedLists:
    """The best items before each basket, best first."""

    item: Ints
    """``[baskets, LENGTH]``, catalog indices, no item twice in a row; `NO_ITEM` where the list has ended."""
    score: Floats
    """``[baskets, LENGTH]``, not rising along a row; minus infinity where the list has ended."""


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

    Returns:
        The lists, and alpha ``[baskets]`` as the model blended history and session.
    """
    tensors = LogTensors.of(log, model.config.session_gap_ms)
    item = np.full((len(baskets), LENGTH), NO_ITEM, dtype=np.int64)
    score = np.full((len(baskets), LENGTH), -np.inf, dtype=np.float32)
    alpha = np.empty(len(baskets), dtype=np.float32)
    for scored in score_baskets(model, log, tensors, baskets.head, popularity, context_events=context_events):
        scores = scored.scores()
        if not repeats:
            exclude_seen(scores, tensors, scored.head)
        best = torch.topk(scores, min(LENGTH, scores.shape[1]))
        index = np.searchsorted(baskets.head, scored.head)
        width = best.indices.shape[1]
        score[index, :width] = best.values.numpy()
        item[index, :width] = np.where(np.isfinite(best.values.numpy()), best.indices.numpy(), NO_ITEM)
        alpha[index] = scored.alpha.numpy()
        if progress is not None:
            progress(len(scored.head))
    return RankedLists(item, score), alpha


def write_predictions(
    path: Path, lists: RankedLists, log: EventLog, baskets: Baskets, relevance: Relevance, catalog: Catalog
) -> None:
    """Writes the lists as a predictions file; see the top of this file for its columns."""
    kept = lists.item != NO_ITEM
    case, index = np.nonzero(kept)
    user = np.searchsorted(log.start, baskets.head, side="right") - 1
    ids, users = pl.Series(catalog.item_id, dtype=pl.String), pl.Series(log.users, dtype=pl.String)
    pl.DataFrame(
        {
            "user": users.gather(user[case]),
            "time": pl.Series(log.time_ms[baskets.head][case]).cast(pl.Datetime("ms", "UTC")),
            "rank": (index + 1).astype(np.int32),
            "item": ids.gather(lists.item[kept]),
            "score": lists.score[kept],
            "is_relevant": relevance.among(lists.item)[kept],
            "relevant_items": relevance.counts[case].astype(np.int32),
        }
    ).write_parquet(path)


def read_predictions(path: Path, log: EventLog, baskets: Baskets, catalog: Catalog) -> RankedLists:
    """Lists from a predictions file; only ``user``, ``time``, ``rank`` and ``item`` are needed, other columns ignored.

    Args:
        path: Parquet; ``time`` as a date-time or Unix milliseconds. Ranks above 20 are ignored.
        log: Events.
        baskets: Each must have a list in the file.
        catalog: For item ids.

    Raises:
        DataError: A column, a basket or an item is missing or unknown, or a rank is not unique.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    frame = pl.read_parquet(path)
    missing = [name for name in ("user", "time", "rank", "item") if name not in frame.columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; the file has {', '.join(frame.columns)}")
    time = frame["time"]
    frame = frame.select(
        pl.col("user").cast(pl.String),
        (
            time.cast(pl.Datetime("ms")).dt.epoch("ms") if isinstance(time.dtype, pl.Datetime) else time.cast(pl.Int64)
        ).rename("time_ms"),
        position=pl.col("rank").cast(pl.Int64) - 1,
        id=pl.col("item").cast(pl.String),
        score=pl.col("score").cast(pl.Float32) if "score" in frame.columns else -pl.col("rank").cast(pl.Float32),
    ).filter(pl.col("position") < LENGTH)
    user = np.searchsorted(log.start, baskets.head, side="right") - 1
    cases = pl.DataFrame(
        {
            "user": pl.Series(log.users, dtype=pl.String).gather(user),
            "time_ms": log.time_ms[baskets.head],
            "case": np.arange(len(baskets)),
        }
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
    score[case, position] = frame["score"].to_numpy()
    return RankedLists(item, score)
