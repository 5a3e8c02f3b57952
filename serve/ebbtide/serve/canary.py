"""A request that a server answers at once unless it hangs."""

from __future__ import annotations

import time
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ebbtide.interest import contract, served_models

_OPTIONS = (
    # A proxy must never see loopback, and a server that was started again gets a connection of its own.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_OF_THE_CALLER = frozenset({grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""What gRPC says in the name of a server that did not answer; Triton says UNAVAILABLE, too."""


class Canary:
    """Asks a server, and does not wait for the answer.

    A server of an export is asked to `recommend` for a user without events, which goes the way of everybody's requests:
    through queues and processes of two models. Any other is asked whether it lives.
    """

    def __init__(self, address: str, *, recommends: bool) -> None:
        """Prepares a connection.

        Args:
            address: Host and gRPC port.
            recommends: Whether the server has `recommend`.
        """
        self._recommends = recommends
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._call: Any = None
        self.was_answered = False
        """Whether the server has ever answered, a refusal included."""

    def send(self, timeout_s: float) -> None:
        """Asks anew."""
        if self._recommends:
            now = service_pb2.ModelInferRequest.InferInputTensor(
                name=contract.NOW.name, datatype=contract.NOW.dtype.value, shape=[1, 1]
            )
            now_ms = time.time_ns() // 1_000_000
            request = service_pb2.ModelInferRequest(
                model_name=served_models.RECOMMEND.name,
                inputs=[now],
                raw_input_contents=[now_ms.to_bytes(8, "little", signed=True)],
            )
            self._call = self._stub.ModelInfer.future(request, timeout=timeout_s)
        else:
            self._call = self._stub.ServerLive.future(service_pb2.ServerLiveRequest(), timeout=timeout_s)
        self._call.add_done_callback(self._note)

    def is_overdue(self) -> bool:
        """Whether what was asked since the last call has had no answer in its time; of a server that can be reached."""
        call, self._call = self._call, None
        if call is None:
            return False
        if not call.done():
            call.cancel()
            return True
        return bool(call.code() is grpc.StatusCode.DEADLINE_EXCEEDED)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _note(self, call: Any) -> None:  # noqa: ANN401 - grpc carries no types
        self.was_answered |= call.code() not in _OF_THE_CALLER
