"""Replays a log through learning online: each user's alpha offset is adapted after each basket of the user."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ebbtide.data.baskets import Baskets, Ints
from ebbtide.data.errors import DataError
from ebbtide.interest.online import Floats, OnlineLearning, feedback_direction, shifted_alpha
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.scores import Scored
from ebbtide.train.model import InterestModel


def require_gate(model: InterestModel) -> None:
    """Refuses a model without a learned alpha.

    Raises:
        DataError: The model's alpha is fixed.
    """
    if model.config.fixed_alpha is not None:
        raise DataError(
            f"alpha: got a bundle with alpha fixed at {model.config.fixed_alpha}; expected one with a learned alpha, "
            "whose offsets learning online can move"
        )


class OnlineReplay:
    """The alpha offsets of all users while a log is replayed in time order."""

    def __init__(
        self, model: InterestModel, baskets: Baskets, relevance: Relevance, owner: Ints, learning: OnlineLearning
    ) -> None:
        """Starts with an offset of 0 for every user.

        Args:
            model: Has a gate.
            baskets: The baskets that are replayed, all of them.
            relevance: The items of each: the feedback.
            owner: ``[baskets]``, the user of each.
            learning: Of the offsets.

        Raises:
            DataError: The model's alpha is fixed.
        """
        require_gate(model)
        self._factors = model.item_factors().detach().numpy()
        self._share = 0.0 if model.repeat is None else float(model.repeat.interest_share)
        self._head, self._relevance, self._owner = baskets.head, relevance, owner
        self._learning = learning
        self.offset: Floats = np.zeros(int(owner.max(initial=-1)) + 1, dtype=np.float32)
        """``[users]``, as of the newest basket."""

    def learn(self, scored: Scored, scores: Tensor) -> Tensor:
        """Goes through baskets in their order: applies the user's offset, then moves it by the basket's items.

        Args:
            scored: Baskets by ascending time, with the difference of the two halves.
            scores: ``[baskets, items]``, of the alphas without offsets; changed in place to those with them. Excluded
                items have minus infinity.

        Returns:
            The alphas that were used, as in `Scored.alpha`.

        Raises:
            ValueError: The difference is missing.
        """
        if scored.difference is None:
            raise ValueError("scored: got no difference of the two halves; expected it, from `with_difference`")
        difference, alpha = scored.difference.numpy(), scored.alpha.numpy()
        used = alpha.copy()
        cases = np.searchsorted(self._head, scored.head)
        bounds = self._bounds_of_seen(scored)
        # Without a history or without a session, alpha is 1 or 0 and cannot move.
        for row in np.flatnonzero((alpha * (1 - alpha) * difference).any(axis=1)).tolist():
            case, one = int(cases[row]), slice(row, row + 1)
            user = self._owner[case : case + 1]
            used[one] = shifted_alpha(alpha[one], self.offset[user])
            share = np.ones(scores.shape[1], dtype=np.float32)
            if scored.seen is not None:
                share[scored.seen.item[bounds[row] : bounds[row + 1]].numpy()] = self._share
            if self.offset[user].any():
                moved = self._factors @ ((used[one] - alpha[one]) * difference[one])[0]
                moved *= share
                scores[row] += torch.from_numpy(moved)
            taken = np.zeros(scores.shape[1], dtype=np.bool_)
            taken[self._relevance.item[self._relevance.start[case] : self._relevance.start[case + 1]]] = True
            direction = feedback_direction(self._factors, scores[row].numpy(), taken, share)
            self.offset[user] = self._learning.step(self.offset[user], used[one], difference[one], direction[None])
        return torch.from_numpy(used)

    @staticmethod
    def _bounds_of_seen(scored: Scored) -> Ints:
        """Where the pairs of each basket begin among the seen items, ``[baskets + 1]``."""
        if scored.seen is None:
            return np.zeros(scored.head.size + 1, dtype=np.int64)
        return np.searchsorted(scored.seen.basket.numpy(), np.arange(scored.head.size + 1))
