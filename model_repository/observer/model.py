"""Triton model that adds events to the states of users: serves `observer`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_observer
from ebbtide.interest.meters import OBSERVED, STORE_TIME
from ebbtide.interest.observer import Observer, half_precision
from ebbtide.interest.served import Scored, ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export into memory, and opens the store.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export, or a setting of
                the store or of the states is not usable.
        """
        self._served = ServedModel(args)
        (pipeline, feedback), in_half = self._served.load(
            lambda folder: (read_observer(folder), half_precision(os.environ))
        )
        self._users = self._served.users()
        self._following = self._served.follow(pipeline, self._users, scores=Scored.NONE)
        popularity, self._counting = self._served.count_popularity(self._users)
        self._observer = Observer(
            pipeline, self._users, half_precision=in_half, feedback=feedback, popularity=popularity
        )
        self._users.meters, self._measuring = self._served.measure(OBSERVED, STORE_TIME)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Adds the events of all requests with one update of the store, and answers when the store has them."""
        return self._served.answer_all(requests, lambda tensors, _wanted: self._observer.run_requests(tensors))

    def finalize(self) -> None:
        """Writes the counts that are not in the store yet, and closes it."""
        self._following.close()
        if self._measuring is not None:
            self._measuring.close()
        if self._counting is not None:
            self._counting.close()
        self._users.close()
