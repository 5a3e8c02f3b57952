"""Directions in which the texts of a user's history predict the text of the next item, beyond what is popular.

The canonical correlations (Hotelling, Biometrika 1936) of two vectors per event: the decayed, normalised sum of the
texts before it, and the text of its item less the text to be expected from popularity at that time. In closed form and
with a ridge, so that a few thousand events are enough, where gradient descent from random projections would learn
them by heart. For jointly normal vectors the scores are log odds against popularity, which is what a score beside the
prior should be.

Each feature block of items gets directions of its own, found in the same way; "text" stands here for any of them. So
the weights of a block's directions can be fitted apart, and a block that predicts nothing gets none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.baskets import basket_heads, has_past, is_repeat
from ebbtide.data.events import EventLog
from ebbtide.train.popularity import PopularitySnapshots

_AT_MOST = 40_000
"""Events to predict."""
_CONTEXT_EVENTS = 64
_HALF_LIFE_EVENTS = 20.0
_SNAPSHOTS = 256
_RIDGE = 0.1
"""Of the mean variance of a text's coordinates."""
_BASKETS_AT_A_TIME = 2_000


@dataclass(frozen=True)
class CanonicalText:
    """Projections of texts to the k strongest directions; texts of the same direction have a positive product."""

    event: Tensor
    """``[text width, k]``."""
    item: Tensor
    """``[text width, k]``."""


def canonical_text(
    log: EventLog,
    training: npt.NDArray[np.bool_],
    text: Tensor,
    popularity: PopularitySnapshots | None,
    directions: int,
    seed: int,
) -> CanonicalText | None:
    """Finds the directions; None where the log is too small for them.

    Args:
        log: Events.
        training: ``[events]``, the events that may be predicted.
        text: ``[items, text width]``.
        popularity: The prior over time; None expects the mean text.
        directions: k.
        seed: Draws the events where there are many.
    """
    index = np.flatnonzero(training & has_past(log) & ~is_repeat(log))
    if not directions or index.size < 2 * directions or not bool(text.any()):
        return None
    if index.size > _AT_MOST:
        index = np.sort(np.random.default_rng(seed).choice(index, _AT_MOST, replace=False))
    text = text.double()
    mean = torch.nn.functional.normalize(text[torch.from_numpy(log.item[index])].mean(0), dim=0)
    text = text - (text @ mean)[:, None] * mean
    history = _histories(log, index, text)
    history = history - history.mean(0)
    following = text[torch.from_numpy(log.item[index])]
    following = following - _expected(log.time_ms[index], following, text, popularity)
    whiten_history, whiten_item = _whitening(history), _whitening(following)
    covariance = history.T @ following / index.size
    left, strength, right = torch.linalg.svd(whiten_history @ covariance @ whiten_item)
    root = strength[:directions].sqrt()
    event, item = whiten_history @ left[:, :directions] * root, whiten_item @ right[:directions].T * root
    return CanonicalText(event.float(), item.float())


def _histories(log: EventLog, index: npt.NDArray[np.int64], text: Tensor) -> Tensor:
    """The decayed texts before the baskets of some events, over the root of the sum of squared weights."""
    heads = basket_heads(log)[index]
    first = log.start[log.user[index]]
    parts = []
    for start in range(0, index.shape[0], _BASKETS_AT_A_TIME):
        part = slice(start, start + _BASKETS_AT_A_TIME)
        count = np.minimum(heads[part] - first[part], _CONTEXT_EVENTS)
        row = np.repeat(np.arange(count.shape[0]), count)
        rank = np.arange(row.shape[0]) - np.repeat(np.cumsum(count) - count, count)
        weight = 0.5 ** (rank / _HALF_LIFE_EVENTS)
        item = log.item[heads[part][row] - 1 - rank]
        norm = np.sqrt(np.bincount(row, weights=weight**2, minlength=count.shape[0]))
        matrix = torch.sparse_coo_tensor(
            torch.from_numpy(np.stack([row, item])),
            torch.from_numpy(weight / norm[row]),
            (count.shape[0], text.shape[0]),
            check_invariants=True,
        )
        parts.append(torch.sparse.mm(matrix, text))
    return torch.cat(parts)


def _expected(
    time_ms: npt.NDArray[np.int64], following: Tensor, text: Tensor, popularity: PopularitySnapshots | None
) -> Tensor:
    """The mean text of what was popular at each time, ``[events, text width]``."""
    if popularity is None:
        return following.mean(0)
    step = -(-popularity.timestamp_ms.shape[0] // _SNAPSHOTS)
    share = torch.from_numpy(popularity.columns[::step, :, 0]).softmax(1)
    mean = share @ text.float()
    return mean.double()[torch.from_numpy(popularity.index_at(time_ms) // step)]


def _whitening(rows: Tensor) -> Tensor:
    """The inverse root of the covariance with its ridge, ``[text width, text width]``."""
    values, vectors = torch.linalg.eigh(rows.T @ rows / rows.shape[0])
    values = values.clamp(min=0)
    root: Tensor = vectors * torch.rsqrt(values + _RIDGE * values.mean() + 1e-12) @ vectors.T
    return root
