"""Random requests for checks, edge cases included, that can be sent to the server, the exported files and torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Limits

if TYPE_CHECKING:
    from ebbtide.train.model import InterestModel
    from ebbtide.train.reference import ReferenceScores

Ints = npt.NDArray[np.int64]

_NOW_MS = 1_700_000_000_000
_LONGEST_AGE_MS = 5 * 365 * 86_400_000
_SECOND_MS = 1_000
_SESSION_SHARE = 0.3
_MAX_EXCLUDED = 8


@dataclass(frozen=True)
class Sample:
    """One request, with items as catalog indices."""

    item: Ints
    """``[item events]``: catalog index of each event with an item."""
    text: Ints
    """``[text events]``: catalog index of the item whose text each text event has."""
    time_ms: Ints
    """``[events]``: Unix milliseconds; first the events with items, then the text events."""
    now_ms: int
    is_current: npt.NDArray[np.bool_] | None
    weight: npt.NDArray[np.float32] | None
    alpha: float | None
    exclude: Ints
    exclude_seen: bool | None

    def request(self, keys: Ints, text_event_vectors: npt.NDArray[np.float32]) -> Request:
        """The request in the form that the pipeline accepts.

        Args:
            keys: ``[items]``, the catalog's item keys.
            text_event_vectors: ``[items, d]``, the catalog's texts as the exported encoder sees them.
        """
        return Request(
            event_item=keys[self.item],
            event_time=self.time_ms,
            now=np.array([self.now_ms], dtype=np.int64),
            event_is_current=self.is_current,
            event_weight=self.weight,
            alpha=None if self.alpha is None else np.array([self.alpha], dtype=np.float32),
            exclude_item=keys[self.exclude] if self.exclude.size else None,
            exclude_seen=None if self.exclude_seen is None else np.array([self.exclude_seen]),
            text_vector=text_event_vectors[self.text] if self.text.size else None,
        )

    def reference(self, model: InterestModel, prior_columns: npt.NDArray[np.float32]) -> ReferenceScores:
        """The answer by the formulas with the parameters in torch."""
        # Imported here, so that a deployment, which only sends requests to servers, does not need torch.
        from ebbtide.train.reference import score_request

        return score_request(
            model,
            prior_columns,
            item=self.item.tolist(),
            time_ms=self.time_ms.tolist(),
            now_ms=self.now_ms,
            is_current=None if self.is_current is None else self.is_current.tolist(),
            weight=None if self.weight is None else self.weight.tolist(),
            alpha=None if self.alpha is None else float(np.float32(self.alpha)),
            exclude=self.exclude.tolist(),
            exclude_seen=self.exclude_seen,
            text_vectors=model.text_vectors.numpy()[self.text] if self.text.size else None,
        )


def random_samples(items: int, count: int, limits: Limits, seed: int = 0, *, texts: bool = True) -> Iterator[Sample]:
    """Edge cases first, then random requests.

    Args:
        items: Number of catalog items.
        count: Number of requests. The first seven are the edge cases: no events, history only, session only, one
            event, the longest
            allowed, events of one timestamp, and all optional tensors given.
        limits: Limits of the export.
        seed: Equal seeds give equal requests.
        texts: Whether some events are texts.
    """
    random = np.random.default_rng(seed)
    for index in range(count):
        sample = _random_sample(random, items, limits, texts=texts)
        events = sample.time_ms.size
        if index == 0:
            sample = _of_length(random, items, 0)
        elif index in (1, 2) and events:
            sample = replace(sample, is_current=np.full(events, index == 2))
        elif index == 3:
            sample = _of_length(random, items, 1)
        elif index == 4:
            sample = _of_length(random, items, limits.max_events)
        elif index == 5:
            sample = _of_length(random, items, min(6, limits.max_events))
            sample = replace(sample, time_ms=np.full_like(sample.time_ms, _NOW_MS - _SECOND_MS))
        elif index == 6:
            sample = replace(
                sample,
                is_current=random.random(events) < _SESSION_SHARE,
                weight=random.random(events, dtype=np.float32) * 5,
                alpha=0.25,
                exclude=random.integers(0, items, min(_MAX_EXCLUDED, limits.max_exclude_items)),
                exclude_seen=True,
            )
        yield sample


def _random_sample(random: np.random.Generator, items: int, limits: Limits, *, texts: bool) -> Sample:
    sample = _of_length(random, items, int(random.integers(1, min(60, limits.max_events) + 1)))
    events = sample.time_ms.size
    text_count = int(random.integers(1, min(4, events, limits.max_texts) + 1)) if texts and random.random() < 0.3 else 0
    return replace(
        sample,
        item=sample.item[: events - text_count],
        text=random.integers(0, items, text_count),
        is_current=random.random(events) < _SESSION_SHARE if random.random() < 0.4 else None,
        weight=random.random(events, dtype=np.float32) * 5 if random.random() < 0.4 else None,
        alpha=float(random.random()) if random.random() < 0.3 else None,
        exclude=random.integers(0, items, int(random.integers(0, min(_MAX_EXCLUDED, limits.max_exclude_items) + 1))),
        exclude_seen=bool(random.random() < 0.5) if random.random() < 0.5 else None,
    )


def _of_length(random: np.random.Generator, items: int, events: int) -> Sample:
    # Ages are log-uniform, so that both seconds and years occur.
    age_ms = np.exp(random.uniform(np.log(_SECOND_MS), np.log(_LONGEST_AGE_MS), events)).astype(np.int64)
    return Sample(
        item=random.integers(0, items, events),
        text=np.empty(0, dtype=np.int64),
        time_ms=_NOW_MS - age_ms,
        now_ms=_NOW_MS,
        is_current=None,
        weight=None,
        alpha=None,
        exclude=np.empty(0, dtype=np.int64),
        exclude_seen=None,
    )
