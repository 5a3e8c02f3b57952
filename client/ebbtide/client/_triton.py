# pyright: basic
"""The only module that uses `tritonclient`, which has no types: messages and stub of its protocol, with types.

Messages are made and read here and not by its client, which saves a third of the client's time per call.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ebbtide.client._channel import ChannelArgs
from ebbtide.client._rotation import Rotation
from ebbtide.client.errors import InternalError, Status

Untyped = Any
"""What `tritonclient` has no types for: the messages of Triton's protocol, and the calls of its stub."""

_LENGTH = struct.Struct("<I")
_BYTES = "BYTES"
_NUMPY: dict[str, npt.DTypeLike] = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32}
_COMPRESSIONS = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
_STATUSES = {code: Status[code.name] for code in grpc.StatusCode}

_MESSAGES: Untyped = service_pb2
MODEL_READY: Untyped = _MESSAGES.ModelReadyRequest
MODEL_CONFIG: Untyped = _MESSAGES.ModelConfigRequest
MODEL_METADATA: Untyped = _MESSAGES.ModelMetadataRequest
SERVER_LIVE: Untyped = _MESSAGES.ServerLiveRequest
SERVER_METADATA: Untyped = _MESSAGES.ServerMetadataRequest
REGISTER_REGION: Untyped = _MESSAGES.SystemSharedMemoryRegisterRequest
UNREGISTER_REGION: Untyped = _MESSAGES.SystemSharedMemoryUnregisterRequest


class Connection:
    """Channels to Triton, sync or async: one over which gRPC chooses a server, and one for each of several servers."""

    def __init__(self, channel: Untyped, servers: Sequence[Untyped] = ()) -> None:
        """Takes the channels over."""
        self._channels = (channel, *servers)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self._servers = [service_pb2_grpc.GRPCInferenceServiceStub(server) for server in servers]

    def call(
        self,
        method: str,
        request: Untyped,
        timeout_s: float,
        metadata: Mapping[str, str],
        compression: str = "none",
        server: int | None = None,
    ) -> Untyped:
        """Calls a method of Triton's service by its name in the protocol: ``ModelInfer``, ``ServerLive``, ...

        Args:
            method: The method.
            request: Its message.
            timeout_s: Deadline of the attempt, seconds.
            metadata: Sent with it.
            compression: Compression of the message.
            server: Which of several servers to ask; None leaves the choice to gRPC.

        Raises:
            grpc.RpcError: The call failed; `failure_of` reads it.
        """
        stub = self._stub if server is None else self._servers[server]
        return getattr(stub, method)(
            request,
            timeout=timeout_s,
            metadata=tuple(metadata.items()),
            compression=_COMPRESSIONS.get(compression),
        )

    def close(self) -> None:
        """Closes sync channels."""
        for channel in self._channels:
            channel.close()

    async def close_async(self) -> None:
        """Closes async channels."""
        for channel in self._channels:
            await channel.close()


def open_sync(
    target: str, credentials: grpc.ChannelCredentials | None, channel_args: ChannelArgs, rotation: Rotation | None
) -> Connection:
    """A connection whose calls block."""

    def channel(target: str) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(target, channel_args)
        return grpc.secure_channel(target, credentials, channel_args)

    if rotation is None:
        return Connection(channel(target))
    servers = [channel(server) for server in rotation.servers]
    states = [grpc.ChannelConnectivity.IDLE] * len(servers)
    for index, server in enumerate(servers):
        server.subscribe(partial(states.__setitem__, index), try_to_connect=True)
    rotation.is_connected = lambda index: states[index] is grpc.ChannelConnectivity.READY
    return Connection(channel(target), servers)


def open_async(
    target: str, credentials: grpc.ChannelCredentials | None, channel_args: ChannelArgs, rotation: Rotation | None
) -> Connection:
    """A connection whose calls are awaited, in the event loop that runs now."""

    def channel(target: str) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(target, channel_args)
        return grpc.aio.secure_channel(target, credentials, channel_args)

    if rotation is None:
        return Connection(channel(target))
    servers = [channel(server) for server in rotation.servers]
    rotation.is_connected = lambda index: (
        servers[index].get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY
    )
    return Connection(channel(target), servers)


def failure_of(error: BaseException) -> tuple[Status, str] | None:
    """Status and message of an error that gRPC raised; None for any other error."""
    if not isinstance(error, grpc.RpcError):
        return None
    return _STATUSES.get(error.code(), Status.UNKNOWN), str(error.details() or "")


def infer_request(model_name: str, tensors: Mapping[str, npt.NDArray[Any]], datatypes: Mapping[str, str]) -> Untyped:
    """Tensors as a ``ModelInferRequest``."""
    request = _MESSAGES.ModelInferRequest(model_name=model_name)
    add, contents = request.inputs.add, request.raw_input_contents
    for name, array in tensors.items():
        add(name=name, datatype=datatypes[name], shape=array.shape)
        contents.append(raw_content(array))
    return request


def raw_content(array: npt.NDArray[Any]) -> bytes:
    """The elements of a tensor in the wire format: each string follows its length."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join([part for text in array.flat for part in (_LENGTH.pack(len(text)), text)])


def read_outputs(reply: Untyped) -> tuple[dict[str, npt.NDArray[Any]], str]:
    """The output tensors of a ``ModelInferResponse`` by name, and the version of the model that gave them.

    Raises:
        InternalError: A tensor is cut short, or of a type that no model of the contract gives.
    """
    outputs = {
        output.name: read_content(output.name, output.datatype, output.shape, raw)
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=False)
    }
    return outputs, reply.model_version


def read_content(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> npt.NDArray[Any]:
    """One tensor from its elements in the wire format.

    Raises:
        InternalError: They are not as many as its shape says, or of a type that no model of the contract gives.
    """
    try:
        if datatype == _BYTES:
            return _strings(bytes(raw)).reshape(shape)
        return np.frombuffer(raw, _NUMPY[datatype]).reshape(shape)
    except (KeyError, struct.error, ValueError) as error:
        raise InternalError(
            f"{name}: got {datatype} in {len(raw)} bytes; expected shape {list(shape)}, {math.prod(shape)} values. "
            "Is the model at this address exported by Ebbtide?"
        ) from error


def _strings(raw: bytes) -> npt.NDArray[Any]:
    """Strings, each behind its length; a third of the time that `tritonclient` takes."""
    found: list[bytes] = []
    index, end = 0, len(raw)
    length_at = _LENGTH.unpack_from
    while index < end:
        start = index + 4
        index = start + length_at(raw, index)[0]
        found.append(raw[start:index])
    if index > end:
        raise ValueError("the last string is cut short")
    array = np.empty(len(found), dtype=np.object_)
    array[:] = found
    return array
