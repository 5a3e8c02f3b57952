"""Fits the interest model: on the earlier events until validation on the later ones is best, then once on all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.data.baskets import basket_heads, has_past, in_turn, is_repeat
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.data.splits import after_time
from ebbtide.interest.popularity import Smoothing
from ebbtide.train.checkpoint import Checkpoint, CheckpointFolder, Identity
from ebbtide.train.choices import FineTuning, Loss, Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.devices import Devices
from ebbtide.train.fine_tuning import EncoderFineTuner
from ebbtide.train.loop import Loop
from ebbtide.train.material import History, Material
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import (
    LivePopularity,
    PopularitySnapshots,
    exact_snapshots,
    snapshot_times,
)
from ebbtide.train.popularity_fit import fit_smoothing
from ebbtide.train.progress import Epoch, Tried
from ebbtide.train.related import Related
from ebbtide.train.watcher import Watcher
from ebbtide.train.windows import LogTensors

Mask = npt.NDArray[np.bool_]

_RACE_EPOCHS = 2
"""Epochs after which a start that is far behind the best one is given up."""
_FAR_BEHIND = 0.9
"""Of the best NDCG@10 in the race. On a small log a tenth is chance, and who is behind then may be ahead at the end."""


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
        features: Further feature blocks by name, ``[items, width]`` each, standardised; None for none.

    Returns:
        The model of the best epoch; unless ``refit`` is off, a new one that is trained on all training events for as
        many epochs.

    Raises:
        DataError: Too few events to train or to validate on.
        CheckpointError: The checkpoint there is of another training.
    """
    devices = devices or Devices()
    watcher = watcher if watcher is not None and devices.is_first else Watcher()
    train_config = train_config.for_catalog(text_vectors.shape[0])
    features = features or {}
    log = log.only(is_training)
    predictable = has_past(log) & log.is_target
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
    # Whatever is wrong with data and settings has been told by now, once.
    devices.launch()
    smoothing = _smoothing(log, training, text_vectors.shape[0], model_config, train_config.seed)
    popularity = None if smoothing is None else _snapshots(log, text_vectors.shape[0], smoothing)
    validated = None
    if smoothing is not None and devices.is_first:
        items = text_vectors.shape[0]
        validated = exact_snapshots(*log.counted, items, smoothing, log.time_ms[validation])
    material = Material(
        log=log,
        tensors=LogTensors.of(log, model_config.session_gap_ms),
        popularity=popularity,
        validation_popularity=validated,
        smoothing=smoothing,
        text_vectors=torch.from_numpy(text_vectors),
        features={name: torch.from_numpy(rows) for name, rows in features.items()},
        related=_related(text_vectors, train_config),
        model_config=model_config,
        config=train_config,
        devices=devices,
        watcher=watcher,
        checkpoints=checkpoints,
        make_fine_tuner=make_fine_tuner,
    )
    refitting = saved is not None and saved.progress.phase == "refit"
    if refitting and saved is not None:
        best, chosen = saved.progress.tried, None
    else:
        best, chosen = _chosen_start(material, training, validation, saved)
    if chosen is None or train_config.refit:
        # Where no step of training was of use, this is the start on all events.
        epochs = best.best_epoch
        watcher.fit_started("refit on all events", epochs, saved.progress.refit_epochs if saved and refitting else 0)
        history = History.of(best, ())
        chosen = Loop(material, "refit", predictable, None, epochs, history, saved if refitting else None)
        chosen.run()
    found = (best.start, best.epochs, best.best_epoch, best.best_ndcg_at_10)
    return Fit(chosen.finished_model(), *found, chosen.step.rating_mean, chosen.fine_tuner)


