"""What a user's state says: the `interest_reader` model without Triton's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.batch import serve_requests
from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.decay import event_decays, half_lives
from ebbtide.interest.errors import RequestError
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.pipeline import InterestPipeline, Records
from ebbtide.interest.state_events import StateEvents


class InterestReader:
    """Tells the interest of users, how lasting it is, and their newest events."""

    def __init__(self, pipeline: InterestPipeline, ids: ItemIds | None) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Of the export.
            ids: Of the catalog; None leaves the ids of events empty.
        """
        self.pipeline = pipeline
        self._ids = ids

    def run_requests(
        self, requests: Sequence[RequestTensors], records: Sequence[Records] | None = None
    ) -> list[dict[str, npt.NDArray[Any]] | RequestError]:
        """What the states of users say; each request is of one user and has an answer of its own size.

        Args:
            requests: Of users, without events.
            records: For each request the record of its user; None where no request names a user.
        """
        of_requests = [[None]] * len(requests) if records is None else records
        return [
            serve_requests([request], lambda sound, record=record: [self._answer(sound[0], record)])[0]  # type: ignore[misc]
            for request, record in zip(requests, of_requests, strict=True)
        ]

    def _answer(self, request: RequestTensors, record: Records) -> dict[str, npt.NDArray[Any]]:
        weighed = self.pipeline.weigh([request], [record])
        parameters, scale = self.pipeline.parameters, weighed.columns.decay_scale
        decays = event_decays(weighed.batch, parameters.decay_rate_per_day, parameters.rank_decay_rate, scale)
        events = StateEvents.of(weighed, decays, self._ids)
        found = weighed.from_records
        assert found is not None  # noqa: S101 - a record was given, if only None
        counts = (found.base.counts.sum(), events.time_ms.size, found.states.late[0], found.states.dropped[0])
        return {
            contract.ALPHA_USED.name: weighed.alpha_used,
            contract.EVENT_COUNTS.name: weighed.event_counts,
            contract.STATE_STATUS.name: weighed.state_status,
            contract.STATE_COUNTS.name: np.array([counts], dtype=np.int32),
            contract.ALPHA_OFFSET.name: found.states.alpha_offset[None],
            contract.HALF_LIFE_DAYS.name: half_lives(parameters.decay_rate_per_day, scale),
            contract.INTEREST_ENERGY.name: np.square(weighed.blend.interest[0]),
            contract.STATE_EVENT_ITEM.name: events.item_id,
            contract.STATE_EVENT_TIME.name: events.time_ms,
            contract.STATE_EVENT_WEIGHT.name: events.weight,
            contract.STATE_EVENT_DECAY.name: events.decay,
        }
