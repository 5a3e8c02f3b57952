"""Settings of the interest model and of its training."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ebbtide.data.errors import DataError
from ebbtide.train.fine_tuning import FineTuning
from ebbtide.train.losses import Loss

FULL_SOFTMAX_ITEMS = 20_000
"""Items up to which the full softmax is the default. Above, most of the time of a step would be spent on scores."""


def _check_alpha(value: str) -> str:
    if re.fullmatch(r"learned|per-dimension|fixed:(0(\.\d+)?|1(\.0+)?|\.\d+)", value) is None:
        raise ValueError("expected 'learned', 'per-dimension' or 'fixed:A' with A from 0 to 1")
    return value


class ModelConfig(BaseModel):
    """The shape of the interest model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimensions: int = Field(96, ge=1, le=4096)
    """d, interest dimensions."""
    decay: Literal["learned", "none"] = "learned"
    """Half-lives by age and by rank, learned for each dimension; or none, neither of interest nor of popularity."""
    alpha: Annotated[str, AfterValidator(_check_alpha)] = "learned"
    """``learned`` (one for each request), ``per-dimension``, or ``fixed:A`` with A from 0 to 1."""
    gate_hidden: int = Field(16, ge=1)
    """Hidden units of the alpha gate."""
    session_gap_minutes: float = Field(30.0, gt=0)
    """A pause longer than this ends a session."""
    shortest_half_life_days: float = Field(5 / 1440, gt=0)
    """Half-lives start log-spaced from here ..."""
    longest_half_life_days: float = Field(3650.0, gt=0)
    """... to here."""
    shortest_rank_half_life: float = Field(1.0, gt=0)
    """Rank half-lives, in later events, start log-spaced from here ..."""
    longest_rank_half_life: float = Field(200.0, gt=0)
    """... to here."""
    prior_half_life_days: tuple[float, ...] = (2.0, 7.0, 30.0, 365.0)
    """Half-lives of the popularity prior's columns; an empty tuple trains without a prior."""
    exclude_seen: bool = True
    """Whether seen items are left out of the ranking, unless a request says otherwise."""
    repeat_score: bool = False
    """Whether seen items are scored by a learned function of their decayed counts."""
    repeat_half_life_days: tuple[float, ...] = (2.0, 14.0, 60.0, 365.0)
    """Where the half-lives of the repeat score's counts start; they are learned."""
    repeat_count_weights: tuple[float, ...] = (0.5, 0.5, 2.0, 2.0)
    """Where the weights of the logarithms of these counts start: long-term counts predict better than recent ones."""
    repeat_hidden: int = Field(32, ge=1)
    """Hidden units of the repeat score."""

    @model_validator(mode="after")
    def _repeats_have_a_use(self) -> ModelConfig:
        if self.repeat_score and self.exclude_seen:
            raise ValueError("repeat_score: got True with exclude_seen; expected one of them: seen items need no score")
        return self

    @model_validator(mode="after")
    def _counts_have_weights(self) -> ModelConfig:
        half_lives, weights = len(self.repeat_half_life_days), len(self.repeat_count_weights)
        if not half_lives or half_lives != weights:
            raise ValueError(
                f"repeat_count_weights: got {weights} for {half_lives} half-lives; expected one for each, and some"
            )
        return self

    @property
    def fixed_alpha(self) -> float | None:
        """The given alpha; None where it is learned."""
        return float(self.alpha.removeprefix("fixed:")) if self.alpha.startswith("fixed:") else None

    @property
    def session_gap_ms(self) -> int:
        """The session gap in milliseconds."""
        return round(self.session_gap_minutes * 60_000)

    @property
    def effective_prior_half_life_days(self) -> tuple[float, ...]:
        """The prior's half-lives; one undecayed count with ``decay="none"``."""
        return (float("inf"),) if self.decay == "none" and self.prior_half_life_days else self.prior_half_life_days


class TrainConfig(BaseModel):
    """How the model is fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(0, ge=0)
    epochs: int = Field(8, ge=1)
    """Epochs, at most; validation decides how many."""
    patience: int = Field(4, ge=1)
    """Epochs without a better validation NDCG@10 before training stops; the schedule's slow end often still helps."""
    warm_start: bool | None = None
    """Start from a linear model of which items occur together, or from random factors. None: from the linear model,
    unless the model has a repeat score, which carries most of the same information and was worse with it."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak of the one-cycle schedule; decay rates learn three times as fast."""
    residual_weight_decay: float = Field(0.1, ge=0)
    """AdamW weight decay of the items' residuals."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Of event vectors, while training."""
    residual_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the items whose residuals a training step leaves out, so that texts alone learn to describe items."""
    context_events: int = Field(96, ge=1)
    """Events before the first target of a training window."""
    targets_per_window: int = Field(32, ge=1)
    """Consecutive events predicted in one training window."""
    windows_per_batch: int = Field(32, ge=1)
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """The last share of the training events, by time, on which early stopping validates."""
    validation_baskets: int = Field(20_000, ge=1)
    """Validation baskets that are ranked after each epoch, at most; drawn with the seed."""
    loss: Loss | None = None
    """None: the full softmax, or the sampled one for a catalog of more than `FULL_SOFTMAX_ITEMS` items."""
    negatives: int = Field(512, ge=1)
    """Drawn for each step by the losses that sample, and shared by its baskets."""
    seen_items_weight: float = Field(3.0, ge=0)
    """Weight of the repeat score's loss among the user's seen items, added to the loss over the catalog."""
    repeat_offsets: tuple[float, ...] = Field((0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), min_length=1)
    """What validation may add to the scores of seen items, in units of scores (log odds). Training has seen which new
    items become targets, so a model ranks new items too high."""
    item_bias_spread: float = Field(0.7, gt=0)
    """Standard deviation of the normal prior of each item's bias in the repeat score, as in ridge regression."""
    item_time_weights_spread: float = Field(0.1, gt=0)
    """The same for the weights of the time context."""
    gbce_calibration: float = Field(0.75, ge=0, le=1)
    """t of the gBCE loss."""
    encoder_fine_tuning: FineTuning = FineTuning.frozen
    encoder_learning_rate: float | None = Field(None, gt=0)
    """Peak for the encoder's weights; None: 5e-4 for LoRA, 2e-5 for all weights."""
    encoder_items_per_step: int = Field(64, ge=1)
    """Texts that one step encodes with gradients, at most."""
    refit: bool = True
    """After validation has chosen the number of epochs, train a new model on all training events."""

    def for_catalog(self, items: int) -> TrainConfig:
        """The same settings with a loss: the default for a catalog of so many items if none was given."""
        if self.loss is not None:
            return self
        suits = Loss.full_softmax if items <= FULL_SOFTMAX_ITEMS else Loss.sampled_softmax
        return self.model_copy(update={"loss": suits})

    @property
    def effective_encoder_learning_rate(self) -> float:
        """The given rate, or the default of the kind of fine-tuning."""
        if self.encoder_learning_rate is not None:
            return self.encoder_learning_rate
        return 2e-5 if self.encoder_fine_tuning is FineTuning.full else 5e-4


def parse_half_lives(text: str) -> tuple[float, ...]:
    """Half-lives in days from ``"2,7,30"``; ``"none"`` for none, ``inf`` for a count without decay.

    Raises:
        DataError: Not positive numbers.
    """
    if text.strip() == "none":
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (-1.0,)
    if min(values) <= 0:
        raise DataError(f"prior half-lives: got {text!r}; expected positive days, as in '2,7,30,inf', or 'none'")
    return values
