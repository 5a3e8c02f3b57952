"""Triton model that composes lists from scored candidates: serves `slate_composer`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_slate_composer
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
        self._composer = self._served.load(read_slate_composer)
        self._users = self._served.users()
        self._following = self._served.follow(self._composer.pipeline, self._users, scores=Scored.NONE)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request; as in `adaptive_weights`, cancellation is not polled."""
        return self._served.answer_all(requests, lambda tensors, _wanted: self._composer.run_requests(tensors))

    def finalize(self) -> None:
        """Closes the store."""
        self._following.close()
        self._users.close()
