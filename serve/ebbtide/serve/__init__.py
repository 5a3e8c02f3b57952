"""Serve an exported model repository with a real Triton on this machine, with no container.

::

    from ebbtide.serve import ServerConfig, TritonServer

    with TritonServer(ServerConfig(model_repository)) as server:
        print(server.grpc_url)
"""

from ebbtide.serve.config import NO_STATE, ServerConfig
from ebbtide.serve.distribution import EmbeddedServer, embedded_server
from ebbtide.serve.errors import (
    EmbeddedServerError,
    ModelLoadError,
    PortInUseError,
    ServeError,
    ServerNotInstalledError,
    ServerStartError,
    ServerStateError,
    UnsupportedNumpyError,
    UnsupportedPythonError,
)
from ebbtide.serve.keeper import keep
from ebbtide.serve.ports import connect_host
from ebbtide.serve.server import TritonServer
from ebbtide.serve.startup import Progress

__all__ = [
    "NO_STATE",
    "EmbeddedServer",
    "EmbeddedServerError",
    "ModelLoadError",
    "PortInUseError",
    "Progress",
    "ServeError",
    "ServerConfig",
    "ServerNotInstalledError",
    "ServerStartError",
    "ServerStateError",
    "TritonServer",
    "UnsupportedNumpyError",
    "UnsupportedPythonError",
    "connect_host",
    "embedded_server",
    "keep",
]
