"""The losses of training: how far the scores before some baskets are from the items in them.

Pure functions of tensors. Each takes scores ``[baskets, candidates]``; the candidates are the whole catalog, or the
next items and drawn ones, the same for all baskets. It also takes the targets: ``row`` ``[targets]`` is the basket and
``column`` ``[targets]`` the candidate of each. Every basket has a target. Losses are averaged over the targets of each
basket, then over baskets, so a basket of twenty items counts as much as one of a single film.

All baskets of a step share the drawn negatives: ``drawn`` ``[candidates]`` says how often each candidate was drawn, 0
for candidates that are only next items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def full_softmax(scores: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """-log(exp s_i / sum_j exp s_j), j over the whole catalog.

    Args:
        scores: ``[baskets, items]``.
        row: ``[targets]``.
        column: ``[targets]``.
    """
    loss: Tensor = _FullSoftmax.apply(scores, row, column)  # type: ignore[no-untyped-call]
    return loss


class _FullSoftmax(torch.autograd.Function):
    """`full_softmax` with its gradient, p_j minus the share of the targets, computed in the forward pass.

    It needs one more tensor of scores. Autograd would make five, and over a whole catalog filling them takes most time.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, row: Tensor, column: Tensor) -> Tensor:  # noqa: ANN401 - torch's own
        baskets = scores.shape[0]
        share = 1 / (torch.bincount(row, minlength=baskets).to(scores.dtype)[row] * baskets)
        largest = scores.amax(dim=1, keepdim=True)
        gradient = (scores - largest).exp_()
        total = gradient.sum(dim=1, keepdim=True)
        gradient /= total * baskets
        gradient.index_put_((row, column), -share, accumulate=True)
        ctx.save_for_backward(gradient)
        return (total.log() + largest).mean() - (scores[row, column] * share).sum()

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * of_loss, None, None


@dataclass(frozen=True)
class PriorRows:
    """The popularity prior before each of some baskets, and its weight."""

    columns: Tensor
    """``[timestamps, items, p]``, takes no gradient."""
    timestamp: Tensor
    """``[baskets]``, indices."""
    weight: Tensor
    """``[p]``."""


def catalog_softmax(
    interest: Tensor, factors: Tensor, prior: PriorRows | None, row: Tensor, item: Tensor, slice_scores: int = 1 << 20
) -> Tensor:
    """`full_softmax` of the scores interest . factors + prior, which never exist all at once.

    Loss and gradient of a few baskets at a time are computed in the forward pass. So few scores stay in the processor's
    cache, where every operation on them takes a fraction of the time.

    Args:
        interest: ``[baskets, d]``.
        factors: ``[items, d]``.
        prior: None for a model without prior.
        row: ``[targets]``, ascending.
        item: ``[targets]``.
        slice_scores: Scores that exist at a time.
    """
    if prior is None:
        prior = PriorRows(factors.new_empty(1, factors.shape[0], 0), torch.zeros_like(row), factors.new_empty(0))
    loss: Tensor = _CatalogSoftmax.apply(  # type: ignore[no-untyped-call]
        *(interest, factors, prior.weight, prior.columns, prior.timestamp, row, item, slice_scores)
    )
    return loss


