"""Event vectors and item factors from a linear model: which items occur together in windows of users' logs.

The score of the interest model is sum_e decay_e x_e . a_i, and a low-rank item-to-item model X^T X ~ E A^T is exactly
that without decay: so its factors, found in seconds by a truncated singular value decomposition, are where gradient
descent begins. They are shrunk as ridge regression shrinks them, V s^2 / (s^2 + penalty) V^T: PureSVD (Cremonesi et
al., RecSys 2010) with the penalty of EASE (Steck, WWW 2019), without its constraint on the diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.events import EventLog
from ebbtide.interest.parameters import NORM_FLOOR_SQUARED

WINDOW_EVENTS = 64
"""Consecutive events of one user that count as occurring together."""
_POPULARITY_POWER = 0.4
"""An item's column is divided by its count to this power, or popular items would fill all directions (EigenRec)."""
_SHRINKAGE = 0.01
"""The ridge penalty over the largest squared singular value."""
_SPARE_DIRECTIONS = 16
_ITERATIONS = 3


@dataclass(frozen=True)
class LowRank:
    """Factors of all items in k directions; zero for items without a training event."""

    event: Tensor
    """``[items, k]``."""
    item: Tensor
    """``[items, k]``."""
    count: Tensor
    """``[items]``, training events."""
    interest: Tensor
    """``[windows, k]``, undecayed and normalised as in step 3 of the method."""


def low_rank(log: EventLog, training: npt.NDArray[np.bool_], items: int, directions: int) -> LowRank | None:
    """Decomposes the matrix of windows and items; None where it has fewer rows or columns than directions.

    Args:
        log: Events.
        training: ``[events]``, the events that may be read.
        items: Number of items.
        directions: k.
    """
    item, user = log.item[training], log.user[training]
    index = np.arange(user.shape[0]) - np.searchsorted(user, user, side="left")
    window = np.unique(user * log.events + index // WINDOW_EVENTS, return_inverse=True)[1]
    rank = min(directions + _SPARE_DIRECTIONS, int(window.max(initial=-1)) + 1, items)
    if rank < directions:
        return None
    count = np.bincount(item, minlength=items)
    weight = np.where(count > 0, np.maximum(count, 1.0) ** -_POPULARITY_POWER, 0.0)
    pairs = np.unique(window * np.int64(items) + item)
    rows, columns = pairs // items, pairs % items
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([rows, columns])),
        torch.from_numpy(weight[columns].astype(np.float32)),
        (int(window.max()) + 1, items),
        check_invariants=True,
    )
    _, values, vectors = torch.svd_lowrank(matrix, q=rank, niter=_ITERATIONS)
    values, vectors = values[:directions], vectors[:, :directions]
    shrunk = vectors * (values.square() / (values.square() + _SHRINKAGE * values[0].square())).sqrt()
    scale = torch.from_numpy(weight.astype(np.float32))[:, None]
    back = torch.where(scale > 0, 1 / scale.clamp(min=1e-6), torch.zeros_like(scale))
    event = shrunk * scale
    terms = event[torch.from_numpy(item)]
    rows_of_events = torch.from_numpy(window)
    empty = torch.zeros(int(window.max()) + 1, directions)
    sums = empty.index_add(0, rows_of_events, terms)
    squares = empty.index_add(0, rows_of_events, terms.square()).sum(1, keepdim=True)
    interest = sums * torch.rsqrt(squares + float(NORM_FLOOR_SQUARED))
    return LowRank(event, shrunk * back, torch.from_numpy(count.astype(np.float32)), interest)