def _chosen_start(
    material: Material, training: Mask, validation: Mask, saved: Checkpoint | None
) -> tuple[Tried, Loop | None]:
    """The best start, trained to its end: all are raced for a few epochs, and those that are near the best one go on.

    A start whose race ended before a kill is not trained again, unless it is to go on. The loop is None where only a
    refit is to come.
    """
    config = material.config
    starts = config.starts(material.model_config, has_features=bool(material.features))
    ended = {} if saved is None else {one.start: one for one in saved.progress.earlier}
    running = None if saved is None else saved.progress.tried.start
    loops: dict[Start, Loop] = {}

    def loop(start: Start) -> Loop:
        resumed = saved if saved is not None and start is running else None
        others = [one for one in ended.values() if one.start is not start]
        history = History(start, others) if resumed is None else History.of(resumed.progress.tried, others)
        return Loop(material, "train", training, validation, config.epochs, history, resumed)

    def run(one: Loop, until: int | None = None) -> None:
        start, done = one.history.start, max(len(one.history.epochs) - 1, 0)
        name = "train" if len(starts) == 1 else f"train, start at the {start.value}"
        material.watcher.fit_started(name, config.epochs, done)
        one.run(until)
        ended[start] = one.history.tried

    def go_on(start: Start) -> None:
        """Trains a start to its end; one that is not in memory, since a kill came later, from the beginning."""
        loops[start] = loops.get(start) or loop(start)
        loops[start].history.earlier = [one for one in ended.values() if one.start is not start]
        run(loops[start])

    for start in starts if len(starts) > 1 else ():
        if start not in ended:
            loops[start] = loop(start)
            run(loops[start], _RACE_EPOCHS)
    raced = {start: _best_of_race(one) for start, one in ended.items()}
    near = [start for start in starts if not raced or raced[start] >= _FAR_BEHIND * max(raced.values())]
    for start in near:
        if start not in ended or not _is_over(ended[start], config):
            go_on(start)
    best = max(near, key=lambda start: ended[start].best_ndcg_at_10)
    if best not in loops and not config.refit:
        go_on(best)
    return ended[best], loops.get(best)


def _best_of_race(tried: Tried) -> float:
    found = [epoch.validation.ndcg_at_10 for epoch in tried.epochs[: _RACE_EPOCHS + 1] if epoch.validation is not None]
    return max(found)


def _is_over(tried: Tried, config: TrainConfig) -> bool:
    """Whether a start was trained to its end."""
    done = len(tried.epochs) - 1
    return done >= config.epochs or done - tried.best_epoch >= config.patience


def _smoothing(log: EventLog, training: Mask, items: int, config: ModelConfig, seed: int) -> Smoothing | None:
    """The fitted smoothing of the prior; None where the model has none."""
    if not config.prior_starts:
        return None
    predictable = training & ~is_repeat(log) if config.exclude_seen else training
    return fit_smoothing(log, predictable, items, config.effective_prior_half_life_days, config.prior_starts, seed)


def _related(text_vectors: npt.NDArray[np.float32], config: TrainConfig) -> Related | None:
    """The related items that validation may weigh; None where all weights are 0, or where texts will move."""
    if not any(config.related_weights) or config.loss is Loss.mse:
        return None
    if config.encoder_fine_tuning is not FineTuning.frozen:
        return None
    return Related.of(torch.from_numpy(text_vectors))


def _snapshots(log: EventLog, items: int, smoothing: Smoothing) -> PopularitySnapshots:
    """The prior over the time of the training events."""
    timestamps = snapshot_times(log.time_ms, items, len(smoothing.starts))
    popularity = LivePopularity(*log.counted, items, smoothing)
    return PopularitySnapshots.of(popularity, timestamps, items, len(smoothing.starts))


def _digest(
    log: EventLog, text_vectors: npt.NDArray[np.float32], features: Mapping[str, npt.NDArray[np.float32]]
) -> str:
    """SHA-256 of what is trained on, in hex."""
    digest = hashlib.sha256("\0".join(features).encode())
    arrays: list[npt.NDArray[Any]] = [log.start, log.item, log.time_ms, log.weight, text_vectors, *features.values()]
    if log.event_type is not None:
        arrays += [log.event_type, log.is_target]
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _some_baskets(log: EventLog, mask: Mask, at_most: int, seed: int) -> Mask:
    """The events of so many of the masked baskets, ``[events]``: one of each user in turn, drawn at random.

    Validation averages over users, so a second basket of a user says less than the first one of another.
    """
    heads = basket_heads(log)
    chosen = np.unique(heads[mask])
    if chosen.shape[0] <= at_most:
        return mask
    chosen = chosen[in_turn(log.user[chosen], seed)[:at_most]]
    return np.asarray(mask & np.isin(heads, chosen))
