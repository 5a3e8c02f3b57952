"""Turns arrays into the inputs of a Triton request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput
from tritonclient.utils import np_to_triton_dtype


def infer_inputs(arrays: Mapping[str, npt.NDArray[Any]]) -> list[InferInput]:
    """The inputs of a request, from arrays by input name; object arrays hold bytes."""
    inputs = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(tensor)
    return inputs
