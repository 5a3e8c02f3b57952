# pyright: basic
"""The only door to `tritonclient`, which has no types: everything that crosses it is typed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.grpc.aio import InferenceServerClient as AsyncInferenceServerClient
from tritonclient.utils import InferenceServerException

from ebbtide.client._channel import ChannelArgs
from ebbtide.client.errors import Status

Untyped = Any
"""What `tritonclient` has no types for: its clients, its results and the messages of Triton's protocol."""


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
    """The output tensors of an answer by name, and the version of the model that gave it."""
    answer = result.get_response()
    return {output.name: result.as_numpy(output.name) for output in answer.outputs}, answer.model_version
