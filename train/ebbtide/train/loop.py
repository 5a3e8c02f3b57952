"""The loop of gradient descent: epochs over a fresh model, validation, stopping, and a checkpoint to go on from."""

from __future__ import annotations

import math
import time
from dataclasses import astuple
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.train.calibration import calibrate
from ebbtide.train.canonical import canonical_text
from ebbtide.train.checkpoint import Checkpoint, CheckpointFolder, Progress, optimizer_tensors, restore_optimizer
from ebbtide.train.choice_model import group_weights
from ebbtide.train.choices import Loss, Start
from ebbtide.train.evaluation.ranks import Variant
from ebbtide.train.evaluation.scores import live_popularity
from ebbtide.train.lowrank import low_rank
from ebbtide.train.material import History, Material
from ebbtide.train.model import InterestModel
from ebbtide.train.optimizer import optimizer_of, set_learning_rate
from ebbtide.train.progress import QUANTILES, Epoch, Metrics
from ebbtide.train.start import (
    UNFITTED,
    LinearTerm,
    linear_dimensions,
    place_linear,
    start_at_items,
    start_at_texts,
    weigh,
)
from ebbtide.train.step import Step
from ebbtide.train.windows import batches, training_windows

_MAX_GRADIENT_NORM = 5.0
_LARGEST_PARAMETER = 1e4
"""Of a training that converges, the largest are a thousandth of it."""
_NO_WORSE = 0.01
"""Relative loss of NDCG@10 that is chance: of epochs so near the best one, the last is chosen."""
_MODEL, _BEST, _OPTIMIZER, _ENCODER = "model.", "best.", "optimizer.", "encoder."
_GENERATORS, _TEXT_VECTORS = "torch_generators", "text_vectors"

Mask = npt.NDArray[np.bool_]
Phase = Literal["train", "refit"]


