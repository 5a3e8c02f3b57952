"""How strongly each group of directions counts where training begins: a conditional logit on a later period.

McFadden's choice model (Frontiers in Econometrics, 1974): P(item) is proportional to exp(prior + sum_g w_g s_g), with
the scores s_g of the groups. Its log-likelihood is concave in the few weights, so Newton's method finds the best ones,
none of which may be negative, in some steps. What does not help gets 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.baskets import Mask, baskets_of, in_turn
from ebbtide.data.events import EventLog
from ebbtide.train.evaluation.scores import exclude_seen, interests_before
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import Popularity
from ebbtide.train.windows import LogTensors

_BASKETS = 2_000
_LEAST_BASKETS = 50
_SCORES = 1 << 24
"""Of all baskets and items, so that large catalogs are fitted on fewer baskets."""
_SPREAD = 2.0
"""Standard deviation of the normal prior of each weight: a few baskets say little."""
_STEPS = 20
_ENOUGH = 1e-6
"""Gain in nats below which the fit ends."""
_SMALLEST_STEP = 1e-3

Ints = npt.NDArray[np.int64]


@torch.no_grad()
def group_weights(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    targets: Mask,
    groups: Sequence[slice],
    popularity: Popularity | None,
    seed: int,
) -> list[float]:
    """The weights of groups of interest dimensions with which new items are predicted best.

    Args:
        model: Whose groups have the weight 1.
        log: Events.
        tensors: The same events.
        targets: ``[events]``, later than those that the groups were computed from.
        groups: Dimensions of each.
        popularity: The prior over time, before its first basket; None for a model without prior.
        seed: Draws baskets where there are many.

    Returns:
        A weight for each group, 0 for one that does not help.
    """
    baskets = baskets_of(log, targets)
    items = model.text_vectors.shape[0]
    at_most = min(_BASKETS, max(_SCORES // items, _LEAST_BASKETS))
    chosen = np.arange(len(baskets))
    if chosen.shape[0] > at_most:
        chosen = np.sort(in_turn(log.user[baskets.head], seed)[:at_most])
    stop_of = dict(zip(baskets.head[chosen].tolist(), baskets.stop[chosen].tolist(), strict=True))
    before = interests_before(model, log, tensors, baskets.head[chosen])
    if before is None:
        return [0.0] * len(groups)
    order = torch.from_numpy(np.argsort(log.time_ms[before.head], kind="stable"))
    head, interest = before.head[order.numpy()], before.interest[order]
    rows, found = [], []
    for row, first in enumerate(head.tolist()):
        new = np.setdiff1d(
            log.item[first + np.flatnonzero(targets[first : stop_of[first]])],
            log.item[int(tensors.first[first]) : first],
        )
        rows += [row] * new.shape[0]
        found += new.tolist()
    if not found:
        return [0.0] * len(groups)
    factors = model.item_factors()
    prior = factors.new_zeros(head.shape[0], items)
    if popularity is not None:
        for scores, columns in zip(prior, popularity.columns_at(log.time_ms[head]), strict=True):
            scores.copy_(torch.from_numpy(columns) @ model.prior_weight.cpu())
    exclude_seen(prior, tensors, head)
    parts = [interest[:, dims] @ factors[:, dims].T for dims in groups]
    return conditional_logit(parts, prior, torch.tensor(rows), torch.tensor(found)).tolist()


def conditional_logit(parts: Sequence[Tensor], prior: Tensor, row: Tensor, item: Tensor) -> Tensor:
    """The weights w >= 0 that maximise the mean log-likelihood of the choices, ``[parts]`` float64.

    Args:
        parts: ``[baskets, items]`` each.
        prior: ``[baskets, items]``, has the weight 1; minus infinity for what could not be chosen.
        row: ``[choices]``, the basket of each choice; baskets count equally, whatever they hold.
        item: ``[choices]``.
    """
    baskets = torch.bincount(row, minlength=prior.shape[0]).double()
    share = (baskets > 0).double() / (baskets > 0).sum()
    weight = share[row] / baskets[row]
    chosen = torch.stack([(part[row, item].double() * weight).sum() for part in parts])
    penalty = 1 / (_SPREAD**2 * float((baskets > 0).sum()))

    def at(weights: Tensor) -> tuple[float, Tensor, Tensor]:
        """Loss less that of the prior, its gradient and its Hessian."""
        scores = prior.clone()
        for part, factor in zip(parts, weights.tolist(), strict=True):
            scores.add_(part, alpha=factor)
        log_sum = scores.logsumexp(1, keepdim=True)
        probability = scores.sub_(log_sum).exp_()
        weighed = [probability * part for part in parts]
        mean = torch.stack([one.sum(1).double() for one in weighed])
        square = torch.stack([torch.stack([(one * part).sum(1).double() for part in parts]) for one in weighed])
        loss = (log_sum[:, 0].double() * share).sum() - weights @ chosen + 0.5 * penalty * weights @ weights
        hessian = ((square - mean[:, None] * mean[None]) * share).sum(2)
        gradient = (mean * share).sum(1) - chosen + penalty * weights
        return float(loss), gradient, hessian + penalty * torch.eye(len(parts), dtype=torch.float64)

    weights = torch.zeros(len(parts), dtype=torch.float64)
    loss, gradient, hessian = at(weights)
    for _ in range(_STEPS):
        free = ((weights > 0) | (gradient < 0)).nonzero()[:, 0]
        if not free.shape[0]:
            break
        step = torch.zeros_like(weights)
        step[free] = torch.linalg.solve(hessian[free][:, free], -gradient[free])
        size, gain = 1.0, 0.0
        while size > _SMALLEST_STEP and gain <= 0:
            trial = (weights + size * step).clamp(min=0)
            found = at(trial)
            gain = loss - found[0]
            size /= 2
        if gain <= 0:
            break
        weights, (loss, gradient, hessian) = trial, found
        if gain < _ENOUGH:
            break
    return weights
