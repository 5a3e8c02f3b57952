"""Triton model of explanations: serves `explainer`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.exported import read_explainer
from ebbtide.interest.meters import OF_STATES
from ebbtide.interest.served import Answer, Scored, ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export into memory, and opens the store of the users' states if there is one.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export, or the address of
                the store is not usable.
        """
        self._served = ServedModel(args)
        self._explainer = self._served.load(read_explainer)
        self._users = self._served.users()
        self._following = self._served.follow(self._explainer.pipeline, self._users, scores=Scored.ALL)
        self._users.meters, self._measuring = self._served.measure(*OF_STATES)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request in a separate run, because the numbers of events and candidates differ.

        Cancellation is polled: one request can take milliseconds, and many may have waited in the queue.
        """
        return [
            self._served.cancelled()
            if request.is_cancelled()
            else self._served.answer_all([request], lambda tensors, _wanted: self._explain(tensors))[0]
            for request in requests
        ]

    def finalize(self) -> None:
        """Hands on what was counted, and closes the store."""
        self._following.close()
        if self._measuring is not None:
            self._measuring.close()
        self._users.close()

    def _explain(self, requests: Sequence[RequestTensors]) -> Sequence[Answer]:
        return self._users.answer(requests, self._explainer.run_requests)
