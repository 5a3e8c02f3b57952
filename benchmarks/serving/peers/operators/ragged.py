"""Helpers of the operators: join the tensors of a batch's requests into one array, and build the responses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]


def tables(arguments: Any) -> dict[str, Array]:  # noqa: ANN401 - Triton's own
    """Reads the arrays of a model from its version folder."""
    folder = Path(arguments["model_repository"]) / arguments["model_version"]
    with np.load(folder / "tables.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def tensors(requests: Sequence[Any], name: str) -> list[Array]:
    """The tensor of this name of each request, ``[1, ...]``."""
    return [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]


def joined(arrays: Sequence[Array]) -> Array:
    """Concatenates tensors ``[1, events, ...]`` of different lengths to ``[events of all requests, ...]``."""
    return np.concatenate([array[0] for array in arrays])


def lengths(arrays: Sequence[Array]) -> npt.NDArray[np.int64]:
    """Number of events of each request."""
    return np.array([array.shape[1] for array in arrays])


def responses(answers: Sequence[dict[str, Array]]) -> list[Any]:
    """One response for each request; a batch dimension is added to its arrays."""
    return [
        pb_utils.InferenceResponse([pb_utils.Tensor(name, array[None]) for name, array in answer.items()])
        for answer in answers
    ]
