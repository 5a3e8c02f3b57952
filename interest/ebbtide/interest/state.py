"""A user's interest as a state of constant size: new events advance it, and it can be read at any later time.

Because the decays are exponentials, events that left a user's list of recent events need not be kept: their decayed
sums are enough. For history and session, and for each interest dimension k, the state holds, as of the time t of the
newest folded event,

    S_k = sum_e v_e exp(-lambda_k (t - t_e)) exp(-mu_k rank_e) x_ek
    Q_k = sum_e (v_e exp(-lambda_k (t - t_e)) exp(-mu_k rank_e) x_ek)^2

and the number of events. A batch of events after t continues these sums, see `ebbtide.interest.blend.blend_interest`.
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
    """``[users]``: Unix milliseconds of each user's newest folded event; 0 for a user without events."""
    moments: Doubles
    """S, then Q, ``[users, 2, 2, d]``."""
    counts: Ints
    """``[users, 2]``: folded events."""

    @classmethod
    def empty(cls, users: int, dimensions: int) -> InterestState:
        """The state of users without events."""
        shape = (users, 2, 2, dimensions)
        return cls(np.zeros(users, dtype=np.int64), np.zeros(shape), np.zeros((users, 2), dtype=np.int64))

    @property
    def sums(self) -> Doubles:
        """S, ``[users, 2, d]``."""
        return self.moments[:, :, 0]

    @property
    def squares(self) -> Doubles:
        """Q, ``[users, 2, d]``."""
        return self.moments[:, :, 1]


@dataclass(frozen=True)
class FoldedSums:
    """The sums of a state as of each request's `now`: the start of the sums over the batch of later events."""

    moments: Doubles
    """S, then Q, ``[B, 2, 2, d]``; the second axis is history, then session."""
    counts: Ints
    """``[B, 2]``."""
    age_ms: Ints
    """``[B]``: from the newest folded event to `now`."""

    @property
    def sums(self) -> Doubles:
        """S, ``[B, 2, d]``."""
        return self.moments[:, :, 0]

    @property
    def squares(self) -> Doubles:
        """Q, ``[B, 2, d]``."""
        return self.moments[:, :, 1]

    def idle_hours(self, batch: EventBatch) -> Floats:
        """Hours from each request's newest event, folded or in the batch, to `now`, ``[B]``; 0 where there is none."""
        newest = (self.age_ms / MS_PER_HOUR).astype(np.float32)
        in_batch = batch.half_counts[0::2] + batch.half_counts[1::2] > 0
        if np.count_nonzero(in_batch) == in_batch.size:
            # Without folded events their time is 0, so that the age of the newest is the longest of all.
            return np.minimum(newest, batch.idle_hours)
        np.minimum(newest, batch.idle_hours, out=newest, where=in_batch)
        return np.where(self.counts[:, 0] + self.counts[:, 1] > 0, newest, batch.idle_hours)


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
    request, event_age_ms, later = batch.request, batch.age_ms, batch.half_counts
    is_later = event_age_ms <= age_ms[request]
    if np.count_nonzero(is_later) != is_later.size:
        request, event_age_ms = request[is_later], event_age_ms[is_later]
        later = np.bincount(batch.half[is_later], minlength=2 * batch.requests)
    later_history, later_session = later[0::2], later[1::2]

    by_age, by_rank = parameters.moment_exponents
    decay = np.multiply.outer(scaled_days(age_ms, decay_scale), by_age)
    decay += np.multiply.outer(later_history + later_session, by_rank)
    np.exp(decay, out=decay)
    moments, counts = state.moments * decay.reshape(-1, 1, 2, parameters.vector_width), state.counts
    # Usually no session is among the folded events.
    if np.count_nonzero(counts[:, 1]):
        next_age_ms = np.zeros(age_ms.shape, dtype=np.int64)
        # Events stand oldest first, so the last one that is written for a request is its oldest later one.
        next_age_ms[request[::-1]] = event_age_ms[::-1]
        is_closed = (age_ms - next_age_ms > parameters.config.session_gap_ms) | (later_history > 0)
        is_closed &= counts[:, 1] > 0
        counts = counts.copy()
        # A product takes half the time of picking rows by a mask.
        for values, closes in ((moments, is_closed[:, None, None]), (counts, is_closed)):
            moved = values[:, 1] * closes
            values[:, 0] += moved
            values[:, 1] -= moved
    return FoldedSums(moments, counts, age_ms)


def scaled_days(age_ms: Ints, decay_scale: Floats | None) -> Doubles:
    """The days that a decay by age sees, ``[B]``.

    Args:
        age_ms: ``[B]``.
        decay_scale: ``[B]``, factor on every age; None for 1.
    """
    days = age_ms / MS_PER_DAY
    return days if decay_scale is None else days * decay_scale


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
    moments = folded.moments
    for kind, values in enumerate((weighted, weighted**2)):
        moments[:, :, kind] += half_sums(values, batch).reshape(moments[:, :, kind].shape)
    return InterestState(newest_ms, moments, folded.counts + batch.half_counts.reshape(-1, 2))
