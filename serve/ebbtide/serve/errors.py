"""Errors of the stage `serve`: one root, each named for what happened.

::

    ServeError
    ├── EmbeddedServerError
    │   ├── ServerNotInstalledError    nvidia-pytriton is missing, or not for this machine
    │   ├── UnsupportedPythonError     no stub works with the running Python
    │   └── UnsupportedNumpyError      the stub would die with the installed NumPy
    ├── PortInUseError                 a port that was asked for is taken
    ├── ServerStartError               the server died, or was not ready in time
    │   ├── ModelLoadError             a model was refused
    │   ├── ServerCrashError           a signal ended it, more than once
    │   └── ServerStalledError         a process of a model hangs; it is started again, so callers see none
    └── ServerStateError               a property of a server that does not run was read
"""

from __future__ import annotations

from collections.abc import Mapping


class ServeError(Exception):
    """Root of everything that `ebbtide.serve` raises."""


class EmbeddedServerError(ServeError):
    """The embedded Triton can't run in this environment."""


class ServerNotInstalledError(EmbeddedServerError):
    """The wheel that carries tritonserver is missing, incomplete, or not for this machine."""


class UnsupportedPythonError(EmbeddedServerError):
    """The embedded server has no usable stub for the running Python."""


class UnsupportedNumpyError(EmbeddedServerError):
    """The embedded server's stub does not run with the installed NumPy."""


class PortInUseError(ServeError):
    """A port that the caller asked for is taken."""


class ServerStateError(ServeError):
    """The server does not run, or runs already."""


class ServerStartError(ServeError):
    """The server died while starting, or was not ready in time."""


class ServerCrashError(ServerStartError):
    """A signal ended the server while it was starting, and it had refused no model."""


class ServerStalledError(ServerStartError):
    """The server came to a standstill while it was starting: a process of a model hangs."""


class ModelLoadError(ServerStartError):
    """The server refused at least one model."""

    failures: Mapping[str, str]
    """The server's own message for each refused model; root causes before the ensembles that depend on them."""

    def __init__(self, message: str, failures: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failures = dict(failures)