class _CatalogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own, which carries no types
        interest: Tensor,
        factors: Tensor,
        weight: Tensor,
        columns: Tensor,
        timestamp: Tensor,
        row: Tensor,
        item: Tensor,
        slice_scores: int,
    ) -> Tensor:
        baskets = interest.shape[0]
        share = 1 / (torch.bincount(row, minlength=baskets).to(torch.float32)[row] * baskets)
        of_interest, of_factors, of_weight = torch.empty_like(interest), *map(torch.zeros_like, (factors, weight))
        loss = interest.new_zeros((), dtype=torch.float32)
        rows = max(slice_scores // factors.shape[0], 1)
        bounds = torch.searchsorted(row, torch.arange(0, baskets + rows, rows, device=row.device)).cpu().tolist()
        for number, start in enumerate(range(0, baskets, rows)):
            part, targets = slice(start, start + rows), slice(bounds[number], bounds[number + 1])
            scores = (interest[part] @ factors.T).float()
            prior = columns[timestamp[part]].unbind(-1)
            for index, column in enumerate(prior):
                scores.addcmul_(column, weight[index])
            at = row[targets] - start, item[targets]
            own = scores[at]
            largest = scores.amax(dim=1, keepdim=True)
            gradient = scores.sub_(largest).exp_()
            total = gradient.sum(dim=1, keepdim=True)
            loss += (total.log() + largest).sum() / baskets - (own * share[targets]).sum()
            gradient /= total * baskets
            gradient.index_put_(at, -share[targets], accumulate=True)
            of_interest[part] = gradient @ factors
            of_factors.addmm_(gradient.T, interest[part])
            for index, column in enumerate(prior):
                of_weight[index] += torch.dot(gradient.view(-1), column.reshape(-1))
        ctx.save_for_backward(of_interest, of_factors, of_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return *(gradient * of_loss for gradient in ctx.saved_tensors), None, None, None, None, None


def sampled_softmax(scores: Tensor, row: Tensor, column: Tensor, drawn: Tensor, log_expected: Tensor) -> Tensor:
    """-log(exp s_i / (exp s_i + sum_{j != i} c_j exp s_j / E_j)), j over the drawn negatives.

    Importance sampling of the full softmax's sum: c_j is how often j was drawn and E_j = M q_j how often that is to be
    expected, so the sum has the right mean whatever the distribution q (Bengio and Senecal, IEEE TNN 19(4), 2008,
    eq. 10; Yi et al., RecSys 2019, sec. 4, call subtracting log q the correction).

    Args:
        scores: ``[baskets, candidates]``.
        row: ``[targets]``.
        column: ``[targets]``.
        drawn: ``[candidates]``, counts c.
        log_expected: ``[candidates]``, log E.
    """
    own = scores[row, column]
    # The logarithm of a count of 0 is minus infinity: such a candidate adds nothing to the sum.
    others = scores[row] + (drawn.log() - log_expected)
    logits = others.scatter(1, column[:, None], own[:, None])
    return _basket_mean(logits.logsumexp(dim=1) - own, row, scores.shape[0])


def bpr(scores: Tensor, row: Tensor, column: Tensor, drawn: Tensor) -> Tensor:
    """-log sigmoid(s_i - s_j), averaged over the negatives that are no targets (Rendle et al., UAI 2009, sec. 4.1).

    Args:
        scores: ``[baskets, candidates]``.
        row: ``[targets]``.
        column: ``[targets]``.
        drawn: ``[candidates]``, counts.
    """
    weight = _negatives(scores, row, column, drawn)[row]
    gaps = functional.softplus(scores[row] - scores[row, column][:, None])
    values = (gaps * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    return _basket_mean(values, row, scores.shape[0])


def gbce(scores: Tensor, row: Tensor, column: Tensor, drawn: Tensor, items: int, calibration: float) -> Tensor:
    """-(beta log sigmoid(s_i) + sum_j log(1 - sigmoid(s_j))) / (k + 1), j over the drawn negatives that are no targets.

    gBCE (Petrov and Macdonald, RecSys 2023, eq. 10 to 13): with k negatives drawn from the catalog, r = k / (N - 1) is
    the sampling rate and beta = r (t (1 - 1 / r) + 1 / r). With t = 0 it is binary cross-entropy; with t = 1 the
    probabilities come out as with all negatives.

    Args:
        scores: ``[baskets, candidates]``.
        row: ``[targets]``.
        column: ``[targets]``.
        drawn: ``[candidates]``, counts.
        items: N.
        calibration: t, 0 to 1.
    """
    negatives = float(drawn.sum())
    rate = min(negatives / max(items - 1, 1), 1.0)
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    weight = _negatives(scores, row, column, drawn)
    against = (functional.softplus(scores) * weight).sum(dim=1)
    values = (beta * functional.softplus(-scores[row, column]) + against[row]) / (negatives + 1)
    return _basket_mean(values, row, scores.shape[0])


def mse(scores: Tensor, row: Tensor, column: Tensor, rating: Tensor) -> Tensor:
    """(r - s_i)^2, the gap between predicted and true rating (step 4 of the source method).

    Args:
        scores: ``[baskets, candidates]``.
        row: ``[targets]``.
        column: ``[targets]``.
        rating: ``[targets]``, less the mean rating.
    """
    return _basket_mean((scores[row, column] - rating).square(), row, scores.shape[0])


def _negatives(scores: Tensor, row: Tensor, column: Tensor, drawn: Tensor) -> Tensor:
    """How often each candidate is a negative of each basket, ``[baskets, candidates]``: as drawn, 0 for next items."""
    is_target = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    is_target[row, column] = True
    return drawn.to(scores.dtype).expand(scores.shape).masked_fill(is_target, 0.0)


def _basket_mean(values: Tensor, row: Tensor, baskets: int) -> Tensor:
    """Mean over baskets of the mean of ``values`` ``[targets]`` of each basket."""
    share = 1 / torch.bincount(row, minlength=baskets)[row]
    return (values * share).sum() / baskets
