"""Triton model of the interest pipeline: serves `adaptive_weights` and, without batching, `adaptive_weights_text`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_pipeline
from ebbtide.interest.served import ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export into memory.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export.
        """
        self._served = ServedModel(args)
        self._pipeline = self._served.load(read_pipeline)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request; the pipeline runs once for all of them.

        Cancellation is not polled: one poll takes longer than a request's share of a batch, and Triton itself checks
        between the steps of an ensemble.
        """
        return self._served.answer_all(requests, self._pipeline.run_requests)