class Loop:
    """One fit, from a fresh model or from a checkpoint of the same phase."""

    def __init__(
        self,
        material: Material,
        phase: Phase,
        training: Mask,
        validation: Mask | None,
        epochs: int,
        history: History,
        saved: Checkpoint | None,
    ) -> None:
        """Makes the model, or restores it.

        Args:
            material: Data and settings. Without its checkpoints, nothing is saved.
            phase: ``refit`` counts its own epochs and leaves the history alone.
            training: ``[events]``, events to learn from.
            validation: ``[events]``, events that decide which epoch is best; None for none.
            epochs: At most.
            history: Of the training so far; this fit adds to it.
            saved: Of this phase.
        """
        self.material = material
        self.phase = phase
        self.validation = validation
        self.epochs = epochs
        self.history = history
        config = material.config
        torch.manual_seed(config.seed)
        self.random = np.random.default_rng(config.seed)
        self.model = InterestModel(material.model_config, material.text_vectors, material.features)
        self.fine_tuner = None if material.make_fine_tuner is None else material.make_fine_tuner()
        counts = np.bincount(material.log.item[training], minlength=material.text_vectors.shape[0])
        self.model.trust_residuals(torch.from_numpy(counts), config.residual_half_trust_events)
        self.model.linear_dimensions = linear_dimensions(history.start, material.model_config, config)
        if saved is None:
            if material.smoothing is not None:
                self.model.prior_smoothing_events.copy_(torch.from_numpy(material.smoothing.events))
                self.model.prior_first_event_bonus.fill_(material.smoothing.first_event_bonus)
            self._warm_start(training)
        self.step = Step(
            self.model, material.log, material.tensors, material.popularity, training, config, self.fine_tuner
        )
        if saved is None:
            self.step.standardise_repeats()
        self.optimizer = optimizer_of(
            self.model, config, self._encoder_parameters(), fused=not material.devices.scales_loss
        )
        self.parallel_step = material.devices.setup(self.step)
        material.devices.seed(config.seed)
        self.best: dict[str, Tensor] = {}
        self.refit_epochs = 0
        self.batches = 0
        self.loss_sum = 0.0
        self.alpha_sum = 0.0
        self.baskets = 0
        if saved is not None:
            self._restore(saved)
        self.linear = LinearTerm(self.model) if self.model.linear_dimensions else None
        self._paused = self.material.devices.generators()

    def run(self, until: int | None = None) -> None:
        """Trains to the end, or until so many epochs are done; another call goes on.

        Between two calls other fits may use torch's random generators: the result is that of one call.
        """
        self.material.devices.restore_generators(self._paused)
        if self.phase == "train" and not self.history.epochs:
            self._end_epoch(time.monotonic())
        while not self._finished() and (until is None or self._done() < until):
            began = time.monotonic()
            self._epoch()
            self._end_epoch(began)
        self._paused = self.material.devices.generators()

    def finished_model(self) -> InterestModel:
        """The model of the best epoch, or of the last where nothing was validated, put together for serving."""
        if self.best:
            self._put(self.best)
            self._refresh()
        self.step.cpu()
        variant = self.history.best_variant
        self.model.finish(variant.interest_scale, variant.linear_scale)
        if self.material.related is not None and variant.related_weight:
            self.model.relate(self.material.related.weighed(variant.related_weight))
        if self.model.repeat is not None:
            self.model.repeat.repeat_offset.fill_(variant.repeat_offset)
            self.model.repeat.interest_share.fill_(variant.interest_share)
        return self.model.eval()

    def _encoder_parameters(self) -> list[nn.Parameter]:
        return (
            [] if self.fine_tuner is None else [value for value in self.fine_tuner.parameters() if value.requires_grad]
        )

    def _learned(self) -> dict[str, Tensor]:
        """Everything that learns, by name."""
        encoder = {} if self.fine_tuner is None else self.fine_tuner.learned()
        return {**self.model.state_dict(), **{_ENCODER + name: value for name, value in encoder.items()}}

    def _put(self, learned: dict[str, Tensor]) -> None:
        """Puts back what `_learned` gave."""
        encoder = _under(learned, _ENCODER)
        self.model.load_state_dict({name: value for name, value in learned.items() if not name.startswith(_ENCODER)})
        if self.fine_tuner is not None:
            self.fine_tuner.restore(encoder)

    def _refresh(self) -> None:
        """The catalog's text vectors as the encoder is now."""
        if self.fine_tuner is not None:
            self.model.text_vectors = self.fine_tuner.refreshed().to(self.model.text_vectors.device)

    def _done(self) -> int:
        return max(len(self.history.epochs) - 1, 0) if self.phase == "train" else self.refit_epochs

    def _finished(self) -> bool:
        done, best = self._done(), self.history.best_epoch
        patient = self.phase == "refit" or done - best < self.material.config.patience
        return done >= self.epochs or not patient

    def _epoch(self) -> None:
        """One pass over the training targets, or what is left of it."""
        config, watcher = self.material.config, self.material.watcher
        self.model.train()
        before = self.random.bit_generator.state
        windows = training_windows(self.material.log, self.step.heads, config.targets_per_window, self.random)
        for index, group in enumerate(batches(windows, config.windows_per_batch)):
            if index >= self.batches:
                fraction = index * config.windows_per_batch / len(windows)
                progress = (self._done() + fraction) / self.epochs
                set_learning_rate(self.optimizer, progress)
                self._descend(group)
                self.batches = index + 1
                checkpoints = self.material.checkpoints
                if checkpoints is not None and self.batches % checkpoints.every_batches == 0:
                    self._save(checkpoints, before)
            watcher.epoch_part_done(len(group) / len(windows))

    def _descend(self, windows: npt.NDArray[np.int64]) -> None:
        devices = self.material.devices
        share = devices.share(windows)
        # At the end of an epoch there may be fewer windows than processes: who has none steps along with no weight.
        loss, alpha, baskets = self.parallel_step(share if len(share) else windows[:1])
        baskets = baskets if len(share) else 0
        loss_sum, alpha_sum, total = devices.total(float(loss.detach()) * baskets, float(alpha) * baskets, baskets)
        # The average over processes is to be the average over the baskets of the whole batch.
        devices.descend(loss * (devices.count * baskets / total), self.step, self.optimizer, _MAX_GRADIENT_NORM)
        if self.linear is not None:
            self.linear.restore(self.model)
        self.loss_sum += loss_sum
        self.alpha_sum += alpha_sum
        self.baskets += round(total)

    def _end_epoch(self, began: float) -> None:
        number = self._done() + 1 if self.baskets else 0
        self._refresh()
        trained = time.monotonic()
        metrics, variant = self._validate()
        epoch = Epoch(
            number=number,
            loss=self.loss_sum / self.baskets if self.baskets else math.nan,
            alpha=self.alpha_sum / self.baskets if self.baskets else math.nan,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            half_life_days=self.model.half_life_quantiles(QUANTILES),
            validation=metrics,
            seconds=trained - began,
            validation_seconds=time.monotonic() - trained,
        )
        self._require_converged(epoch)
        if self.phase == "train":
            self.history.epochs.append(epoch)
        else:
            self.refit_epochs = number
        best = self.history.best_ndcg_at_10
        # Of ratings NDCG says nothing: with their loss the last epoch is the best.
        rates = self.material.config.loss is Loss.mse
        if metrics is not None and (rates or metrics.ndcg_at_10 > best - _NO_WORSE * abs(best)):
            self.history.best_epoch = number
            self.history.best_ndcg_at_10 = metrics.ndcg_at_10 if rates else max(metrics.ndcg_at_10, best)
            self.history.best_variant = variant
            self.best = {name: value.clone() for name, value in self._learned().items()}
        self.batches, self.loss_sum, self.alpha_sum, self.baskets = 0, 0.0, 0.0, 0
        if self.material.checkpoints is not None:
            self._save(self.material.checkpoints, self.random.bit_generator.state)
        self.material.watcher.epoch_ended(epoch)

    def _require_converged(self, epoch: Epoch) -> None:
        """Passes an epoch whose loss and parameters are those of a training that converges.

        Validation need not see that they are not, since it can leave the interest out of the scores, and no validation
        judges a refit.

        Raises:
            FloatingPointError: They are not.
        """
        before = max((epoch.loss for epoch in self.history.epochs if epoch.number), default=math.inf)
        if self.phase == "refit" and self.baskets and not epoch.loss <= 2 * before + 1:
            raise FloatingPointError(
                f"the refit has loss {epoch.loss:.3g}, training had {before:.3g}; training has diverged: lower the "
                "learning rate"
            )
        for value in (*self.model.parameters(), *self._encoder_parameters()):
            # Not by the largest of all: a comparison passes over what is not a number.
            if not bool((value.detach().abs() <= _LARGEST_PARAMETER).all()):
                largest = float(value.detach().abs().max())
                raise FloatingPointError(
                    f"a parameter has grown to {largest:.3g} in epoch {epoch.number}; training has diverged: lower the "
                    "learning rate"
                )

    def _validate(self) -> tuple[Metrics | None, Variant]:
        """Measured by the first process, which tells the others."""
        if self.validation is None:
            return None, Variant()
        material, devices = self.material, self.material.devices
        found, variant = Metrics(0, 0, 0, 0.0, 0.0, 0.0), Variant()
        if devices.is_first:
            best = calibrate(
                *(self.model, material.log, material.tensors, self.validation, material.config),
                *(material.validation_popularity, self.history.best_variant, material.related),
            )
            found, variant = best.metrics, best.variant
        told = devices.told_by_first(*astuple(found), *astuple(variant))
        (users, baskets, events, *means), parts = told[: len(astuple(found))], told[len(astuple(found)) :]
        return Metrics(round(users), round(baskets), round(events), *means), Variant(*parts)

    def _warm_start(self, training: Mask) -> None:
        material = self.material
        log, items, config = material.log, material.text_vectors.shape[0], material.config
        directions = (material.model_config.dimensions - self.model.linear_dimensions) // 2
        if self.history.start is Start.items:
            start_at_items(self.model, low_rank(log, training, items, directions) if directions else None)
            return
        blocks = [block.features for block in self.model.described if block.features is not None]
        of_text = min(config.text_directions, directions // max(sum(bool(block.any()) for block in blocks), 1))
        texts = [
            canonical_text(log, training, block, material.popularity, min(of_text, block.shape[1]), config.seed)
            for block in blocks
        ]
        groups = start_at_texts(self.model, texts)
        dimensions = self.model.linear_dimensions
        if dimensions:
            place_linear(self.model, low_rank(log, training, items, dimensions))
        if not groups:
            return
        if self.validation is not None and config.loss is not Loss.mse:
            self.history.text_weights = self._fitted_weights(groups, self.validation)
        weigh(self.model, groups, self.history.text_weights or [UNFITTED] * len(groups))

    def _fitted_weights(self, groups: tuple[slice, ...], validation: Mask) -> tuple[float, ...]:
        """Fitted by the first process, which tells the others."""
        material = self.material
        found = [0.0] * len(groups)
        if material.devices.is_first:
            popularity = material.validation_popularity or live_popularity(self.model, material.log)
            found = group_weights(
                *(self.model, material.log, material.tensors, validation, groups),
                *(popularity, material.config.seed),
            )
        return tuple(material.devices.told_by_first(*found))

    def _save(self, checkpoints: CheckpointFolder, random_state: object) -> None:
        progress = Progress(
            phase=self.phase,
            batches=self.batches,
            loss_sum=self.loss_sum,
            alpha_sum=self.alpha_sum,
            baskets=self.baskets,
            random_state=random_state,
            loss_scale=self.material.devices.loss_scale(),
            tried=self.history.tried,
            earlier=self.history.earlier,
            refit_epochs=self.refit_epochs,
        )
        parts = {
            _MODEL: self._learned(),
            _BEST: self.best,
            _OPTIMIZER: optimizer_tensors(self.optimizer),
        }
        tensors = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
        if self.fine_tuner is not None:
            tensors[_TEXT_VECTORS] = self.model.text_vectors
        tensors[_GENERATORS] = self.material.devices.generators()
        if self.material.devices.is_first:
            checkpoints.save(progress, tensors)

    def _restore(self, saved: Checkpoint) -> None:
        progress = saved.progress
        self.batches, self.baskets = progress.batches, progress.baskets
        self.loss_sum, self.alpha_sum = progress.loss_sum, progress.alpha_sum
        self.refit_epochs = progress.refit_epochs
        self.random.bit_generator.state = progress.random_state
        self._put(_under(saved.tensors, _MODEL))
        if self.fine_tuner is not None:
            self.model.text_vectors = saved.tensors[_TEXT_VECTORS].to(self.model.text_vectors.device)
        self.best = _under(saved.tensors, _BEST)
        restore_optimizer(self.optimizer, _under(saved.tensors, _OPTIMIZER))
        self.material.devices.restore_loss_scale(progress.loss_scale)
        self.material.devices.restore_generators(saved.tensors[_GENERATORS])


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
