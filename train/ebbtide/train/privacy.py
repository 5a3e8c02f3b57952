"""Differential privacy of a training: what is promised, and how much noise that takes. The unit is the user.

The guarantee is that of DP-SGD (Abadi et al., CCS 2016) with users in place of examples (McMahan et al., ICLR 2018):
with or without all events of any one user, the probability of any bundle differs by at most a factor of e^epsilon, up
to delta.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ebbtide.data.errors import DataError


class PrivacyConfig(BaseModel):
    """What a private training is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    """Below one over the number of users: at that, a training could publish one user in whole."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest length of the gradient of one user."""
    users_per_step: int = Field(64, ge=1)
    """Expected number of users in a step; each is drawn for itself."""
    steps: int = Field(300, ge=1)


class Guarantee(BaseModel):
    """What a training has kept, as it is written into the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["user"] = "user"
    epsilon: float
    """As the accountant has it, at most as asked for."""
    delta: float
    noise_multiplier: float
    """Standard deviation of the noise on a sum of gradients, over the clip norm."""
    clip_norm: float
    sample_rate: float
    """Probability of each user in each step."""
    steps: int
    accountant: str
    """Library, version and method."""


def guarantee_of(config: PrivacyConfig, users: int) -> Guarantee:
    """The least noise that keeps the promise, by Opacus' accountant of Rényi differential privacy.

    The accountant is for users who are drawn by Poisson sampling, each step anew, and for adding or removing one user.

    Args:
        config: What is asked for.
        users: Who may be drawn. Their number counts as public.

    Raises:
        DataError: Delta is too large for so many users.
    """
    from opacus.accountants.utils import get_noise_multiplier

    if config.delta >= 1 / users:
        raise DataError(
            f"delta: got {config.delta:g} for {users:,} users; expected less than 1/users = {1 / users:.2g}: with "
            "more, a training that publishes a user in whole would count as private"
        )
    rate = min(config.users_per_step / users, 1.0)
    with warnings.catch_warnings():
        # That a finer choice of orders could be tighter makes the bound no less valid.
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        noise = get_noise_multiplier(
            target_epsilon=config.epsilon,
            target_delta=config.delta,
            sample_rate=rate,
            steps=config.steps,
            accountant="rdp",
        )
    return Guarantee(
        epsilon=epsilon_of(noise, rate, config.steps, config.delta),
        delta=config.delta,
        noise_multiplier=noise,
        clip_norm=config.clip_norm,
        sample_rate=rate,
        steps=config.steps,
        accountant=f"opacus {version('opacus')}, RDP",
    )


def epsilon_of(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> float:
    """The epsilon of a training, by Opacus' accountant of Rényi differential privacy.

    Args:
        noise_multiplier: As in `Guarantee`.
        sample_rate: As in `Guarantee`.
        steps: Of the training.
        delta: As in `Guarantee`.
    """
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise_multiplier, sample_rate, steps)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the (largest|smallest) alpha")
        return float(accountant.get_epsilon(delta))
