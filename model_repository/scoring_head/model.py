"""Triton's door to the approximate scoring head; an export with exact retrieval has an ONNX graph in its place."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The export's own copy of the interest code, ahead of one that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from approximate import ApproximateHead

from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.exported import read_interest_config, require_one_export

_INPUTS = tuple(tensor.name for tensor in contract.SCORING_HEAD.inputs)


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Maps the index and the tables of the export.

        Raises:
            TritonModelException: Files or neighbouring models of another export.
        """
        self._name = args["model_name"]
        folder, version = Path(args["model_repository"]), args["model_version"]
        try:
            fingerprint = read_interest_config(folder / version).fingerprint
            require_one_export(folder.parent, int(version), fingerprint)
            self._head = ApproximateHead(folder / version, fingerprint)
        except Exception as error:
            raise pb_utils.TritonModelException(f"unable to load model '{self._name}': {error}") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request, with one search of the index for all of them."""
        arrays = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in _INPUTS] for request in requests
        ]
        errors = [self._fault(adjust_item) for _, adjust_item, _, _ in arrays]
        sound = [index for index, error in enumerate(errors) if error is None]
        answers = iter(self._answers([arrays[index] for index in sound]))
        return [self._response(next(answers) if error is None else error) for error in errors]

    def _fault(self, adjust_item: Any) -> RequestError | None:  # noqa: ANN401 - an array of a request
        wrong = adjust_item[(adjust_item < 0) | (adjust_item >= self._head.items)]
        if not wrong.size:
            return None
        return RequestError(contract.ADJUST_ITEM.name, str(wrong[0]), f"an index below {self._head.items}")

    def _answers(self, arrays: list[Any]) -> list[Any]:
        if not arrays:
            return []
        ends = np.cumsum([len(inputs[0]) for inputs in arrays])[:-1]
        try:
            best, score = self._head.rank(*(np.concatenate(column) for column in zip(*arrays, strict=True)))
        except Exception as error:
            if len(arrays) == 1:
                return [error]
            # Alone, so that only the culprit fails.
            return [answer for inputs in arrays for answer in self._answers([inputs])]
        return list(zip(np.split(self._head.item_ids(best), ends), np.split(score, ends), strict=True))

    def _response(self, answer: Any) -> Any:  # noqa: ANN401 - Triton's own classes, which carry no types
        if isinstance(answer, Exception):
            code = pb_utils.TritonError.INTERNAL
            if isinstance(answer, RequestError):
                code = pb_utils.TritonError.INVALID_ARG
            # An ensemble's error does not say which of its models failed.
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self._name}: {answer}", code))
        item_id, score = answer
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(contract.ITEM_ID.name, item_id), pb_utils.Tensor(contract.SCORE.name, score)]
        )
