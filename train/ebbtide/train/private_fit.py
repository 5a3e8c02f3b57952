"""Fits the interest model with differential privacy: DP-SGD with the user as the unit.

Everything that reaches the model from the log is a sum of clipped gradients of users, with noise. What a training
without privacy takes from the log besides is left out: the starts, the choice of epochs and scales by validation, the
residuals of items and the trust in them, the popularity prior and its smoothing, the repeat score, and negatives by
popularity. The catalog and its texts are public.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.baskets import has_past
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog
from ebbtide.train.choices import Loss
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.model import InterestModel
from ebbtide.train.negatives import Sampler
from ebbtide.train.optimizer import optimizer_of, set_learning_rate
from ebbtide.train.privacy import Guarantee, PrivacyConfig, guarantee_of
from ebbtide.train.step import Step
from ebbtide.train.windows import LogTensors

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_START_SCALE = 4.0
"""Gamma at the start: texts with a cosine of 1 then score 4 more than unrelated ones."""

_ROUNDED = 1 - 1e-5
"""Keeps a clipped gradient within the clip norm when its numbers are rounded to 32 bits."""


def require_private(model: ModelConfig, training: TrainConfig) -> None:
    """Refuses settings under which something of the log would reach the bundle without noise.

    Raises:
        DataError: Names the first.
    """
    for name, got, expected in (
        ("prior_half_life_days", model.prior_half_life_days, "none: popularity is counts of users' events"),
        ("repeat_score", model.repeat_score or None, "False: its biases are counts of users' events"),
        ("exclude_seen", not model.exclude_seen or None, "True"),
        ("event_types", model.event_types, "none: their names are read from the log"),
        ("text", not model.text or None, "True: items have no other factors"),
        ("loss", training.loss if training.loss is Loss.mse else None, "a loss for ranking: ratings need their mean"),
        ("encoder_fine_tuning", training.encoder_fine_tuning.value.replace("frozen", ""), "frozen"),
    ):
        if got:
            raise DataError(f"{name}: got {getattr(model, name, got)!r} with private training; expected {expected}")


def fit_private(
    log: EventLog,
    is_training: Mask,
    text_vectors: npt.NDArray[np.float32],
    model_config: ModelConfig,
    train_config: TrainConfig,
    privacy: PrivacyConfig,
    progress: Callable[[float], None] | None = None,
) -> tuple[InterestModel, Guarantee]:
    """Trains on the given events, with noise.

    No seed makes two trainings equal: whoever knows the noise can take it away, and the seed is in the bundle.

    Args:
        log: Events; those that are no training events are never read.
        is_training: ``[events]``.
        text_vectors: ``[items, text width]``, of a public catalog.
        model_config: As `require_private` accepts it.
        train_config: Learning rate, dropout, windows; its seed is for the start alone.
        privacy: What is promised.
        progress: Told of the share of all steps that is done with each.

    Returns:
        The finished model, and the guarantee that the accountant gives for it.

    Raises:
        DataError: Settings that leak, nobody to learn from, or too large a delta.
    """
    require_private(model_config, train_config)
    train_config = train_config.for_catalog(text_vectors.shape[0])
    log = log.only(is_training)
    targets = has_past(log) & log.is_target
    windows = PrivateWindows(log, targets)
    if not windows.users:
        raise DataError("events: got no user with two events to learn from; expected some")
    guarantee = guarantee_of(privacy, windows.users)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train_config.seed)
        model = public_start(model_config, torch.from_numpy(text_vectors))
        uniform = Sampler(np.zeros(text_vectors.shape[0], dtype=np.int64), train_config.negatives, by_popularity=True)
        tensors = LogTensors.of(log, model_config.session_gap_ms)
        step = Step(model, log, tensors, None, targets, train_config, sampler=uniform)
        # Dropout and negatives, too, must not be known: of one user's they depend on who was drawn before.
        torch.manual_seed(secrets.randbits(63))
        random = np.random.default_rng(secrets.randbits(256))
        descend(step, windows, train_config, guarantee, random, progress)
    model.finish(1.0)
    return model.eval(), guarantee


def public_start(config: ModelConfig, text_vectors: Tensor) -> InterestModel:
    """A model that scores by the texts' principal directions, from the public catalog alone.

    Args:
        config: Shape of the model.
        text_vectors: ``[items, text width]``.
    """
    model = InterestModel(config, text_vectors)
    model.event_residual.requires_grad_(False).zero_()
    model.item_residual.requires_grad_(False).zero_()
    mean = torch.nn.functional.normalize(text_vectors.mean(0), dim=0)
    # What all texts share says nothing of any.
    apart = text_vectors - (text_vectors @ mean)[:, None] * mean
    _, values = torch.linalg.eigh((apart.T @ apart).double())
    count = min(config.dimensions, values.shape[1])
    directions = values.flip(1)[:, :count].to(text_vectors.dtype)
    scale = 1 / (apart @ directions).norm(dim=1).mean().clamp(min=1e-6)
    with torch.no_grad():
        for projection in (model.event_projection, model.item_projection):
            projection.zero_()
            projection[:, :count] = directions * scale
        model.gamma.fill_(_START_SCALE)
    return model


class PrivateWindows:
    """The users who may be drawn, and a window of each."""

    def __init__(self, log: EventLog, targets: Mask) -> None:
        """Finds the users with a target.

        Args:
            log: Events.
            targets: ``[events]``.
        """
        events = np.flatnonzero(targets)
        owner = np.searchsorted(log.start, events, side="right") - 1
        _, first, counts = np.unique(owner, return_index=True, return_counts=True)
        self._events, self._first, self._counts = events, first, counts
        self.users = counts.shape[0]
        """How many have a target."""

    def drawn(self, sample_rate: float, random: np.random.Generator) -> list[Ints]:
        """A window ``[1, 2]`` of each user of one step, who is drawn with the same probability as all others."""
        return [self.of(user, random) for user in np.flatnonzero(random.random(self.users) < sample_rate)]

    def of(self, user: int, random: np.random.Generator) -> Ints:
        """A window of a user that begins at one of the targets."""
        event = self._events[self._first[user] + random.integers(self._counts[user])]
        return np.array([[event, event]], dtype=np.int64)


def descend(
    step: Step,
    windows: PrivateWindows,
    config: TrainConfig,
    guarantee: Guarantee,
    random: np.random.Generator,
    progress: Callable[[float], None] | None = None,
) -> None:
    """All steps of a training.

    Args:
        step: Gives the loss of a window.
        windows: Who may be drawn.
        config: Learning rate.
        guarantee: Noise, clip norm, sample rate and steps. Without noise nothing is promised: for tests.
        random: Draws users, windows and noise.
        progress: As for `fit_private`.
    """
    optimizer = optimizer_of(step.model, config, fused=False)
    step.model.train()
    # The products of one user are so small that threads cost more than they save.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _steps(step, windows, guarantee, random, optimizer, progress)
    finally:
        torch.set_num_threads(threads)


def _steps(
    step: Step,
    windows: PrivateWindows,
    guarantee: Guarantee,
    random: np.random.Generator,
    optimizer: torch.optim.Optimizer,
    progress: Callable[[float], None] | None,
) -> None:
    learned = [parameter for parameter in step.model.parameters() if parameter.requires_grad]
    expected = guarantee.sample_rate * windows.users
    deviation = guarantee.noise_multiplier * guarantee.clip_norm
    for number in range(guarantee.steps):
        sums = [torch.zeros_like(parameter) for parameter in learned]
        for window in windows.drawn(guarantee.sample_rate, random):
            for total, clipped in zip(sums, clipped_gradient(step, window, learned, guarantee.clip_norm), strict=True):
                total += clipped
        for parameter, total in zip(learned, sums, strict=True):
            noise = torch.from_numpy(random.normal(0.0, 1.0, tuple(total.shape))).to(total.dtype)
            parameter.grad = (total + deviation * noise) / expected
        set_learning_rate(optimizer, number / guarantee.steps)
        optimizer.step()
        if progress is not None:
            progress(1 / guarantee.steps)


def clipped_gradient(step: Step, window: Ints, learned: list[torch.nn.Parameter], clip_norm: float) -> list[Tensor]:
    """The gradient of one user, not longer than the clip norm over all parameters together.

    Args:
        step: Gives the loss.
        window: ``[1, 2]``, of the user.
        learned: What the gradient is of.
        clip_norm: Its largest length.
    """
    loss, _, _ = step(window)
    found = torch.autograd.grad(loss, learned, allow_unused=True)
    gradient = [torch.zeros_like(one) if part is None else part for one, part in zip(learned, found, strict=True)]
    norm = torch.stack([part.double().square().sum() for part in gradient]).sum().sqrt()
    if not norm.isfinite():
        return [torch.zeros_like(part) for part in gradient]
    return [part * (_ROUNDED * clip_norm / norm.clamp(min=clip_norm)).to(part.dtype) for part in gradient]
