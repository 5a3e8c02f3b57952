"""Triton model that erases the states of users: serves `forgetter`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_interest_config
from ebbtide.interest.served import ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Opens the store.

        Raises:
            TritonModelException: Another model of the repository belongs to another export, or the address of the store
                is not usable.
        """
        self._served = ServedModel(args)
        self._served.load(read_interest_config)
        self._users = self._served.users()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Erases the users of all requests with one call of the store."""
        return self._served.answer_all(requests, lambda tensors, _wanted: self._users.forget(tensors))

    def finalize(self) -> None:
        """Closes the store."""
        self._users.close()
