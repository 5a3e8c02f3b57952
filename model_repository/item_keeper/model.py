"""Triton model that keeps the added items, the stock and the rules of running servers: serves `item_keeper`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.exported import read_item_keeper
from ebbtide.interest.item_keeper import ItemKeeper
from ebbtide.interest.served import ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the tables of the export into memory, and opens the store.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export, or the address of
                the store is not usable.
        """
        self._served = ServedModel(args)
        found = self._served.load(read_item_keeper)
        self._users = self._served.users()
        self._keeper = ItemKeeper(found, self._users)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request in a separate run, after the store has its items."""
        return [
            self._served.answer_all([request], lambda tensors, _wanted: self._keeper.run_requests(tensors))[0]
            for request in requests
        ]

    def finalize(self) -> None:
        """Closes the store."""
        self._users.close()
