"""What `tritonclient` takes and gives, apart from the call itself: shared by every kind of client."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
from tritonclient.grpc import InferInput, InferResult
from tritonclient.utils import InferenceServerException

from ebbtide.client._fields import caller_error
from ebbtide.client.codec import EncodedRequest
from ebbtide.client.errors import (
    CallCancelledError,
    DeadlineExceededError,
    EbbtideError,
    InternalError,
    InvalidArgumentError,
    ModelNotReadyError,
    ResourceExhaustedError,
    Status,
    UnavailableError,
)
from ebbtide.interest.contract import MODELS
from ebbtide.interest.errors import RequestError
from ebbtide.v1 import RecommendRequest

_DATATYPES = {model.name: {tensor.name: tensor.dtype.value for tensor in model.inputs} for model in MODELS.values()}

_UNKNOWN_MODEL = "unknown model"
"""Triton answers UNAVAILABLE both when it is overloaded and when a model is not ready; its words tell which."""


def infer_inputs(encoded: EncodedRequest) -> list[InferInput]:
    """The tensors of a request, in the form that `tritonclient` sends."""
    datatypes = _DATATYPES[encoded.model_name]
    inputs = []
    for name, array in encoded.tensors.items():
        tensor = InferInput(name, array.shape, datatypes[name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def read_outputs(result: InferResult) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """The output tensors of an answer by name, and the version of the model that gave it."""
    answer = result.get_response()
    return {output.name: result.as_numpy(output.name) for output in answer.outputs}, answer.model_version


def typed_error(
    failure: InferenceServerException,
    *,
    url: str,
    timeout_s: float,
    model_name: str | None = None,
    request: RecommendRequest | None = None,
) -> EbbtideError:
    """The error to raise for a failed call.

    Args:
        failure: What `tritonclient` raised.
        url: Address of the server.
        timeout_s: Deadline of the call, seconds.
        model_name: The model that was called; None where the call asked the server itself.
        request: The request as the caller gave it, so that a bad field is named in the caller's terms.
    """
    status = _status(failure)
    said = (failure.message() or "the server gave no reason").strip().removesuffix(".")
    asked = f"{model_name} at {url}" if model_name else f"The server at {url}"
    if status is Status.INVALID_ARGUMENT:
        bad_field = RequestError.parse(said)
        return caller_error(bad_field, request) if bad_field else InvalidArgumentError(said)
    if status is Status.DEADLINE_EXCEEDED:
        return DeadlineExceededError(
            f"{asked} did not answer within {timeout_s:g} s. Give the call a longer timeout_s, or give the server less "
            "to do at once (its queue times are in its metrics)."
        )
    if status is Status.NOT_FOUND or (status is Status.UNAVAILABLE and _UNKNOWN_MODEL in said):
        return ModelNotReadyError(
            f"{asked} is not ready: {said}. Wait with wait_until_ready(), or look in the server's log for why the "
            "model did not load.",
            status=status,
        )
    if status is Status.UNAVAILABLE:
        return UnavailableError(
            f"{asked} is unavailable: {said}. Check the address (it is Triton's gRPC port, 8001 unless set) and that "
            "the server runs; if it runs, it refuses work for now: send less at once."
        )
    if status is Status.RESOURCE_EXHAUSTED:
        return ResourceExhaustedError(
            f"{asked}: {said}. Send smaller requests, or raise max_message_bytes in ClientConfig."
        )
    if status is Status.CANCELLED:
        return CallCancelledError(f"{asked}: the call was cancelled: {said}.")
    if status in (Status.INTERNAL, Status.UNKNOWN, Status.DATA_LOSS):
        return InternalError(f"{asked} failed: {said}. The server's log says more.", status=status)
    return EbbtideError(f"{asked} answered {status.name}: {said}.", status=status)


def _status(failure: InferenceServerException) -> Status:
    name = str(failure.status()).removeprefix("StatusCode.")
    return Status.__members__.get(name, Status.UNKNOWN)
