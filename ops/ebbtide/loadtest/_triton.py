"""All use of `tritonclient`, which has no types: inference messages, and the server's configs and statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import serialize_byte_tensor

from ebbtide.client._channel import channel_credentials
from ebbtide.client._served import served
from ebbtide.client.codec import EncodedRequest
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Dtype, Limits
from ebbtide.loadtest.access import Access
from ebbtide.loadtest.errors import LoadTestError

_SERVICE = "/inference.GRPCInferenceService"
_INFER = f"{_SERVICE}/ModelInfer"
_TIMEOUT_S = 10.0

Untyped = Any
"""A message of Triton's protocol."""


def infer_message(encoded: EncodedRequest) -> bytes:
    """The serialised ``ModelInferRequest`` of a request."""
    datatypes = {tensor.name: tensor.dtype for tensor in served_models.MODELS[encoded.model_name].inputs}
    message: Untyped = service_pb2.ModelInferRequest(model_name=encoded.model_name)
    for name, array in encoded.tensors.items():
        message.inputs.add(name=name, datatype=datatypes[name].value, shape=array.shape)
        if datatypes[name] is Dtype.BYTES:
            packed = serialize_byte_tensor(array)
            message.raw_input_contents.append(packed.item() if packed.size else b"")
        else:
            message.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    return bytes(message.SerializeToString())


def read_request(message: bytes) -> Untyped:
    """The ``ModelInferRequest`` in a serialised message."""
    return service_pb2.ModelInferRequest.FromString(message)


def content_spans(message: bytes) -> dict[str, slice]:
    """Where the elements of each input tensor lie in a serialised ``ModelInferRequest``.

    The elements are its last fields: each a tag of one byte, the length, and the bytes.
    """
    request = read_request(message)
    spans: dict[str, slice] = {}
    stop = len(message)
    tensors = zip(request.inputs, request.raw_input_contents, strict=True)
    for tensor, content in reversed(list(tensors)):
        spans[tensor.name] = slice(stop - len(content), stop)
        stop -= len(content) + len(_varint(len(content))) + 1
    return spans


def output_names(answer: bytes) -> list[str]:
    """The names of the output tensors of a serialised ``ModelInferResponse``."""
    return [output.name for output in service_pb2.ModelInferResponse.FromString(answer).outputs]


def open_channel(target: str, access: Access, options: Sequence[tuple[str, int]] = ()) -> Untyped:
    """A channel of gRPC's blocking kind.

    Raises:
        LoadTestError: A certificate or key cannot be read.
    """
    try:
        credentials = channel_credentials(access.tls)
    except InvalidArgumentError as error:
        raise LoadTestError(str(error)) from error
    if access.tls is None or credentials is None:
        return grpc.insecure_channel(target, list(options))
    named = [] if access.tls.server_name is None else [("grpc.ssl_target_name_override", access.tls.server_name)]
    return grpc.secure_channel(target, credentials, [*options, *named])


def raw_call(channel: Untyped) -> Untyped:
    """The inference call of a channel; it takes and gives serialised messages."""
    return channel.unary_unary(_INFER)


class Inspector:
    """Reads a server's metadata, configs and statistics over a channel of its own."""

    def __init__(self, target: str, access: Access) -> None:
        """Opens the channel; nothing is sent yet.

        Raises:
            LoadTestError: `access` does not fit the address.
        """
        self._target = target
        self._metadata = access.metadata(target)
        self._channel = open_channel(target, access)

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def server(self) -> Untyped:
        """The server's ``ServerMetadataResponse``.

        Raises:
            LoadTestError: No Triton answers at the address.
        """
        return self._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), service_pb2.ServerMetadataResponse)

    def config(self, model_name: str) -> Untyped:
        """The ``ModelConfig`` of a model.

        Raises:
            LoadTestError: The server does not have it.
        """
        request = service_pb2.ModelConfigRequest(name=model_name)
        return self._ask("ModelConfig", request, service_pb2.ModelConfigResponse).config

    def statistics(self) -> list[Untyped]:
        """The ``ModelStatistics`` of every version of every model, since the server started.

        Raises:
            LoadTestError: No Triton answers at the address.
        """
        request = service_pb2.ModelStatisticsRequest()
        return list(self._ask("ModelStatistics", request, service_pb2.ModelStatisticsResponse).model_stats)

    def infer(self, message: bytes, timeout_s: float) -> bytes:
        """One answer, serialised.

        Raises:
            LoadTestError: The server refused the request.
        """
        call = raw_call(self._channel)
        return bytes(self._send(call, message, timeout_s, read_request(message).model_name))

    def _ask(self, method: str, request: Untyped, response: Untyped) -> Untyped:
        call = self._channel.unary_unary(
            f"{_SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return self._send(call, request, _TIMEOUT_S, method)

    def _send(self, call: Untyped, request: Untyped, timeout_s: float, what: str) -> Untyped:
        try:
            return call(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            status: Untyped = error
            raise LoadTestError(
                f"{what} at {self._target}: {status.code().name}: {status.details()}. The address is that of Triton's "
                "gRPC port, as printed by `ebbtide serve`; the model must be ready."
            ) from error


def served_limits(target: str, endpoints: Iterable[str], access: Access | None = None) -> Limits:
    """The bounds on one request that all of some endpoints of a server accept.

    Args:
        target: ``host:port`` of Triton's gRPC endpoint.
        endpoints: Names of the models that are called.
        access: Encryption and token; None for neither.

    Raises:
        LoadTestError: No Triton answers there, or it lacks one of the models.
    """
    with closing(Inspector(target, access or Access())) as inspector:
        return stated_limits(inspector.config(name) for name in endpoints)


def learns_online(target: str, access: Access | None = None) -> bool:
    """Whether `observe` of a server learns from the items that users were shown.

    Args:
        target: ``host:port`` of Triton's gRPC endpoint.
        access: Encryption and token; None for neither.

    Raises:
        LoadTestError: No Triton answers there, or it has no `observe`.
    """
    with closing(Inspector(target, access or Access())) as inspector:
        return contract.LEARNS_ONLINE_PARAMETER in inspector.config(served_models.OBSERVE.name).parameters


def stated_limits(configs: Iterable[Untyped]) -> Limits:
    """The smallest bounds that some models' ``ModelConfig`` state; the default of a bound that none of them states."""
    stated = [served(config).limits for config in configs]
    return Limits(
        **{
            name: min((limits[name] for limits in stated if name in limits), default=default)
            for name, default in asdict(Limits()).items()
        }
    )


def write_messages(messages: Iterable[bytes]) -> bytes:
    """Messages one after the other, each behind its length (protobuf's length-prefixed format)."""
    return b"".join(_varint(len(message)) + message for message in messages)


def read_messages(data: bytes) -> list[bytes]:
    """What `write_messages` wrote."""
    messages, index = [], 0
    while index < len(data):
        length = shift = 0
        while True:
            byte = data[index]
            length |= (byte & 0x7F) << shift
            index, shift = index + 1, shift + 7
            if byte < 0x80:
                break
        messages.append(data[index : index + length])
        index += length
    return messages


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
