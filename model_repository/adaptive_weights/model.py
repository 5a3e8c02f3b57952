"""Triton's door to the interest pipeline: serves `adaptive_weights` and, without batching, `adaptive_weights_text`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's own copy of the interest code, ahead of one that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_pipeline
from ebbtide.interest.served import ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export.

        Raises:
            TritonModelException: Files or neighbouring models of another export.
        """
        self._served = ServedModel(args)
        self._pipeline = self._served.load(read_pipeline)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request, with one run of the pipeline for all of them.

        Cancellation is not polled: asking once costs more than a request's whole share of a batch, and Triton itself
        looks between the steps of an ensemble.
        """
        return self._served.answer_all(requests, self._pipeline.run_parts)
