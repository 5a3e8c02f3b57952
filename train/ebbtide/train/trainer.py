"""Fits the interest model by gradient descent: the next event against the whole catalog, until validation is best."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.errors import DataError
from ebbtide.train.evaluation import Metrics, after_time, has_past, metrics_of, target_ranks
from ebbtide.train.evaluation.scores import own_before
from ebbtide.train.evaluation.split import instant_heads
from ebbtide.train.events import EventLog
from ebbtide.train.lowrank import low_rank, start_from
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import PopularitySnapshots, popularity_snapshots, snapshot_moments
from ebbtide.train.watcher import Watcher
from ebbtide.train.windows import LogTensors, batches, predict_windows, training_windows

_DECAY_RATE_SPEED = 3.0
"""Decay rates live on a log scale and learn this much faster than the rest."""
_FEW_SPEED = 5.0
"""The few weights of popularity and repetition act on every item: they learn this much faster than the rest."""
_WARM_UP = 0.1
_MAX_GRADIENT_NORM = 5.0

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training events gave."""

    number: int
    loss: float
    """Mean cross-entropy, nats."""
    validation: Metrics | None
    """None in the final fit on all events."""
    seconds: float


@dataclass(frozen=True)
class Fit:
    """A trained model and how it came to be."""

    model: InterestModel
    popularity: PopularitySnapshots | None
    """The prior as of each moment of the training events."""
    epochs: list[Epoch]
    """With validation; the final fit on all events is not among them."""
    best_epoch: int
    """Number, from 1, of the epoch with the best validation NDCG@10."""


def fit(
    log: EventLog,
    is_training: Mask,
    text_vectors: npt.NDArray[np.float32],
    model_config: ModelConfig,
    train_config: TrainConfig,
    watcher: Watcher | None = None,
) -> Fit:
    """Trains on the given events, and on nothing else.

    Args:
        log: Events; those that are no training events are never read.
        is_training: ``[n]``.
        text_vectors: ``[N, text width]``, the catalog's.
        model_config: Shape of the model.
        train_config: Seed, epochs, rates.
        watcher: Told of progress.

    Returns:
        The model of the best epoch, fitted again on all training events unless ``refit`` is off.

    Raises:
        DataError: Too few events to train or to validate on.
    """
    watcher = watcher or Watcher()
    log = _only(log, is_training)
    predictable = has_past(log)
    late = after_time(log, train_config.validation_fraction)
    training, validation = predictable & ~late, predictable & late
    if not training.any() or not validation.any():
        raise DataError(
            f"{log.events} events of {len(log.users)} people: got {int(training.sum())} to train and "
            f"{int(validation.sum())} to validate on; expected some of each (people need two events or more)"
        )
    tensors = LogTensors.of(log, model_config.session_gap_ms)
    popularity = prior_snapshots(log, text_vectors.shape[0], model_config)
    watcher.fit_started("train", train_config.epochs)
    run = _Run(log, tensors, popularity, torch.from_numpy(text_vectors), model_config, train_config, watcher)
    model, epochs, best = run.fit(training, validation, train_config.epochs)
    if train_config.refit:
        watcher.fit_started("refit on all events", best)
        model, _, _ = run.fit(predictable, None, best)
    return Fit(model, popularity, epochs, best)


def prior_snapshots(log: EventLog, items: int, config: ModelConfig) -> PopularitySnapshots | None:
    """The popularity prior over a log; None where the model has none."""
    half_lives = config.effective_prior_half_life_days
    if not half_lives:
        return None
    moments = snapshot_moments(log.time_ms, items, len(half_lives))
    return popularity_snapshots(log.item, log.time_ms, items, half_lives, moments)


def _only(log: EventLog, keep: Mask) -> EventLog:
    """The log of the kept events alone; people who have none of them are left out."""
    counts = np.bincount(log.user[keep], minlength=len(log.users))
    present = counts > 0
    return EventLog(
        users=[user for user, here in zip(log.users, present.tolist(), strict=True) if here],
        start=np.concatenate([[0], np.cumsum(counts[present])]),
        item=log.item[keep],
        time_ms=log.time_ms[keep],
        weight=log.weight[keep],
    )


