"""Triton model of the tokenizer: texts -> token ids and attention mask."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The export's own copy of the interest code, ahead of one that may be installed.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from text_tokens import read_text_tokens

from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.served import ServedModel


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the tokenizer of the export.

        Raises:
            TritonModelException: A file or another model of the repository belongs to another export.
        """
        self._served = ServedModel(args)
        self._tokens = self._served.load(read_text_tokens)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request in a separate run, because the numbers of texts differ."""
        return [
            self._served.answer_all([request], lambda parts, _wanted: [self._encode(parts[0])])[0]
            for request in requests
        ]

    def _encode(self, part: Mapping[str, Any]) -> Mapping[str, Any] | RequestError:
        try:
            return self._tokens.encode(part[contract.TEXT.name].ravel())._asdict()
        except RequestError as error:
            return error
