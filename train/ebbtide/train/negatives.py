"""Draws negatives for a step, all at once: items of the catalog that did not come, for the losses that sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_POPULARITY_POWER = 0.75
"""Counts to this power, as word2vec draws its negatives (Mikolov et al., NeurIPS 2013, sec. 2.2)."""


@dataclass(frozen=True)
class Candidates:
    """The items that a step scores: the next items and the drawn ones."""

    item: Tensor
    """``[candidates]``, catalog indices, ascending, none twice."""
    drawn: Tensor
    """``[candidates]`` float32, how often each was drawn."""
    log_expected: Tensor
    """``[candidates]`` float32, the logarithm of how often that was to be expected."""

    def to(self, device: torch.device) -> Candidates:
        """The same on a device."""
        return Candidates(self.item.to(device), self.drawn.to(device), self.log_expected.to(device))

    def column(self, item: Tensor) -> Tensor:
        """Where items that are among the candidates stand, same shape."""
        return torch.searchsorted(self.item, item)


class Sampler:
    """Draws with replacement: the same chance for every item, or by popularity."""

    def __init__(self, counts: npt.NDArray[np.int64], negatives: int, by_popularity: bool) -> None:
        """Prepares the distribution.

        Args:
            counts: ``[items]``, training events of each item; an item without events can be drawn too.
            negatives: M, how many are drawn at a time.
            by_popularity: Items are drawn in proportion to (count + 1) ** 0.75.
        """
        weight = (counts + 1.0) ** _POPULARITY_POWER if by_popularity else np.ones(counts.shape[0])
        chance = weight / weight.sum()
        self._negatives = negatives
        self._upto = torch.from_numpy(np.cumsum(chance))
        self._log_expected = torch.from_numpy(np.log(chance * negatives).astype(np.float32))

    def candidates(self, targets: Tensor) -> Candidates:
        """The targets, ``[targets]`` catalog indices, with new negatives, drawn with torch's global generator."""
        index = torch.rand(self._negatives, dtype=torch.float64)
        negative = torch.searchsorted(self._upto, index, right=True).clamp(max=self._upto.shape[0] - 1)
        item, column = torch.unique(torch.cat([targets, negative]), return_inverse=True)
        drawn = torch.bincount(column[targets.shape[0] :], minlength=item.shape[0]).to(torch.float32)
        return Candidates(item, drawn, self._log_expected[item])
