"""A server that does nothing but answer every call with the same bytes: ``python -m ebbtide.loadtest.sink HOST``.

Against it a load generator shows what it can send itself.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio

_ANSWER = bytes(1_000)
"""About as long as the answer with ten items."""


class _Anything(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Takes every method."""

    def __init__(self) -> None:
        async def answer(request: bytes, context: Any) -> bytes:  # noqa: ANN401, ARG001
            return _ANSWER

        self._handler: Any = grpc.unary_unary_rpc_method_handler(answer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # noqa: ANN401, ARG002
        return self._handler


async def _serve() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Anything(),))
    port = server.add_insecure_port(f"{sys.argv[1]}:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    # Until the other side closes the pipe: it ends with its parent, however that ends.
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(_serve())
