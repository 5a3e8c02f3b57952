"""Triton's door to the interest pipeline: serves `adaptive_weights` and, without batching, `adaptive_weights_text`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The export's own copy of the interest code, ahead of one that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from ebbtide.interest import contract
from ebbtide.interest.checks import Request
from ebbtide.interest.errors import RequestError
from ebbtide.interest.exported import read_interest_config, read_pipeline, require_one_export
from ebbtide.interest.pipeline import AdaptiveWeights

Answer = AdaptiveWeights | RequestError | Exception


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the tables of the export.

        Raises:
            TritonModelException: Files or neighbouring models of another export.
        """
        self._name = args["model_name"]
        self._model = contract.MODELS[self._name]
        folder, version = Path(args["model_repository"]), args["model_version"]
        try:
            fingerprint = read_interest_config(folder / version).fingerprint
            require_one_export(folder.parent, int(version), fingerprint)
            self._pipeline = read_pipeline(folder / version)
        except (ValueError, KeyError, OSError) as error:
            raise pb_utils.TritonModelException(f"unable to load model '{self._name}': {error}") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request, with one run of the pipeline for all of them."""
        people = [self._people(request) for request in requests]
        answers = iter(self._answers([person for group in people for person in group]))
        return [
            self._response(request, [next(answers) for _ in group])
            for request, group in zip(requests, people, strict=True)
        ]

    def _people(self, request: Any) -> list[Request]:  # noqa: ANN401 - Triton's own class, which carries no types
        """The people of a request: where the model batches, a client may send several that have equally many events."""
        arrays = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if not self._model.batching:
            return [Request(**arrays)]
        return [
            Request(**{name: array[row] for name, array in arrays.items()})
            for row in range(next(iter(arrays.values())).shape[0])
        ]

    def _answers(self, people: list[Request]) -> Sequence[Answer]:
        try:
            return self._pipeline.run(people)
        except Exception as error:
            if len(people) == 1:
                return [error]
        # Alone, so that only the culprit fails.
        return [answer for person in people for answer in self._answers([person])]

    def _response(self, request: Any, answers: list[Answer]) -> Any:  # noqa: ANN401 - Triton's own classes
        rows: list[AdaptiveWeights] = []
        for row, answer in enumerate(answers):
            if isinstance(answer, Exception):
                code = pb_utils.TritonError.INTERNAL
                if isinstance(answer, RequestError):
                    code = pb_utils.TritonError.INVALID_ARG
                # An ensemble's error does not say which of its models failed.
                place = f"row {row}: " if len(answers) > 1 else ""
                message = f"{self._name}: {place}{answer}"
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
            rows.append(answer)
        wanted = frozenset(request.requested_output_names())
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(tensor.name, np.stack([getattr(row, tensor.name) for row in rows]))
                for tensor in self._model.outputs
                if tensor.name in wanted
            ]
        )
