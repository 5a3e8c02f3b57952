"""Triton model of the approximate scoring head; an export with exact retrieval has an ONNX graph instead."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's own copy of the interest code, ahead of one that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from approximate import read_approximate_head

from ebbtide.interest.served import ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the index and the tables of the export into memory.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export.
        """
        self._served = ServedModel(args)
        self._head = self._served.load(read_approximate_head)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request; the index is searched once for all of them."""
        return self._served.answer_all(requests, lambda tensors, _wanted: self._head.run_requests(tensors))
