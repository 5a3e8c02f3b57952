"""How far the values in a list are from those of a user's events: calibration (Steck, RecSys 2018)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SMOOTHING = 0.01
"""The weight of the user's distribution in that of the list, so that the divergence is finite (his equation 8)."""


def shares_of(member: Bools) -> Floats:
    """p(g|i): equal shares of the values that an item has, ``[items, values]``; zeros for an item without any."""
    count = member.sum(axis=1, keepdims=True, dtype=np.float32)
    return np.asarray(member / np.maximum(count, 1), dtype=np.float32)


def distribution(shares: Floats, weight: Floats) -> Floats:
    """p(g|u): the values of a user's seen items by weight (his equation 2), ``[values]``; zeros if no item has any.

    Args:
        shares: ``[seen items, values]``, from `shares_of`.
        weight: ``[seen items]``, not negative.
    """
    summed = weight @ shares
    total = summed.sum()
    return np.asarray(summed / total if total > 0 else np.zeros_like(summed), dtype=np.float32)


class Calibration:
    """The divergence of a list from a user's distribution, as items are chosen."""

    def __init__(self, shares: Floats, wanted: Floats) -> None:
        """Starts with no chosen item.

        Args:
            shares: ``[candidates, values]``, from `shares_of`.
            wanted: p(g|u), ``[values]``, from `distribution`. The penalties are zeros if it is zeros.
        """
        kept = np.flatnonzero(wanted)
        self._wanted, self._shares = wanted[kept], shares[:, kept]
        # Shares of values that the user does not know only dilute those that the user does.
        self._mass = shares.sum(axis=1)
        self._chosen = np.zeros(kept.size, dtype=np.float32)
        self._chosen_mass = np.float32(0)
        self.penalty: Floats = self._divergence()

    def choose(self, index: int) -> None:
        """Notes that a candidate is chosen."""
        self._chosen = self._chosen + self._shares[index]
        self._chosen_mass += self._mass[index]
        self.penalty = self._divergence()

    def _divergence(self) -> Floats:
        """C_KL(p, q) of the list with each candidate, ``[candidates]`` (his equation 5)."""
        if not self._wanted.size:
            return np.zeros(self._shares.shape[0], dtype=np.float32)
        mass = self._chosen_mass + self._mass
        of_list = (self._chosen + self._shares) / np.where(mass > 0, mass, np.float32(1))[:, None]
        smooth = np.float32(1 - SMOOTHING) * of_list + np.float32(SMOOTHING) * self._wanted
        constant = np.float32(self._wanted @ np.log(self._wanted))
        return np.asarray(constant - np.log(smooth) @ self._wanted)
