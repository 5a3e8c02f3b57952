"""A user's interest as a state of constant size: new events advance it, and it can be read at any later time.

Because the decays are exponentials, events that left a user's list of recent events need not be kept: their decayed
sums are enough. For history and session, and for each interest dimension k, the state holds, as of a time t,

    S_k = sum_e v_e exp(-lambda_k (t - t_e)) exp(-mu_k rank_e) x_ek
    Q_k = sum_e (v_e exp(-lambda_k (t - t_e)) exp(-mu_k rank_e) x_ek)^2

and the number of events. A batch of later events continues these sums, see `ebbtide.interest.blend.blend_interest`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.decay import half_sums, weighted_vectors
from ebbtide.interest.events import MS_PER_DAY, MS_PER_HOUR, EventBatch, order_events
from ebbtide.interest.parameters import InterestParameters

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class InterestState:
    """The folded events of some users, in d dimensions. The second axis of the arrays is history, then session.

    The sums are float64. In float32 a pause of seconds would multiply a sum whose half-life is years by exactly 1, so
    that thousands of updates would lose their decay.
    """

    time_ms: Ints
    """``[users]``: Unix milliseconds of each user's newest folded event; of no meaning for a user without events."""
    as_of_ms: Ints
    """``[users]``: t, which may be before the newest folded event; the weights of events after it are above 1."""
    sums: Doubles
    """S, ``[users, 2, d]``."""
    squares: Doubles
    """Q, ``[users, 2, d]``."""
    counts: Ints
    """``[users, 2]``: folded events."""

    @classmethod
    def empty(cls, users: int, dimensions: int) -> InterestState:
        """The state of users without events."""
        shape = (users, 2, dimensions)
        zeros = np.zeros(users, dtype=np.int64)
        return cls(zeros, zeros, np.zeros(shape), np.zeros(shape), np.zeros((users, 2), dtype=np.int64))

    def days_since(self, age_ms: Ints, decay_scale: Floats | None = None) -> Doubles:
        """Days by which sums as of `as_of_ms` have to decay, ``[users]``.

        Args:
            age_ms: ``[users]``, from the newest folded event to the wanted time.
            decay_scale: ``[users]``, factor on these ages; None for 1.
        """
        scaled = age_ms if decay_scale is None else age_ms * decay_scale.astype(np.float64)
        days: Doubles = (self.time_ms - self.as_of_ms + scaled) / MS_PER_DAY
        return days


@dataclass(frozen=True)
class FoldedSums:
    """The sums of a state as of each request's `now`: the start of the sums over the batch of later events."""

    sums: Doubles
    """S, ``[B, 2, d]``."""
    squares: Doubles
    """Q, ``[B, 2, d]``."""
    counts: Ints
    """``[B, 2]``."""
    age_ms: Ints
    """``[B]``: from the newest folded event to `now`."""

    def idle_hours(self, batch: EventBatch) -> Floats:
        """Hours from each request's newest event, folded or in the batch, to `now`, ``[B]``; 0 where there is none."""
        folded = (self.age_ms / MS_PER_HOUR).astype(np.float32)
        in_batch = batch.half_counts.reshape(-1, 2).any(axis=1)
        newest = np.where(in_batch, np.minimum(folded, batch.idle_hours), folded)
        return np.where(self.counts.any(axis=1), newest, batch.idle_hours)


def read(
    state: InterestState,
    parameters: InterestParameters,
    now_ms: Ints,
    batch: EventBatch,
    decay_scale: Floats | None = None,
) -> FoldedSums:
    """The folded sums as of `now`; the state itself stays as it is.

    The folded session joins the folded history if a pause longer than the session gap follows it, or if an event after
    it belongs to history.

    Args:
        state: Of B users, one for each request of the batch.
        parameters: Decay rates and session gap.
        now_ms: ``[B]``, each request's clock; before the newest folded event it counts as the time of that event.
        batch: E events of B requests that are not in the state, with ages as of `now_ms`. Those older than the newest
            folded event add no rank to the folded ones.
        decay_scale: ``[B]``, factor on every decay rate by age, from the newest folded event on: the decay before it is
            part of the sums. None for 1.
    """
    age_ms = np.maximum(now_ms - state.time_ms, 0)
    request, half, event_age_ms = batch.request, batch.half, batch.age_ms
    is_later = event_age_ms <= age_ms[request]
    if np.count_nonzero(is_later) != is_later.size:
        request, half, event_age_ms = request[is_later], half[is_later], event_age_ms[is_later]
    later = np.bincount(half, minlength=2 * batch.requests).reshape(-1, 2)
    next_age_ms = np.zeros_like(age_ms)
    # Events stand oldest first, so the last one that is written for a request is its oldest later one.
    next_age_ms[request[::-1]] = event_age_ms[::-1]
    is_closed = (age_ms - next_age_ms > parameters.config.session_gap_ms) | (later[:, 0] > 0)

    since = np.stack([state.days_since(age_ms, decay_scale), later.sum(axis=1)], axis=1)
    decay = np.exp(since @ parameters.decay_exponents)[:, None]
    sums, squares, counts = state.sums * decay, state.squares * decay**2, state.counts
    if np.count_nonzero(is_closed):
        counts = counts.copy()
        for values in (sums, squares, counts):
            values[is_closed, 0] += values[is_closed, 1]
            values[is_closed, 1] = 0
    return FoldedSums(sums, squares, counts, age_ms)


def advance(
    state: InterestState,
    parameters: InterestParameters,
    counts: Ints,
    time_ms: Ints,
    vectors: Floats,
    weight: Floats | None = None,
) -> InterestState:
    """The state after more events. Its cost does not depend on the events folded before.

    One call for all events of all users gives the same state as one call for each event. An event older than the newest
    folded one (a late event) counts by its age and by its rank among the new events.

    Args:
        state: The users' folded events.
        parameters: Decay rates and session gap.
        counts: ``[users]``, new events of each user.
        time_ms: ``[E]``, Unix milliseconds of the users' new events one after the other.
        vectors: ``[E, d]``, event vectors in the same order.
        weight: ``[E]``, v; None where every weight is 1.
    """
    newest_ms = state.time_ms.copy()
    np.maximum.at(newest_ms, np.repeat(np.arange(counts.shape[0]), counts), time_ms)
    batch = order_events(counts, time_ms, newest_ms, weight, None, parameters.config.session_gap_ms)
    folded = read(state, parameters, newest_ms, batch)
    weighted = weighted_vectors(batch, vectors[batch.source], parameters.decay_exponents)
    shape = state.sums.shape
    return InterestState(
        newest_ms,
        newest_ms,
        folded.sums + half_sums(weighted, batch).reshape(shape),
        folded.squares + half_sums(weighted**2, batch).reshape(shape),
        folded.counts + batch.half_counts.reshape(shape[:2]),
    )
