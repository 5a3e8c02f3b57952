"""Ebbtide and its ablations, trained on what comes before the border and ranked like every other model."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from benchmarks.quality.split import Split, events_of
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.evaluation.lists import RankedLists, rank_baskets
from ebbtide.train.evaluation.scores import updated_popularity
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import PopularitySnapshots, popularity_snapshots
from ebbtide.train.trainer import fit

OURS = "ebbtide"
NO_DECAY = "ebbtide, no decay anywhere"
NO_INTEREST_DECAY = "ebbtide, no decay of the user's interest"
NO_TEXT = "ebbtide, no text"
FIXED_ALPHA = "ebbtide, alpha fixed at 0.5"
PLAIN = "ebbtide, the plain formulas (no decay, alpha 0.5, no prior)"
ABLATIONS = (NO_DECAY, NO_INTEREST_DECAY, NO_TEXT, FIXED_ALPHA, PLAIN)
FROZEN = ", frozen"
"""Follows the name of a model whose popularity is frozen at the border."""


class OnlyPopularityEbbs(ModelConfig):
    """The ablation in which the popularity prior keeps its half-lives while the user's interest never ebbs."""

    @property
    def effective_prior_half_life_days(self) -> tuple[float, ...]:
        """As given, whatever the decay of the interest."""
        return self.prior_half_life_days


def variants(repeats: bool) -> dict[str, ModelConfig]:
    """The full model and what it is compared with, by name."""
    policy = {"exclude_seen": not repeats, "repeat_score": repeats}
    return {
        OURS: ModelConfig(**policy),
        NO_DECAY: ModelConfig(decay="none", **policy),
        NO_INTEREST_DECAY: OnlyPopularityEbbs(decay="none", **policy),
        NO_TEXT: ModelConfig(**policy),
        FIXED_ALPHA: ModelConfig(alpha="fixed:0.5", **policy),
        PLAIN: ModelConfig(decay="none", alpha="fixed:0.5", prior_half_life_days=(), exclude_seen=not repeats),
    }


def trained(
    split: Split, config: ModelConfig, training: TrainConfig, vectors: npt.NDArray[np.float32]
) -> InterestModel:
    """Fits on the training events of a split.

    Args:
        split: Protocol.
        config: Shape of the model.
        training: Seed, epochs, rates; the trainer tunes on the last tenth before the border by itself.
        vectors: ``[N, width]``, of the catalog's texts.
    """
    log = events_of(split.test.log, split.training)
    return fit(log, np.ones(log.events, dtype=np.bool_), vectors, config, training).model


def ranked(split: Split, model: InterestModel, *, updated: bool) -> RankedLists:
    """The model's lists, with its popularity kept up to date or frozen at the border."""
    test = split.test
    popularity = (
        updated_popularity(test.log, test.baskets.head, len(test.catalog), model.config)
        if updated
        else _frozen(split, model.config)
    )
    return rank_baskets(model, test.log, test.baskets, popularity, repeats=split.repeats)[0]


def _frozen(split: Split, config: ModelConfig) -> PopularitySnapshots | None:
    half_lives = config.effective_prior_half_life_days
    if not half_lives:
        return None
    test = split.test
    border = np.array([split.training_end_ms])
    return popularity_snapshots(
        test.training_item, test.log.time_ms[split.training], len(test.catalog), half_lives, border
    )
