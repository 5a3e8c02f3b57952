# pyright: basic
"""The only door to `tritonclient`, which has no types: everything that crosses it is typed here."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.aio import InferenceServerClient as AsyncInferenceServerClient
from tritonclient.utils import InferenceServerException

from ebbtide.client._channel import ChannelArgs
from ebbtide.client.errors import InternalError, Status

Untyped = Any
"""What `tritonclient` has no types for: its clients, its results and the messages of Triton's protocol."""

_LENGTH = struct.Struct("<I")


def infer_inputs(tensors: Mapping[str, npt.NDArray[Any]], datatypes: Mapping[str, str]) -> list[Untyped]:
    """Tensors in the form that `tritonclient` sends."""
    inputs: list[Untyped] = []
    for name, array in tensors.items():
        tensor = InferInput(name, array.shape, datatypes[name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def open_sync(target: str, credentials: grpc.ChannelCredentials | None, channel_args: ChannelArgs) -> Untyped:
    """A `tritonclient` client whose calls block."""
    return InferenceServerClient(target, creds=credentials, channel_args=channel_args)


def open_async(target: str, credentials: grpc.ChannelCredentials | None, channel_args: ChannelArgs) -> Untyped:
    """A `tritonclient` client whose calls are awaited, in the event loop that runs now."""
    return AsyncInferenceServerClient(target, creds=credentials, channel_args=channel_args)


def failure_of(error: BaseException) -> tuple[Status, str] | None:
    """How the call ended and the server's words, where `tritonclient` raised the error; None otherwise."""
    if not isinstance(error, InferenceServerException):
        return None
    name = str(error.status()).removeprefix("StatusCode.")
    return Status.__members__.get(name, Status.UNKNOWN), str(error.message() or "")


def read_outputs(result: Untyped) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """The output tensors of an answer by name, and the version of the model that gave it.

    Raises:
        InternalError: A tensor of strings is cut short.
    """
    answer = result.get_response()
    raw = answer.raw_output_contents
    outputs = {
        output.name: _strings(output, raw[place])
        if output.datatype == "BYTES" and place < len(raw)
        else result.as_numpy(output.name)
        for place, output in enumerate(answer.outputs)
    }
    return outputs, answer.model_version


def _strings(output: Untyped, raw: bytes) -> npt.NDArray[Any]:
    """A tensor of strings, each behind its length; a third of the time that `tritonclient` takes."""
    found: list[bytes] = []
    place, end = 0, len(raw)
    try:
        while place < end:
            start = place + _LENGTH.size
            place = start + _LENGTH.unpack_from(raw, place)[0]
            found.append(raw[start:place])
        if place > end:
            raise ValueError("the last string is cut short")
        array = np.empty(len(found), dtype=np.object_)
        array[:] = found
        return array.reshape(output.shape)
    except (struct.error, ValueError) as error:
        raise InternalError(
            f"{output.name}: got {len(found)} strings in {end} bytes; expected shape {list(output.shape)}. "
            "Is the model at this address exported by Ebbtide?"
        ) from error
