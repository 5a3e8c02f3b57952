"""Settings of the interest model and of its training."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ebbtide.data.errors import DataError
from ebbtide.train.choices import Decay, FineTuning, Loss, Start

FULL_SOFTMAX_ITEMS = 5_000
"""Largest catalog for which the full softmax is the default. Above it, scores would take most of a step's time, and
drawn negatives train as good a model."""

DENSE_HALF_LIFE_DAYS = (1 / 72, 1 / 24, 1 / 8, 3 / 8, 1.0, 3.0, 10.0, 30.0, 90.0, 365.0, 1095.0, 3650.0)
"""From 20 minutes to ten years, about a factor of three apart: between two of them a third one predicts no better."""
_TREND_STARTS_DAYS = (0.0, 1.5, 15.0, 150.0)
"""The columns of a prior with trends use the half-lives from here on."""


def _check_alpha(value: str) -> str:
    if re.fullmatch(r"learned|per-dimension|fixed:(0(\.\d+)?|1(\.0+)?|\.\d+)", value) is None:
        raise ValueError("expected 'learned', 'per-dimension' or 'fixed:A' with A from 0 to 1")
    return value


def _check_half_life(value: float) -> float:
    # Bounds of pydantic accept NaN.
    if not value > 0:
        raise ValueError("expected a number above 0; 'inf' is no decay")
    return value


class ModelConfig(BaseModel):
    """The shape of the interest model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")

    dimensions: int = Field(96, ge=1, le=4096)
    """d, the number of interest dimensions."""
    decay: Decay = Decay.learned
    text: bool = True
    """Whether items have a text part; without it a new item has popularity alone."""
    alpha: Annotated[str, AfterValidator(_check_alpha)] = "learned"
    """``learned`` (one for each request), ``per-dimension``, or ``fixed:A`` with A from 0 to 1."""
    gate_hidden: int = Field(16, ge=1)
    """Hidden units of the alpha gate."""
    session_gap_minutes: float = Field(30.0, gt=0)
    """A pause longer than this ends a session."""
    shortest_half_life_days: float = Field(5 / 1440, gt=0)
    """Shortest initial half-life by age; the initial half-lives are log-spaced."""
    longest_half_life_days: float = Field(3650.0, gt=0)
    """Longest initial half-life by age."""
    shortest_rank_half_life: float = Field(1.0, gt=0)
    """Shortest initial half-life by rank, in events; the initial half-lives are log-spaced."""
    longest_rank_half_life: float = Field(200.0, gt=0)
    """Longest initial half-life by rank, in events."""
    prior_half_life_days: tuple[Annotated[float, Field(allow_inf_nan=True), AfterValidator(_check_half_life)], ...] = (
        DENSE_HALF_LIFE_DAYS
    )
    """Half-lives of the counts behind the popularity prior, ascending, of which training keeps those that predict; an
    empty tuple trains without a prior. Infinite: a count without decay."""
    exclude_seen: bool = True
    """Whether rankings exclude seen items; a request can override it."""
    repeat_score: bool = False
    """Whether seen items are scored by a learned function of their decayed counts."""
    repeat_half_life_days: tuple[Annotated[float, Field(gt=0)], ...] = (2.0, 14.0, 60.0, 365.0)
    """Initial half-lives of the repeat score's counts; training changes them."""
    repeat_count_weights: tuple[float, ...] = (0.5, 0.5, 2.0, 2.0)
    """Initial weights of the logarithms of these counts; long-term counts predict better than recent ones."""
    repeat_hidden: int = Field(32, ge=1)
    """Hidden units of the repeat score."""
    event_types: tuple[str, ...] = ()
    """Names of the event types, whose weights in the interest are learned; the first one, a target, has weight 1. Empty
    for a log of one type."""

    @model_validator(mode="after")
    def _repeats_have_a_use(self) -> ModelConfig:
        if self.repeat_score and self.exclude_seen:
            raise ValueError(
                "repeat_score: got True with exclude_seen; expected one of them, since excluded items need no score"
            )
        return self

    @model_validator(mode="after")
    def _counts_have_weights(self) -> ModelConfig:
        half_lives, weights = len(self.repeat_half_life_days), len(self.repeat_count_weights)
        if not half_lives or half_lives != weights:
            raise ValueError(
                f"repeat_count_weights: got {weights} weights for {half_lives} half-lives; expected at least one "
                "half-life, and one weight for each"
            )
        return self

    @property
    def fixed_alpha(self) -> float | None:
        """The fixed alpha; None if alpha is learned."""
        return float(self.alpha.removeprefix("fixed:")) if self.alpha.startswith("fixed:") else None

    @property
    def session_gap_ms(self) -> int:
        """The session gap in milliseconds."""
        return round(self.session_gap_minutes * 60_000)

    @property
    def effective_prior_half_life_days(self) -> tuple[float, ...]:
        """The prior's half-lives; with ``decay="none"`` one infinite half-life, which is a count without decay."""
        undecayed = self.decay is Decay.none and self.prior_half_life_days
        return (float("inf"),) if undecayed else self.prior_half_life_days

    @property
    def prior_starts(self) -> tuple[int, ...]:
        """Of each of the p columns of the prior, the index of the first half-life that it uses.

        One column, or, with a repeat score, one for each time scale of its trends; empty without a prior.
        """
        half_lives = self.effective_prior_half_life_days
        starts = _TREND_STARTS_DAYS if self.repeat_score else _TREND_STARTS_DAYS[:1]
        found = {sum(half_life < start for half_life in half_lives) for start in starts}
        return tuple(sorted(index for index in found if index < len(half_lives)))


