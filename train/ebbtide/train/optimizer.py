"""The optimiser of training and its schedule: AdamW, one cycle, and which parameters learn how fast."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from ebbtide.train.config import TrainConfig

_SPEEDS = {"rest": 1.0, "residual": 1.0, "decay": 3.0, "few": 5.0, "repeat": 3.0, "bias": 2.5, "text": 0.1}
"""Learning rate of each kind over the peak rate: decay rates are on a log scale, the few weights of popularity and of
event types act on every item, and the gradient of an item's bias is rarely not zero."""
_WARM_UP = 0.1


def optimizer_of(
    model: nn.Module, config: TrainConfig, encoder: Iterable[nn.Parameter] = (), *, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW with a group for each kind of parameter.

    Args:
        model: The interest model.
        config: Rates.
        encoder: Parameters of the encoder that learn, too.
        fused: One pass over the tables instead of a dozen: the same numbers in a tenth of the time.
    """
    named = dict(model.named_parameters())
    rate = config.learning_rate
    peaks = {kind: rate * speed for kind, speed in _SPEEDS.items()}
    peaks["encoder"] = config.effective_encoder_learning_rate
    groups: dict[str, list[nn.Parameter]] = {kind: [] for kind in peaks}
    for name, parameter in named.items():
        groups[_kind(name)].append(parameter)
    groups["encoder"].extend(encoder)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.residual_weight_decay if kind == "residual" else 0.0,
                "peak": peaks[kind],
            }
            for kind, parameters in groups.items()
            if parameters
        ],
        lr=rate,
        fused=fused,
    )


def _kind(name: str) -> str:
    """The group of a parameter, by its name."""
    if name.startswith("repeat."):
        kinds = {"repeat.item_bias": "bias", "repeat.item_time_weights": "rest", "repeat.text_weight": "text"}
        return kinds.get(name, "repeat")
    if name.endswith("decay_rate"):
        return "decay"
    if name.endswith("_residual"):
        return "residual"
    return "few" if name.startswith(("prior_", "event_type_")) else "rest"


def set_learning_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """One cycle: a linear warm-up, then half a cosine down to a hundredth, by the part of all epochs done."""
    if progress < _WARM_UP:
        factor = 0.04 + 0.96 * progress / _WARM_UP
    else:
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
