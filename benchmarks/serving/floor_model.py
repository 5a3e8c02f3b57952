"""A Python model that does nothing: it answers every request with the same zeros, in the shapes of its config.

A tensor of any length is empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Creates the answer's arrays."""
        self._answer = {
            output["name"]: np.zeros(
                [1, *(max(0, int(dim)) for dim in output["dims"])], pb_utils.triton_string_to_numpy(output["data_type"])
            )
            for output in json.loads(args["model_config"])["output"]
        }

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns one answer for each request."""
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in self._answer.items()])
            for _ in requests
        ]
