"""How strongly each part of a score counts, as a later period of the log decides.

Training fits the interest to events that it has seen, so its scores are too sure of themselves on what comes next:
relative to the popularity prior they have to shrink, in some logs to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ebbtide.data.baskets import Mask
from ebbtide.data.events import EventLog
from ebbtide.train.choices import Loss
from ebbtide.train.config import TrainConfig
from ebbtide.train.evaluation.ranks import Variant, metrics_of, target_ranks
from ebbtide.train.evaluation.scores import live_popularity
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import PopularitySnapshots
from ebbtide.train.progress import Metrics
from ebbtide.train.related import Related
from ebbtide.train.windows import LogTensors


@dataclass(frozen=True)
class Calibrated:
    """The best way to put a model's parts together."""

    variant: Variant
    metrics: Metrics


def calibrate(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    validation: Mask,
    config: TrainConfig,
    popularity: PopularitySnapshots | None = None,
    near: Variant | None = None,
    related: Related | None = None,
) -> Calibrated:
    """Finds how the parts of the score give the best NDCG@10.

    First the repeat offset or the share of the linear dimensions, then the interest's scale or its share in repeat
    scores, then the weight of related items.

    Args:
        model: Whose parts are still to be put together: scale 1, offset 0.
        log: Events.
        tensors: The same events.
        validation: ``[events]``, later than those that the model was trained on.
        config: The candidates.
        popularity: The prior at the times of the validation events; None counts it.
        near: Where the search begins; None for the parts as they are.
        related: The related items; None for none.
    """

    def best_of(variants: Sequence[Variant]) -> Calibrated:
        counted = popularity or live_popularity(model, log)
        needed = related if any(one.related_weight for one in variants) else None
        events, ranks = target_ranks(model, log, tensors, validation, counted, variants, needed)
        found = [Calibrated(one, metrics_of(log, events, rank)) for one, rank in zip(variants, ranks, strict=True)]
        return max(found, key=lambda one: one.metrics.ndcg_at_10)

    # What a model lacks has one value.
    offsets = (0.0,) if model.repeat is None else config.repeat_offsets
    shares = (0.0,) if model.repeat is None else config.interest_shares
    ratios = config.linear_ratios if model.linear_dimensions else (0.0,)
    scales = config.interest_scales if model.config.prior_starts and config.loss is not Loss.mse else (1.0,)
    weights = (0.0,) if related is None else config.related_weights
    first = near or Variant()
    first = replace(
        first,
        interest_scale=first.interest_scale if first.interest_scale in scales else scales[0],
        repeat_offset=first.repeat_offset if first.repeat_offset in offsets else offsets[0],
        linear_ratio=first.linear_ratio if first.linear_ratio in ratios else ratios[0],
        interest_share=first.interest_share if first.interest_share in shares else shares[0],
        related_weight=first.related_weight if first.related_weight in weights else weights[0],
    )
    variants = [replace(first, repeat_offset=offset) for offset in offsets]
    variants += [replace(first, linear_ratio=ratio) for ratio in ratios if ratio != first.linear_ratio]
    found = best_of(variants)
    others = [replace(found.variant, interest_scale=scale) for scale in scales if scale != first.interest_scale]
    others += [replace(found.variant, interest_share=share) for share in shares if share != first.interest_share]
    scaled = best_of(others) if others else found
    found = max(found, scaled, key=lambda one: one.metrics.ndcg_at_10)
    others = [replace(found.variant, related_weight=one) for one in weights if one != found.variant.related_weight]
    weighed = best_of(others) if others else found
    return max(found, weighed, key=lambda one: one.metrics.ndcg_at_10)