_Factors = tuple[Annotated[float, Field(ge=0)], ...]
"""Candidates for a factor of scores."""


class TrainConfig(BaseModel):
    """Settings of the training loop and of the losses."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(0, ge=0)
    epochs: int = Field(8, ge=1)
    """Largest number of epochs; validation chooses the number."""
    patience: int = Field(4, ge=1)
    """Epochs without a better validation NDCG@10 before training stops; the low learning rates at the end of the
    schedule often help."""
    start: Start | None = None
    """Where training begins. None: both are tried, and validation chooses; with a repeat score, at the texts."""
    text_directions: int = Field(16, ge=0)
    """Directions, each used twice, of the start at the texts; the other dimensions start without an effect."""
    residual_half_trust_events: float = Field(30.0, ge=0)
    """Training events at which an item's residuals have half their weight; 0 trusts them all."""
    learning_rate: float = Field(4e-3, gt=0)
    """Peak of the one-cycle schedule; decay rates have three times this learning rate."""
    residual_weight_decay: float = Field(0.1, ge=0)
    """AdamW weight decay of the items' residuals."""
    dropout: float = Field(0.4, ge=0, lt=1)
    """Dropout of event vectors in training."""
    residual_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the items whose residuals a training step drops, so that the text projection is trained too."""
    block_dropout: float = Field(0.2, ge=0, lt=1)
    """The same share for each feature block beside text and residual, so that items without its vector score well,
    too."""
    context_events: int = Field(96, ge=1)
    """Number of events before the first target of a training window."""
    targets_per_window: int = Field(32, ge=1)
    """Number of consecutive events that one training window predicts."""
    windows_per_batch: int = Field(32, ge=1)
    """Training windows in one batch, which is one step."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training events, the latest ones, on which early stopping validates."""
    validation_baskets: int = Field(5_000, ge=1)
    """Largest number of validation baskets to rank after each epoch; drawn with the seed, of each user in turn."""
    loss: Loss | None = None
    """None: the full softmax; for a catalog of more than `FULL_SOFTMAX_ITEMS` items, the sampled softmax."""
    negatives: int = Field(2048, ge=1)
    """Negatives per step for the sampling losses; all baskets of the step share them."""
    seen_items_weight: float = Field(3.0, ge=0)
    """Weight of the loss among the user's seen items, which is added to the loss over the catalog (repeat score
    only)."""
    repeat_offsets: tuple[float, ...] = Field((0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0), min_length=1)
    """Candidates for the repeat offset, which validation chooses: a value added to the scores of seen items, in log
    odds. A model ranks the training targets among the new items too high, so some offset helps."""
    interest_shares: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.0, 0.1, 0.2, 0.4), min_length=1)
    """Candidates for how much of the score by factors a seen item has beside its repeat score, which validation chooses
    (repeat score only)."""
    interest_scales: _Factors = Field((0.0, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0, 1.2), min_length=1)
    """Candidates for the factor of the interest's scores beside the popularity prior, which validation chooses: a model
    is too sure of what it has learned. With 0 the prior alone ranks."""
    linear_ratios: _Factors = Field((0.0, 0.5, 2.0, 6.0), min_length=1)
    """Candidates for the factor of the linear model's scores over that of the interest's, which validation chooses
    (start at the texts only)."""
    related_weights: _Factors = Field((0.0, 1.0, 2.0, 4.0, 8.0), min_length=1)
    """Candidates for what an event adds to the score of an item with the same text, which validation chooses (frozen
    encoder and ranking losses only)."""
    item_bias_spread: float = Field(0.7, gt=0)
    """Standard deviation of the normal prior of each item's bias in the repeat score, as in ridge regression."""
    item_time_weights_spread: float = Field(0.1, gt=0)
    """Standard deviation of the normal prior of each weight of the time context."""
    gbce_calibration: float = Field(0.75, ge=0, le=1)
    """t of the gBCE loss."""
    encoder_fine_tuning: FineTuning = FineTuning.frozen
    """Which weights of the encoder training changes."""
    encoder_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of the encoder's weights; None: 5e-4 for LoRA, 2e-5 for full fine-tuning."""
    encoder_items_per_step: int = Field(64, ge=1)
    """Largest number of texts that one step encodes with gradients."""
    refit: bool = True
    """Train again on all training events, for as many epochs as were best."""

    def for_catalog(self, items: int) -> TrainConfig:
        """The same settings with the loss filled in: the default for a catalog of this many items if it is None."""
        if self.loss is not None:
            return self
        suits = Loss.full_softmax if items <= FULL_SOFTMAX_ITEMS else Loss.sampled_softmax
        return self.model_copy(update={"loss": suits})

    def starts(self, model: ModelConfig, *, has_features: bool = False) -> tuple[Start, ...]:
        """The starts to try.

        Args:
            model: The model's shape.
            has_features: Whether there are feature blocks beside text and residual.
        """
        if self.start is not None:
            return (self.start,)
        if not model.text and not has_features:
            return (Start.items,)
        # A repeat score holds most of what co-occurrence says; what ranks well says nothing of ratings.
        return (Start.texts,) if model.repeat_score or self.loss is Loss.mse else (Start.texts, Start.items)

    @property
    def effective_encoder_learning_rate(self) -> float:
        """The configured rate, or the default for the kind of fine-tuning."""
        if self.encoder_learning_rate is not None:
            return self.encoder_learning_rate
        return 2e-5 if self.encoder_fine_tuning is FineTuning.full else 5e-4


def parse_half_lives(text: str) -> tuple[float, ...]:
    """Half-lives in days from ``"2,7,30"``; ``"auto"`` for the default, ``"none"`` for none, ``inf`` for no decay.

    Raises:
        DataError: The text is no list of positive numbers.
    """
    if text.strip() == "auto":
        return DENSE_HALF_LIFE_DAYS
    if text.strip() == "none":
        return ()
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (-1.0,)
    if not all(value > 0 for value in values):
        raise DataError(f"prior half-lives: got {text!r}; expected positive days, as in '2,7,30,inf', or 'none'")
    return tuple(sorted(values))
