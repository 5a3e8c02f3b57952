"""Starts event vectors and item factors from a linear model: which items occur together in windows of users' logs.

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
from ebbtide.train.canonical import CanonicalText
from ebbtide.train.model import InterestModel

WINDOW_EVENTS = 64
"""Consecutive events of one user that count as occurring together."""
_POPULARITY_POWER = 0.4
"""An item's column is divided by its count to this power, or popular items would fill all directions (EigenRec)."""
_SHRINKAGE = 0.01
"""The ridge penalty over the largest squared singular value."""
_SPARE_DIRECTIONS = 16
_ITERATIONS = 3
_SCORE_SPREAD = 0.5
"""Root mean square, over windows and items, of the scores that the undecayed interest of a window gives."""
_TEXT_PENALTY = 1.0
_LEAST_TRUST = 1e-6
_TEXT_SCALE = 0.35
"""Factor of the scores of the canonical directions: they are log odds for jointly normal texts, which texts are not."""


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


@torch.no_grad()
def start_from(model: InterestModel, factors: LowRank | None, text: CanonicalText | None) -> None:
    """Puts directions into a fresh model, each twice: once with a long and once with a short half-life.

    The canonical directions of the texts come first. Of the factors, the part that the text explains goes into the
    projections, so that new items start near similar ones; the rest goes into the residual. Dimensions that are left
    over add nothing to a score until they are trained.

    Args:
        model: Fresh, with the items' trust.
        factors: None for none.
        text: None for none.
    """
    half = model.config.dimensions // 2
    model.item_residual.zero_()
    model.item_projection.zero_()
    begin = 0
    if text is not None:
        begin = text.event.shape[1]
        scale = float((model.text_vectors @ text.event).square().sum(1).mean().sqrt())
        for first in (0, half):
            dims = slice(first, first + begin)
            model.event_residual[:, dims] = 0
            model.event_projection[:, dims] = text.event / scale
            model.item_projection[:, dims] = text.item * (scale * _TEXT_SCALE)
    if factors is not None:
        directions = min(half - begin, factors.event.shape[1])
        event, item = factors.event[:, :directions], factors.item[:, :directions]
        known = factors.count > 0
        event = event / event[known].square().sum(1).mean().sqrt()
        item = item * (_SCORE_SPREAD / _spread(factors.interest[:, :directions], item[known]))
        for vectors, projection, residual in (
            (event, model.event_projection, model.event_residual),
            (item, model.item_projection, model.item_residual),
        ):
            explained = _by_text(model.text_vectors, vectors, factors.count)
            rest = (vectors - model.text_vectors @ explained) * known[:, None]
            if model.residual_trust is not None:
                rest = rest / model.residual_trust.clamp(min=_LEAST_TRUST)
            for first in (begin, half + begin):
                dims = slice(first, first + directions)
                projection[:, dims], residual[:, dims] = explained, rest
    if model.config.decay == "learned":
        # The first copy of every direction gets the long half-lives, the second the short ones.
        rates = model.log_decay_rate.sort().values
        order = torch.cat([torch.randperm(half), half + torch.randperm(rates.shape[0] - half)])
        model.log_decay_rate.copy_(rates[order])


def _spread(left: Tensor, right: Tensor) -> float:
    """Root mean square of left @ right.T, without the product."""
    square = torch.sum((left.T @ left) * (right.T @ right)) / (left.shape[0] * right.shape[0])
    return float(square.sqrt().clamp(min=1e-12))


def _by_text(text: Tensor, vectors: Tensor, count: Tensor) -> Tensor:
    """The ridge regression of vectors on texts, ``[text width, d]``; items weigh by the root of their count."""
    weight = count.sqrt()[:, None]
    gram = text.T @ (text * weight) + _TEXT_PENALTY * torch.eye(text.shape[1])
    found: Tensor = torch.linalg.solve(gram, text.T @ (vectors * weight))
    return found
