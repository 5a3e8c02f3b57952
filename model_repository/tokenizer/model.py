"""Triton's door to the tokenizer: texts -> token ids and attention mask."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

# The export's own copy of the interest code, ahead of one that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from text_tokens import TextTokens

from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.exported import read_interest_config, require_one_export


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the tokenizer of the export.

        Raises:
            TritonModelException: Files or neighbouring models of another export.
        """
        self._name = args["model_name"]
        self._model = contract.MODELS[self._name]
        folder, version = Path(args["model_repository"]), args["model_version"]
        try:
            config = read_interest_config(folder / version)
            require_one_export(folder.parent, int(version), config.fingerprint)
            self._tokens = TextTokens(folder / version, config.limits)
        except Exception as error:
            raise pb_utils.TritonModelException(f"unable to load model '{self._name}': {error}") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request; each has texts of its own number, so each is a run of its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:  # noqa: ANN401 - Triton's own classes, which carry no types
        try:
            texts = pb_utils.get_input_tensor_by_name(request, contract.TEXT.name).as_numpy()
            batch = self._tokens.encode(texts.ravel())
        except RequestError as error:
            return self._refusal(error, pb_utils.TritonError.INVALID_ARG)
        except Exception as error:
            return self._refusal(error, pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(tensor.name, getattr(batch, tensor.name)) for tensor in self._model.outputs]
        )

    def _refusal(self, error: Exception, code: int) -> Any:  # noqa: ANN401 - Triton's own class
        # An ensemble's error does not say which of its models failed.
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self._name}: {error}", code))
