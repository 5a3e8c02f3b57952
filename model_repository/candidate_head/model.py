"""Triton model that scores given candidates: serves `candidate_head`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_candidate_scorer
from ebbtide.interest.served import Scored, ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export into memory, and opens the store of the items that were added, if there is one.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export, or the address of
                the store is not usable.
        """
        self._served = ServedModel(args)
        self._scorer = self._served.load(read_candidate_scorer)
        self._users = self._served.users()
        self._following = self._served.follow(self._scorer.pipeline, self._users, scores=Scored.NEW)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request in one run; as in `adaptive_weights`, cancellation is not polled."""
        return self._served.answer_all(requests, lambda tensors, _wanted: self._scorer.run_requests(tensors))

    def finalize(self) -> None:
        """Closes the store."""
        self._following.close()
        self._users.close()
