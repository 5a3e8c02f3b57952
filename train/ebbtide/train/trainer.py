"""Fits the interest model: on the earlier events until validation on the later ones is best, then on all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.data.baskets import basket_heads, has_past, is_repeat
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.data.splits import after_time
from ebbtide.train.checkpoint import CheckpointFolder, Identity
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.devices import Devices
from ebbtide.train.fine_tuning import EncoderFineTuner
from ebbtide.train.loop import Loop
from ebbtide.train.material import History, Material
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import LivePopularity, PopularitySnapshots, Smoothing, snapshot_times
from ebbtide.train.popularity_fit import fit_smoothing
from ebbtide.train.progress import Epoch
from ebbtide.train.watcher import Watcher
from ebbtide.train.windows import LogTensors

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """A trained model and the history of its training."""

    model: InterestModel
    start: Start
    """Where training began, which validation has chosen."""
    epochs: list[Epoch]
    """With validation, from number 0, before the first step; the final fit on all events is not among them."""
    best_epoch: int
    """Number of the epoch with the best validation NDCG@10."""
    validation_ndcg_at_10: float
    """Of the best epoch."""
    rating_mean: float | None
    """Mean weight of the training events where scores are ratings less this mean; None for the ranking losses."""
    fine_tuner: EncoderFineTuner | None
    """The encoder, where it learned, too."""


def fit(
    log: EventLog,
    is_training: Mask,
    text_vectors: npt.NDArray[np.float32],
    model_config: ModelConfig,
    train_config: TrainConfig,
    watcher: Watcher | None = None,
    checkpoints: CheckpointFolder | None = None,
    make_fine_tuner: Callable[[], EncoderFineTuner] | None = None,
    devices: Devices | None = None,
    features: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> Fit:
    """Trains on the given events, and on nothing else.

    Args:
        log: Events; those that are no training events are never read.
        is_training: ``[events]``.
        text_vectors: ``[items, text width]``, the catalog's.
        model_config: Shape of the model.
        train_config: Seed, epochs, rates.
        watcher: Told of progress.
        checkpoints: Where to keep what is needed to go on after a kill, and to look for it.
        make_fine_tuner: Gives a fresh encoder to tune; None leaves it frozen.
        devices: Where to compute; one CPU unless given. Several processes all come here with the same arguments, and
            all get the same result.
        features: Further feature blocks by name, ``[items, width]`` each; None for none.

    Returns:
        The model of the best epoch, fitted again on all training events unless ``refit`` is off.

    Raises:
        DataError: Too few events to train or to validate on.
        CheckpointError: The checkpoint there is of another training.
    """
    devices = devices or Devices()
    watcher = watcher if watcher is not None and devices.is_first else Watcher()
    train_config = train_config.for_catalog(text_vectors.shape[0])
    features = features or {}
    log = _only(log, is_training)
    predictable = has_past(log)
    late = after_time(log, train_config.validation_fraction)
    training, validation = predictable & ~late, predictable & late
    if not training.any() or not validation.any():
        raise DataError(
            f"{log.events} events of {len(log.users)} users: got {int(training.sum())} to train and "
            f"{int(validation.sum())} to validate on; expected some of each (users need two events or more)"
        )
    validation = _some_baskets(log, validation, train_config.validation_baskets, train_config.seed)
    saved = None
    if checkpoints is not None:
        settings = {**model_config.model_dump(), **train_config.model_dump(), **devices.settings}
        saved = checkpoints.begin(Identity(settings=settings, data=_digest(log, text_vectors, features)))
    if saved is not None and saved.progress.earlier and not train_config.refit:
        # The parameters of an earlier start are gone, and nothing would fit them again.
        saved = None
    # Whatever is wrong with data and settings has been told by now, once.
    devices.launch()
    smoothing = _smoothing(log, training, text_vectors.shape[0], model_config, train_config.seed)
    popularity = None if smoothing is None else _snapshots(log, text_vectors.shape[0], smoothing)
    material = Material(
        log=log,
        tensors=LogTensors.of(log, model_config.session_gap_ms),
        popularity=popularity,
        smoothing=smoothing,
        text_vectors=torch.from_numpy(text_vectors),
        features={name: torch.from_numpy(rows) for name, rows in features.items()},
        model_config=model_config,
        config=train_config,
        devices=devices,
        watcher=watcher,
        checkpoints=checkpoints,
        make_fine_tuner=make_fine_tuner,
    )
    refitting = saved is not None and saved.progress.phase == "refit"
    loop = None
    tried = [] if saved is None else [saved.progress.tried] if refitting else list(saved.progress.earlier)
    if not refitting:
        starts = train_config.starts(model_config)
        for start in starts[len(tried) :]:
            resumed = saved if saved is not None and saved.progress.tried.start is start else None
            history = History(start, list(tried)) if resumed is None else History.of(resumed.progress.tried, tried)
            name = "train" if len(starts) == 1 else f"train, start at the {start.value}"
            watcher.fit_started(name, train_config.epochs, max(len(history.epochs) - 1, 0))
            latest = Loop(material, "train", training, validation, train_config.epochs, history, resumed)
            latest.run()
            if loop is None or history.best_ndcg_at_10 > max(one.best_ndcg_at_10 for one in tried):
                loop = latest
            tried.append(history.tried)
    best = max(tried, key=lambda one: one.best_ndcg_at_10)
    if loop is None or train_config.refit:
        done = saved.progress.refit_epochs if saved is not None and refitting else 0
        watcher.fit_started("refit on all events", best.best_epoch, done)
        history = History.of(best, ())
        loop = Loop(material, "refit", predictable, None, best.best_epoch, history, saved if refitting else None)
        loop.run()
    chosen = (best.start, best.epochs, best.best_epoch, best.best_ndcg_at_10)
    return Fit(loop.model, *chosen, loop.step.rating_mean, loop.fine_tuner)


def _smoothing(log: EventLog, training: Mask, items: int, config: ModelConfig, seed: int) -> Smoothing | None:
    """The fitted smoothing of the prior; None where the model has none."""
    if not config.prior_starts:
        return None
    predictable = training & ~is_repeat(log) if config.exclude_seen else training
    return fit_smoothing(log, predictable, items, config.effective_prior_half_life_days, config.prior_starts, seed)


def _snapshots(log: EventLog, items: int, smoothing: Smoothing) -> PopularitySnapshots:
    """The prior over the time of the training events."""
    timestamps = snapshot_times(log.time_ms, items, len(smoothing.starts))
    popularity = LivePopularity(log.item, log.time_ms, items, smoothing)
    return PopularitySnapshots.of(popularity, timestamps, items, len(smoothing.starts))


def _digest(
    log: EventLog, text_vectors: npt.NDArray[np.float32], features: Mapping[str, npt.NDArray[np.float32]]
) -> str:
    """SHA-256 of what is trained on, in hex."""
    digest = hashlib.sha256("\0".join(features).encode())
    arrays: list[npt.NDArray[Any]] = [log.start, log.item, log.time_ms, log.weight, text_vectors, *features.values()]
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _some_baskets(log: EventLog, mask: Mask, at_most: int, seed: int) -> Mask:
    """The events of so many of the masked baskets, ``[events]``."""
    heads = basket_heads(log)
    chosen = np.unique(heads[mask])
    if chosen.shape[0] <= at_most:
        return mask
    chosen = np.random.default_rng(seed).choice(chosen, at_most, replace=False)
    return np.asarray(mask & np.isin(heads, chosen))


def _only(log: EventLog, keep: Mask) -> EventLog:
    """The log of the kept events alone; users who have none of them are left out."""
    counts = np.bincount(log.user[keep], minlength=len(log.users))
    present = counts > 0
    return EventLog(
        users=[user for user, here in zip(log.users, present.tolist(), strict=True) if here],
        start=np.concatenate([[0], np.cumsum(counts[present])]),
        item=log.item[keep],
        time_ms=log.time_ms[keep],
        weight=log.weight[keep],
    )
