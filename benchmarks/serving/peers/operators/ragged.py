"""What the operators share: a tensor of all requests of a batch as one flat array, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Array = npt.NDArray[Any]


def tables(arguments: Any) -> dict[str, Array]:  # noqa: ANN401 - Triton's own
    """The arrays beside a model, read into memory."""
    folder = Path(arguments["model_repository"]) / arguments["model_version"]
    with np.load(folder / "tables.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def parts(requests: Sequence[Any], name: str) -> list[Array]:
    """A tensor of each request, ``[1, ...]``."""
    return [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]


def joined(arrays: Sequence[Array]) -> Array:
    """Tensors ``[1, events, ...]`` of different lengths, one behind the other: ``[all events, ...]``."""
    return np.concatenate([array[0] for array in arrays])


def lengths(arrays: Sequence[Array]) -> npt.NDArray[np.int64]:
    """Events of each request."""
    return np.array([array.shape[1] for array in arrays])


def responses(answers: Sequence[dict[str, Array]]) -> list[Any]:
    """One response for each request, the arrays with a batch dimension put in front."""
    return [
        pb_utils.InferenceResponse([pb_utils.Tensor(name, array[None]) for name, array in answer.items()])
        for answer in answers
    ]
