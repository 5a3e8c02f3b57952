"""Triton model that scores given candidates: serves `candidate_head`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_candidate_scorer
from ebbtide.interest.served import ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export into memory.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export.
        """
        self._served = ServedModel(args)
        self._scorer = self._served.load(read_candidate_scorer)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request in one run; as in `adaptive_weights`, cancellation is not polled."""
        return self._served.answer_all(requests, lambda tensors, _wanted: self._scorer.run_requests(tensors))
