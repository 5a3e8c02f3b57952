"""Learning online as served: what a user took of the items that were shown moves the alpha offset in the user's record.

See `ebbtide.interest.online` for the step. Shown items that were not taken are those that the step moves away from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.adjustments import find_pairs
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.online import OnlineLearning, feedback_direction
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.record import NewEvents

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Feedback:
    """Computes the offsets of users after feedback; of one export whose alpha is learned.

    Items that were added after the export tell nothing.
    """

    def __init__(self, pipeline: InterestPipeline, factors: Floats, learning: OnlineLearning) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Of the export.
            factors: ``[items, d + p]``, in catalog order; may be memory-mapped.
            learning: How fast offsets move.
        """
        self._pipeline = pipeline
        self._factors = np.asarray(factors)
        self._learning = learning

    def offsets(
        self, records: Sequence[bytes | None], events: NewEvents, added: Bools, shown: Sequence[Ints]
    ) -> dict[int, float]:
        """The new offset of each user whose offset moves, by the user's index.

        The items of added events are those that were taken. The interest is that before the events, as of the first of
        those that were added. A call that is sent again adds no event, and so moves nothing.

        Args:
            records: ``[users]``, before the events.
            events: Of these users.
            added: ``[events]``: the events of target types that were not known before.
            shown: ``[users]``: keys of the items that each user was shown, in any order; none for no feedback.
        """
        user = np.arange(events.counts.size).repeat(events.counts)
        now_ms = np.full(events.counts.size, np.iinfo(np.int64).max)
        np.minimum.at(now_ms, user[added], events.time_ms[added])
        learning = [one for one in np.unique(user[added]).tolist() if shown[one].size and records[one] is not None]
        if not learning:
            return {}
        request = {contract.NOW.name: now_ms[learning][:, None]}
        weighed = self._pipeline.weigh([request], [[records[one] for one in learning]])
        found = weighed.from_records
        assert found is not None  # noqa: S101 - records were given
        adjust_item, adjust_score = self._pipeline.adjustments(weighed)
        related = self._pipeline.related_scores(weighed)
        blend, d = weighed.blend, self._pipeline.parameters.vector_width
        prior_weight = self._pipeline.parameters.prior_weight
        direction = np.zeros((len(learning), d), dtype=np.float32)
        for row, one in enumerate(learning):
            item = np.unique(self._pipeline.index.find(shown[one]))
            item = item[item != UNKNOWN]
            factors = self._factors.take(item, axis=0)
            scores = factors[:, :d] @ blend.interest[row] + factors[:, d:] @ prior_weight
            if related is not None:
                scores += related.of_user(row, item)
            of_row = slice(row, row + 1)
            replaced = find_pairs(
                adjust_item[of_row], adjust_score[of_row], np.zeros_like(item), item, self._factors.shape[0]
            )
            scores = np.where(replaced != 0, replaced, scores)
            taken = np.isin(item, self._pipeline.index.find(events.item_key[added & (user == one)]))
            share = np.where(replaced != 0, np.float32(self._pipeline.interest_share), np.float32(1))
            direction[row] = feedback_direction(factors[:, :d], scores, taken, share)
        before = found.states.alpha_offset
        after = self._learning.step(before, blend.alpha, blend.long_term - blend.current, direction)
        return {one: float(after[row]) for row, one in enumerate(learning) if after[row] != before[row]}
