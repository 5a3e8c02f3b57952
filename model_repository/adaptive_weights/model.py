"""Triton model of the interest pipeline: serves `adaptive_weights` and, without batching, `adaptive_weights_text`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's copy of the interest code comes before an installed one.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.exported import read_pipeline, read_rule_tables
from ebbtide.interest.meters import OF_ANSWERS, OF_STATES
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
        self._pipeline = self._served.load(read_pipeline)
        self._users = self._served.users()
        rules = self._served.load(read_rule_tables)
        self._following = self._served.follow(self._pipeline, self._users, scores=Scored.ALL, rules=rules)
        self._pipeline.meters, self._measuring = self._served.measure(*OF_ANSWERS, *OF_STATES)
        self._users.meters = self._pipeline.meters

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request; the store is read once for all of them, and the pipeline runs once.

        Cancellation is not polled: one poll takes longer than a request's share of a batch, and Triton itself checks
        between the steps of an ensemble.
        """
        return self._served.answer_all(requests, self._run)

    def finalize(self) -> None:
        """Hands on what was counted, and closes the store."""
        self._following.close()
        if self._measuring is not None:
            self._measuring.close()
        self._users.close()

    def _run(self, requests: Sequence[RequestTensors], wanted: frozenset[str]) -> Sequence[Answer]:
        return self._users.answer(requests, lambda sound, records: self._pipeline.run_requests(sound, wanted, records))