@dataclass
class _Run:
    """The fits of one call, which share data and settings."""

    log: EventLog
    tensors: LogTensors
    popularity: PopularitySnapshots | None
    text_vectors: Tensor
    model_config: ModelConfig
    config: TrainConfig
    watcher: Watcher

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """``[n]``, events of the instant that each event is the first of; 0 for others."""
        return np.bincount(instant_heads(self.log), minlength=self.log.events)

    def fit(self, training: Mask, validation: Mask | None, epochs: int) -> tuple[InterestModel, list[Epoch], int]:
        """Trains a fresh model; with validation it gives back that of the best epoch."""
        torch.manual_seed(self.config.seed)
        random = np.random.default_rng(self.config.seed)
        model = InterestModel(self.model_config, self.text_vectors)
        warm_start = self.config.warm_start
        if not self.model_config.repeat_bonus if warm_start is None else warm_start:
            directions = max(self.model_config.dimensions // 2, 1)
            factors = low_rank(self.log, training, self.text_vectors.shape[0], directions)
            if factors is not None:
                start_from(model, factors)
        optimizer = _optimizer(model, self.config)
        reports: list[Epoch] = []
        best_state: dict[str, Tensor] = {}
        best, best_score = epochs, -1.0
        for number in range(1, epochs + 1):
            began = time.monotonic()
            loss = self._epoch(model, optimizer, training, random, number - 1)
            metrics = None
            if validation is not None:
                events, ranks = target_ranks(model, self.log, self.tensors, validation, self.popularity)
                metrics = metrics_of(self.log, events, ranks)
            reports.append(Epoch(number, loss, metrics, time.monotonic() - began))
            self.watcher.epoch_ended(reports[-1])
            if metrics is None:
                continue
            if metrics.ndcg_at_10 > best_score:
                best, best_score = number, metrics.ndcg_at_10
                best_state = {name: value.clone() for name, value in model.state_dict().items()}
            elif number - best >= self.config.patience:
                break
        if best_state:
            model.load_state_dict(best_state)
        return model.eval(), reports, best

    def _epoch(
        self,
        model: InterestModel,
        optimizer: torch.optim.Optimizer,
        training: Mask,
        random: np.random.Generator,
        done: int,
    ) -> float:
        """One pass over the training targets; the mean loss."""
        model.train()
        config = self.config
        # What came at one instant is predicted together, from what stands before its first event.
        heads = training & (instant_heads(self.log) == np.arange(self.log.events))
        windows = training_windows(self.log, heads, config.targets_per_window, random)
        mask = torch.from_numpy(heads)
        total, count = 0.0, 0
        for start, group in enumerate(batches(windows, config.windows_per_batch)):
            fraction = start * config.windows_per_batch / len(windows)
            _set_learning_rate(optimizer, (done + fraction) / config.epochs)
            loss, targets = self._loss(model, group, mask)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
            optimizer.step()
            total += float(loss.detach()) * targets
            count += targets
            self.watcher.epoch_part_done(len(group) / len(windows))
        return total / count

    def _loss(self, model: InterestModel, windows: npt.NDArray[np.int64], mask: Tensor) -> tuple[Tensor, int]:
        """Cross-entropy of what came at each instant over the whole catalog, and how many instants that were."""
        config = self.config
        predicted = predict_windows(
            model,
            self.tensors,
            windows,
            config.context_events,
            config.targets_per_window,
            mask,
            model.event_vectors(),
            config.dropout,
        )
        heads = predicted.event.numpy()
        scores = predicted.interest @ model.item_factors().T
        if self.popularity is not None:
            moment = torch.from_numpy(self.popularity.index_at(self.log.time_ms[heads]))
            used, place = torch.unique(moment, return_inverse=True)
            prior = torch.from_numpy(self.popularity.columns)[used] @ model.prior_weight
            scores = scores + nn.functional.embedding(place, prior)
        if model.repeat is not None:
            scores = model.repeat.add_to(scores, own_before(self.log, self.tensors, heads))
        return instant_loss(scores, *self._came(heads)), len(heads)

    def _came(self, heads: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Row and catalog index of everything that came at some instants, ``[items]`` each."""
        counts = self.sizes[heads]
        row = np.repeat(np.arange(heads.shape[0]), counts)
        place = heads[row] + np.arange(row.shape[0]) - np.repeat(np.cumsum(counts) - counts, counts)
        return torch.from_numpy(row), torch.from_numpy(self.log.item[place])


def instant_loss(scores: Tensor, row: Tensor, item: Tensor) -> Tensor:
    """Mean over K instants of the mean cross-entropy of the items that came at each.

    Args:
        scores: ``[K, N]``.
        row: ``[items]``, the instant of each item that came; every instant has one.
        item: ``[items]``, catalog indices.
    """
    share = 1 / torch.bincount(row, minlength=scores.shape[0])[row]
    gained = (scores[row, item] * share).sum() / scores.shape[0]
    return scores.logsumexp(dim=1).mean() - gained


def _optimizer(model: InterestModel, config: TrainConfig) -> torch.optim.Optimizer:
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "few": [], "residual": [], "rest": []}
    for name, parameter in model.named_parameters():
        groups[_kind(name)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups["rest"], "weight_decay": 0.0, "peak": config.learning_rate},
            {
                "params": groups["residual"],
                "weight_decay": config.residual_weight_decay,
                "peak": config.learning_rate,
            },
            {"params": groups["decay"], "weight_decay": 0.0, "peak": config.learning_rate * _DECAY_RATE_SPEED},
            {"params": groups["few"], "weight_decay": 0.0, "peak": config.learning_rate * _FEW_SPEED},
        ],
        lr=config.learning_rate,
    )


def _kind(name: str) -> str:
    """The group of a parameter in the optimizer, by its name."""
    if name.endswith("decay_rate"):
        return "decay"
    if name.endswith("_residual"):
        return "residual"
    return "few" if name.startswith(("prior_", "repeat.")) else "rest"


def _set_learning_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """One cycle: a linear warm-up, then half a cosine down to a hundredth, by the part of all epochs done."""
    if progress < _WARM_UP:
        factor = 0.04 + 0.96 * progress / _WARM_UP
    else:
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
