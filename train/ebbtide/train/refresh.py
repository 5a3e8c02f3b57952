"""Counts the popularity prior of a bundle again, from a log that has grown; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.data.bad_rows import BadRows
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventColumns, EventLog, read_events
from ebbtide.train.bundle import InterestBundle, fingerprint_of
from ebbtide.train.errors import BundleError
from ebbtide.train.popularity import counted_at

_MS_PER_SECOND = 1000


@dataclass(frozen=True)
class GrownLog:
    """The events that a prior can count, and what was left out."""

    log: EventLog
    """Events of the bundle's items."""
    bad_rows: BadRows
    unknown_events: int
    """Events of items that the bundle does not have."""
    unknown_items: tuple[str, ...]
    """Their ids, those with most events first."""


@dataclass(frozen=True)
class Gain:
    """An item that the prior puts higher than before."""

    item: int
    """Catalog index."""
    score_before: float
    """What the prior adds to the item's score, for all users."""
    score: float
    index_before: int
    """Rank among all items by that score, from 1; equal scores share a rank."""
    index: int


def read_grown_log(
    bundle: InterestBundle, events: str | Path | None = None, columns: EventColumns | None = None
) -> GrownLog:
    """Reads an event log for a bundle that was trained on an earlier state of it.

    Args:
        bundle: Names the log, its columns and how many bad rows it may have; its catalog says which items count.
        events: Another file; it holds the old events as well as the new ones.
        columns: Of that file; as the bundle was trained with unless given.

    Raises:
        DataError: The file cannot be used, or has no event of the bundle's items.
    """
    data = bundle.config.counted or bundle.config.data
    path = data.events if events is None else events
    names = columns or data.columns
    # Without the catalog: new items are no mistakes in the file, and must not count as bad rows.
    frame, bad_rows = read_events(path, names, None, data.max_bad_rows)
    is_known = frame["item"].is_in(bundle.catalog.item_id)
    known, unknown = frame.filter(is_known), frame.filter(~is_known)
    if known.is_empty():
        raise DataError(
            f"{path}, column {names.item}: got no item of the bundle's catalog; expected ids such as "
            f"{', '.join(bundle.catalog.item_id[:3])}"
        )
    counts = unknown.group_by("item").len().sort(pl.col("len"), "item", descending=[True, False])
    log = data.model_copy(update={"event_type_column": names.event_type}).log_of(known, bundle.catalog.index)
    return GrownLog(log, bad_rows, unknown.height, tuple(counts["item"].to_list()))


def refresh_prior(bundle: InterestBundle, log: EventLog, timestamp_ms: int | None = None) -> InterestBundle:
    """The bundle with its prior counted as of another timestamp; of the rest only the fingerprint changes.

    Every event before the timestamp counts, held out or not: this is for serving. An evaluation of the result must
    count popularity itself, since these columns include the events that it predicts.

    Args:
        bundle: With a prior.
        log: The whole log, old events and new, by the bundle's catalog.
        timestamp_ms: Unix milliseconds; just after the newest event unless given.

    Returns:
        A bundle that is not yet saved.

    Raises:
        BundleError: It has no prior.
        DataError: No event is before the timestamp, or the log begins where the last count ended.
    """
    if not bundle.config.model.prior_starts:
        raise BundleError(
            "prior: got a bundle without one, so there is nothing to refresh; expected one trained without "
            "--prior-half-lives none"
        )
    if not log.events:
        raise DataError("events: got none of the bundle's items; expected the whole log, old events and new")
    timestamp = int(log.time_ms.max()) + 1 if timestamp_ms is None else timestamp_ms
    oldest = int(log.time_ms.min())
    if oldest >= timestamp:
        raise DataError(f"as of: got {_date(timestamp)}; expected a time after the log's first event, {_date(oldest)}")
    last_ms = bundle.config.prior_counted_at_ms
    if timestamp_ms is None and timestamp < last_ms:
        raise DataError(
            f"events: got {_date(timestamp - 1)} as the newest event; expected events up to {_date(last_ms)}, up to "
            "when the bundle has counted already: give the log that has grown, or --as-of to count as of an earlier "
            "time"
        )
    if oldest >= last_ms:
        raise DataError(
            f"events: got none before {_date(last_ms)}, up to when the bundle has counted; expected the whole log, "
            "old events and new: what is older counts as well, less the longer ago it was"
        )
    counted = counted_at(*log.counted, len(bundle.catalog), bundle.model.smoothing, timestamp)
    columns = counted.columns()
    fingerprint = fingerprint_of(bundle.model, columns, bundle.catalog, bundle.config.encoder)
    config = bundle.config.model_copy(update={"fingerprint": fingerprint, "prior_counted_at_ms": timestamp})
    return replace(bundle, config=config, prior_columns=columns, prior_counts=counted.counts)


def prior_scores(bundle: InterestBundle) -> npt.NDArray[np.float32]:
    """What the prior adds to the score of each item, for all users, ``[items]``."""
    weight: npt.NDArray[np.float32] = bundle.model.prior_weight.detach().numpy()
    return np.asarray(bundle.prior_columns @ weight, dtype=np.float32)


def largest_gains(before: InterestBundle, after: InterestBundle, count: int) -> list[Gain]:
    """The items that gained most from a refresh; fewer where fewer gained.

    Args:
        before: The bundle.
        after: From `refresh_prior`.
        count: How many, at most.
    """
    old, new = prior_scores(before), prior_scores(after)
    order = np.argsort(old - new, kind="stable")[:count]
    return [
        Gain(item, float(old[item]), float(new[item]), _index(old, item), _index(new, item))
        for item in order.tolist()
        if new[item] > old[item]
    ]


def kept_among_best(before: InterestBundle, after: InterestBundle, count: int) -> int:
    """How many of the items that the prior puts first after a refresh it put first before.

    Args:
        before: The bundle.
        after: From `refresh_prior`.
        count: Of items that are put first.
    """
    first, second = (
        set(np.argsort(-prior_scores(bundle), kind="stable")[:count].tolist()) for bundle in (before, after)
    )
    return len(first & second)


def _index(scores: npt.NDArray[np.float32], item: int) -> int:
    return 1 + int((scores > scores[item]).sum())


def _date(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / _MS_PER_SECOND, timezone.utc).isoformat(timespec="seconds")
