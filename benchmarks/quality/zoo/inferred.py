"""What remains of the oracle if it has to infer the users from their events.

This reader knows the rules of a world and every item (appeal over time, attributes, hidden factors), and the
distribution of the users, but no user. Before each basket it holds a normal distribution over the user's tastes and
trait, and the probability that each product is a habit. Each basket updates them: the tastes by one step of an extended
Kalman filter with the Fisher information of the softmax, the habits by Bayes' rule for Poisson counts. Real tastes are
not normally distributed, so this is close to the best possible inference, and no bound.
"""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.choice import (
    LIST_LENGTH,
    Design,
    Floats,
    Ints,
    Mask,
    Turn,
    World,
    best,
    memory_of,
    ranked,
    turns,
)

_ITEMS = 200
"""An update looks at this many of the most probable items, the chosen ones included."""


def inferred_lists(made: World) -> tuple[Ints, Floats]:
    """The reader's lists before every basket: items and probabilities, both ``[baskets, LIST_LENGTH]``."""
    design, schedule = made.design, made.design.schedule
    reader = _Reader(design)
    item = np.zeros((schedule.user.shape[0], LIST_LENGTH), dtype=np.int64)
    probability = np.zeros((schedule.user.shape[0], LIST_LENGTH))
    start = np.searchsorted(made.basket, np.arange(schedule.user.shape[0] + 1))
    memory = memory_of(design)
    for turn in turns(schedule, design.trait.shape[0], len(design.texts)):
        past = memory.past(turn.user, turn.now)
        known = design.appeal(turn.now)
        with_trait = known.copy()
        zero, one = np.zeros(turn.user.shape[0]), np.ones(turn.user.shape[0])
        design.repeat(known, past, zero)
        design.repeat(with_trait, past, one)
        possible = np.isfinite(known)
        feature = np.subtract(with_trait, known, out=np.zeros_like(known), where=possible)
        reader.move_on(turn)
        item[turn.case], probability[turn.case] = ranked(reader.utility(turn.user, known, feature))
        number = start[turn.case + 1] - start[turn.case]
        slot = np.arange(int(number.max(initial=1)))
        kept = slot < number[:, None]
        chosen = made.item[np.minimum(start[turn.case][:, None] + slot, made.item.shape[0] - 1)]
        reader.learn(turn.user, known, feature, chosen, kept)
        memory.add(turn.user, turn.now, chosen, kept)
    return item, probability


class _Reader:
    """Beliefs about every user. The last of the D + 1 dimensions is the trait."""

    def __init__(self, design: Design) -> None:
        users = design.trait.shape[0]
        tastes = design.tastes
        self._attributes, self._tastes = design.attributes, tastes
        size = design.attributes.shape[1]
        prior = np.zeros((size + 1, size + 1))
        prior[:size, :size] = np.cov(tastes.fixed.T) + np.diag(tastes.spread**2 + 1e-6)
        prior[size, size] = 1.0
        self._mean = np.zeros((users, size + 1))
        self._mean[:, :size] = tastes.fixed.mean(axis=0)
        self._covariance = np.tile(prior, (users, 1, 1))
        self._prior_variance = np.diagonal(prior)
        self._last_days = np.full(users, np.nan)
        self._log_odds: Floats | None = None
        if design.habit is not None:
            habitual = design.habit > 0
            self._strength = float(np.log(np.exp(design.habit[habitual]).mean()))
            weight = np.exp(design.appeal(np.zeros(1))[0] + self._mean[0, :size] @ design.attributes.T)
            share = np.minimum(habitual.sum(axis=1).mean() * weight / weight.sum(), 0.5)
            self._log_odds = np.tile(np.log(share / (1 - share)), (users, 1))

    def move_on(self, turn: Turn) -> None:
        """Forgets a part of the drifting tastes."""
        last = self._last_days[turn.user]
        elapsed = np.where(np.isnan(last), 0.0, turn.now - last)
        self._last_days[turn.user] = turn.now
        size = self._tastes.spread.shape[0]
        lost = 1 - np.exp(-2 * elapsed / self._tastes.memory_days)
        index = np.arange(size)
        variance = self._covariance[turn.user][:, index, index] + lost[:, None] * self._tastes.spread**2
        self._covariance[turn.user[:, None], index, index] = np.minimum(variance, self._prior_variance[:size])

    def _rows(self, seen: Ints, feature: Floats) -> Floats:
        """Attributes and trait's feature of the items seen, ``[baskets, seen items, attributes + 1]``."""
        return np.concatenate([self._attributes[seen], np.take_along_axis(feature, seen, axis=1)[:, :, None]], axis=2)

    def utility(self, user: Ints, known: Floats, feature: Floats) -> Floats:
        """Utilities ``[baskets, items]`` at the mean of the beliefs.

        Args:
            user: ``[baskets]``.
            known: ``[baskets, items]``, the utility that does not depend on who the user is.
            feature: ``[baskets, items]``, what one unit of the trait adds.
        """
        size = self._attributes.shape[1]
        utility = known + self._mean[user, :size] @ self._attributes.T + feature * self._mean[user, size][:, None]
        if self._log_odds is not None:
            odds = np.exp(np.clip(self._log_odds[user], -30, 30))
            utility += np.log((1 + odds * np.exp(self._strength)) / (1 + odds))
        return np.asarray(utility)

    def learn(
        self,
        user: Ints,
        known: Floats,
        feature: Floats,
        chosen: Ints,
        kept: Mask,
    ) -> None:
        """Updates the beliefs by the items ``[baskets, kept items]`` that users ``[baskets]`` have chosen."""
        utility = self.utility(user, known, feature)
        counts = np.zeros(utility.shape)
        np.add.at(counts, (np.nonzero(kept)[0], chosen[kept]), 1.0)
        number = counts.sum(axis=1, keepdims=True)
        if self._log_odds is not None:
            self._learn_habits(user, utility, counts, number)
        seen = best(np.where(counts > 0, 1e9, utility), _ITEMS)
        taken = np.take_along_axis(utility, seen, axis=1)
        probability = np.exp(taken - taken.max(axis=1, keepdims=True))
        probability /= probability.sum(axis=1, keepdims=True)
        rows = self._rows(seen, feature)
        expected = np.einsum("bm,bmd->bd", probability, rows)
        rows -= expected[:, None, :]
        weighted = rows * (probability * number)[:, :, None]
        gradient = np.einsum("bm,bmd->bd", np.take_along_axis(counts, seen, axis=1), rows)
        information = rows.transpose(0, 2, 1) @ weighted
        covariance = self._covariance[user]
        updated = np.linalg.solve(np.eye(information.shape[1]) + covariance @ information, covariance)
        self._covariance[user] = 0.5 * (updated + updated.transpose(0, 2, 1))
        self._mean[user] += np.einsum("bde,be->bd", self._covariance[user], gradient)

    def _learn_habits(self, user: Ints, utility: Floats, counts: Floats, number: Floats) -> None:
        assert self._log_odds is not None
        odds = np.exp(np.clip(self._log_odds[user], -30, 30))
        habit = np.log((1 + odds * np.exp(self._strength)) / (1 + odds))
        exponential = np.exp(utility - utility.max(axis=1, keepdims=True))
        rate = number * exponential / exponential.sum(axis=1, keepdims=True) / np.exp(habit)
        self._log_odds[user] += counts * self._strength - rate * (np.exp(self._strength) - 1)
