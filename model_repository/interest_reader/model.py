"""Triton model that tells what a user's state says: serves `interest_reader`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.exported import read_interest_reader
from ebbtide.interest.served import Answer, Scored, ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export into memory, and opens the store.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export, or the address of
                the store is not usable.
        """
        self._served = ServedModel(args)
        self._reader = self._served.load(read_interest_reader)
        self._users = self._served.users()
        self._following = self._served.follow(self._reader.pipeline, self._users, scores=Scored.NONE)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request in a separate run, because users hold different numbers of raw events."""
        return [
            self._served.answer_all([request], lambda tensors, _wanted: self._run(tensors))[0] for request in requests
        ]

    def finalize(self) -> None:
        """Closes the store."""
        self._following.close()
        self._users.close()

    def _run(self, requests: Sequence[RequestTensors]) -> Sequence[Answer]:
        return self._users.answer(requests, self._reader.run_requests)
