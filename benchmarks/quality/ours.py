"""Trains Ebbtide and its ablations on the events before the split time, and ranks with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.quality.split import Split, events_of
from ebbtide.train.choices import Decay
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.evaluation.lists import RankedLists, rank_baskets
from ebbtide.train.evaluation.scores import live_popularity
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import FrozenPopularity, Popularity, columns_at
from ebbtide.train.trainer import fit

OURS = "ebbtide"
NO_DECAY = "ebbtide, no decay anywhere"
NO_INTEREST_DECAY = "ebbtide, no decay of the user's interest"
NO_TEXT = "ebbtide, no text"
FIXED_ALPHA = "ebbtide, alpha fixed at 0.5"
PLAIN = "ebbtide, the plain formulas (no decay, alpha 0.5, no prior)"
ABLATIONS = (NO_DECAY, NO_INTEREST_DECAY, NO_TEXT, FIXED_ALPHA, PLAIN)
FROZEN = ", frozen"
"""Suffix for the name of a model whose popularity is frozen at the split time."""


def variants(repeats: bool) -> dict[str, ModelConfig]:
    """The full model and its ablations, by name."""
    policy = {"exclude_seen": not repeats, "repeat_score": repeats}
    return {
        OURS: ModelConfig(**policy),
        NO_DECAY: ModelConfig(decay=Decay.none, **policy),
        NO_INTEREST_DECAY: ModelConfig(decay=Decay.popularity, **policy),
        NO_TEXT: ModelConfig(text=False, **policy),
        FIXED_ALPHA: ModelConfig(alpha="fixed:0.5", **policy),
        PLAIN: ModelConfig(decay=Decay.none, alpha="fixed:0.5", prior_half_life_days=(), exclude_seen=not repeats),
    }


def trained(
    split: Split, config: ModelConfig, training: TrainConfig, vectors: npt.NDArray[np.float32]
) -> InterestModel:
    """Fits a model on the training events of a split.

    Args:
        split: Data and protocol.
        config: Model configuration.
        training: Training configuration. The trainer itself validates on the last tenth before the split time.
        vectors: ``[items, width]``, text vectors of the catalog.
    """
    log = events_of(split.test.log, split.training)
    return fit(log, np.ones(log.events, dtype=np.bool_), vectors, config, training).model


def ranked(split: Split, model: InterestModel, *, updated: bool) -> RankedLists:
    """The model's lists, with its popularity updated before every basket or frozen at the split time."""
    test = split.test
    popularity = live_popularity(model, test.log) if updated else _frozen(split, model)
    return rank_baskets(model, test.log, test.baskets, popularity, repeats=split.repeats)[0]


def _frozen(split: Split, model: InterestModel) -> Popularity | None:
    if not model.config.prior_starts:
        return None
    test = split.test
    time_ms, items = test.log.time_ms[split.training], len(test.catalog)
    return FrozenPopularity(columns_at(test.training_item, time_ms, items, model.smoothing, split.training_end_ms))
