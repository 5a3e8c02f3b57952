"""Arrays as one model of the contract takes and gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.client.errors import InternalError
from ebbtide.interest.contract import Dtype, Tensor
from ebbtide.interest.served_models import Model

Arrays = Mapping[str, npt.NDArray[Any]]
"""Tensors by name."""

Values = dict[Tensor, Sequence[Any] | npt.NDArray[Any]]
"""Input tensors of one user, each without leading dimension."""

_NUMPY: dict[Dtype, type[Any]] = {
    Dtype.BOOL: np.bool_,
    Dtype.INT32: np.int32,
    Dtype.INT64: np.int64,
    Dtype.FP32: np.float32,
    Dtype.BYTES: np.object_,
}


@dataclass(frozen=True)
class EncodedRequest:
    """What to send: the model to call and its input tensors."""

    model_name: str
    """A model of the contract that is called from outside."""
    tensors: Arrays
    """Input tensors by name, with the model's batch dimension where it has one."""


def encoded(model: Model, values: Values) -> EncodedRequest:
    """The values as the model's tensors: with a leading 1 where it batches, or where a tensor has a single row."""
    arrays = {
        tensor.name: (
            np.asarray(value, dtype=_NUMPY[tensor.dtype])[np.newaxis]
            if model.batching or tensor.rows == 1
            else np.asarray(value, dtype=_NUMPY[tensor.dtype])
        )
        for tensor, value in values.items()
    }
    return EncodedRequest(model.name, arrays)


def output(outputs: Arrays, tensor: Tensor) -> npt.NDArray[Any]:
    """One output tensor.

    Raises:
        InternalError: It is missing.
    """
    array = outputs.get(tensor.name)
    if array is None:
        raise InternalError(
            f"{tensor.name}: missing from the server's answer, which has {', '.join(sorted(outputs)) or 'nothing'}. "
            "Is the model at this address exported by Ebbtide?"
        )
    return array


def flat(outputs: Arrays, tensor: Tensor, size: int | None = None) -> npt.NDArray[Any]:
    """One output tensor as a vector.

    Args:
        outputs: All of them.
        tensor: Which one.
        size: How many values it must have; None for at least one.

    Raises:
        InternalError: It is missing, or has another number of values.
    """
    array = output(outputs, tensor).reshape(-1)
    if array.size == 0 if size is None else array.size != size:
        raise InternalError(
            f"{tensor.name}: got {array.size or 'no'} values; expected {'at least one' if size is None else size}. "
            "Is the model at this address exported by Ebbtide?"
        )
    return array


def matrix(outputs: Arrays, tensor: Tensor, rows: int | None = None) -> npt.NDArray[Any]:
    """One output tensor with two dimensions.

    Args:
        outputs: All of them.
        tensor: Which one.
        rows: How many rows it must have; None for any number.

    Raises:
        InternalError: It is missing, or has another shape.
    """
    array = output(outputs, tensor)
    if array.ndim != 2 or (rows is not None and array.shape[0] != rows):
        raise InternalError(
            f"{tensor.name}: got shape {list(array.shape)}; expected a matrix"
            f"{'' if rows is None else f' of {rows} rows'}. Is the model at this address exported by Ebbtide?"
        )
    return array.astype(_NUMPY[tensor.dtype], copy=False)
