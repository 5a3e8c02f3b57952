"""Measures the effect of a compressed encoder on rankings: NDCG@10 with users' histories as texts.

Events with item ids do not use the encoder when served, so every event of the history is replaced by its item's text:
its vector comes only from the encoder, without the item's learned residual. The ranked items keep their factors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.data.baskets import has_past
from ebbtide.data.dataset import read_dataset
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.data.splits import held_out
from ebbtide.export.encoder.texts import Floats
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.evaluation.ranks import metrics_of, target_ranks
from ebbtide.train.evaluation.scores import live_popularity
from ebbtide.train.model import InterestModel
from ebbtide.train.windows import LogTensors

_GROUPS = 10
"""Number of user groups of the jackknife."""

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Outcome = tuple[Ints, Ints]
"""Log indices of the targets and their ranks, from `target_ranks`."""


@dataclass(frozen=True)
class RankingSample:
    """Upper bounds on the sample; the defaults take some seconds."""

    users: int = 1_024
    events_each: int = 64
    """Targets per user, the latest ones."""
    items: int = 10_000
    """Number of items whose texts are embedded."""


@dataclass(frozen=True)
class RankingLoss:
    """NDCG@10 with the compressed encoder, relative to that with the full encoder on the same events."""

    ratio: float
    """NDCG@10 with the compressed encoder over NDCG@10 with the full encoder."""
    standard_error: float
    """Standard error of the ratio, by a jackknife over 10 groups of users."""
    full_ndcg_at_10: float
    users: int
    events: int


class NotMeasured(Exception):  # noqa: N818 - an outcome, not a mistake
    """There are no events to measure on; the message says why."""


@dataclass(frozen=True)
class TextRanking:
    """Target events (held out of training, or each user's latest) and their ranks with the full encoder."""

    bundle: InterestBundle
    log: EventLog
    tensors: LogTensors
    targets: Mask
    """``[events]``, the events to predict."""
    items: Ints
    """Catalog indices of all items in the chosen users' logs."""
    full: Outcome
    """Ranks of the targets with the full encoder."""

    @classmethod
    def read(cls, bundle: InterestBundle, sample: RankingSample = RankingSample()) -> TextRanking:
        """Reads the bundle's data files again and ranks with the full encoder.

        Raises:
            NotMeasured: The data files are missing or have changed, or no target is in the top 10.
        """
        log = _read_log(bundle)
        held_back = held_out(log, bundle.config.data.holdout)
        # Without a holdout, the latest events of every user: the last days have too few users to measure 1 percent.
        late = held_back if held_back.any() else np.ones_like(held_back)
        targets, items = _choose(log, late & has_past(log) & log.is_target, sample)
        tensors = LogTensors.of(log, bundle.config.model.session_gap_ms)
        model = _with_residual(bundle.model, torch.zeros_like(bundle.model.event_residual))
        full = _outcome(model, log, tensors, targets)
        found = metrics_of(log, *full)
        if not found.ndcg_at_10 > 0:
            raise NotMeasured(f"the full encoder ranks none of {found.events} targets in the top 10")
        return cls(bundle, log, tensors, targets, items, full)

    def loss(self, embed_texts: Callable[[list[str]], Floats]) -> RankingLoss:
        """The effect of another encoder on NDCG@10.

        Args:
            embed_texts: Function from texts to event vectors ``[texts, d]``.
        """
        model = self.bundle.model
        items = torch.from_numpy(self.items)
        vectors = embed_texts([self.bundle.catalog.text[item] for item in self.items.tolist()])
        changed = torch.zeros_like(model.event_residual)
        changed[items] = torch.from_numpy(vectors) - model.text_vectors[items] @ model.event_projection.detach()
        other = _with_residual(model, changed)
        return _compare(self.log, self.full, _outcome(other, self.log, self.tensors, self.targets))


def _outcome(model: InterestModel, log: EventLog, tensors: LogTensors, targets: Mask) -> Outcome:
    """Log indices of the targets and their ranks, ``[targets]`` each, with popularity kept up to date."""
    events, ranks = target_ranks(model, log, tensors, targets, live_popularity(model, log))
    return events, ranks[0]


def _read_log(bundle: InterestBundle) -> EventLog:
    reference = bundle.config.data
    for name in (reference.events, reference.catalog):
        if name is not None and not Path(name).is_file():
            raise NotMeasured(f"{name} does not exist any more")
    try:
        data = read_dataset(reference)
    except DataError as error:
        raise NotMeasured(str(error)) from error
    if data.catalog.item_id != bundle.catalog.item_id:
        raise NotMeasured(f"{reference.catalog or reference.events} has other items than the bundle")
    return data.log


def _choose(log: EventLog, targets: Mask, sample: RankingSample) -> tuple[Mask, Ints]:
    """The targets of some users, and all items in these users' logs."""
    chosen = np.zeros_like(targets)
    items = set[int]()
    users = np.unique(np.repeat(np.arange(len(log.users)), np.diff(log.start))[targets])
    for user in np.random.default_rng(0).permutation(users)[: sample.users]:
        own = np.arange(log.start[user], log.start[user + 1])
        more = items | set(log.item[own].tolist())
        if len(more) > sample.items and chosen.any():
            break
        items = more
        chosen[own[targets[own]][-sample.events_each :]] = True
    if not chosen.any():
        raise NotMeasured("no event has an earlier event of the same user")
    return chosen, np.array(sorted(items))


def _with_residual(model: InterestModel, residual: torch.Tensor) -> InterestModel:
    """The model with another residual, and so with other event vectors (P text + residual)."""
    other = InterestModel(model.config, model.text_vectors, model.added_blocks.features())
    other.load_state_dict({**model.state_dict(), "event_residual": residual})
    return other.eval()


def _compare(log: EventLog, full: Outcome, compressed: Outcome) -> RankingLoss:
    events, _ = full
    user = np.searchsorted(log.start, events, side="right")
    _, group = np.unique(user, return_inverse=True)
    group = group % _GROUPS

    def ratio(keep: Mask) -> float:
        both = [metrics_of(log, events[keep], ranks[keep]).ndcg_at_10 for _, ranks in (full, compressed)]
        return both[1] / both[0] if both[0] > 0 else float("nan")

    everything = np.ones_like(group, dtype=np.bool_)
    metrics = metrics_of(log, *full)
    left_out = np.array([ratio(group != number) for number in np.unique(group)])
    left_out = left_out[np.isfinite(left_out)]
    count = len(left_out)
    error = float(np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())) if count > 1 else np.inf
    return RankingLoss(ratio(everything), error, metrics.ndcg_at_10, metrics.users, metrics.events)
