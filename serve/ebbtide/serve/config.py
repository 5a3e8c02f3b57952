"""Settings of one server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ebbtide.interest import admin_key

NO_STATE = "none"
"""The `ServerConfig.state` of a server that keeps no states of users."""


@dataclass(frozen=True)
class ServerConfig:
    """What to serve, and where."""

    model_repository: Path
    """Folder with one folder for each model."""
    host: str = "127.0.0.1"
    """Address to bind. Loopback by default: Triton asks nobody who they are, so binding elsewhere is a decision."""
    grpc_port: int | None = None
    """None takes a free port; so do the next two."""
    http_port: int | None = None
    metrics_port: int | None = None
    model_control: Literal["none", "explicit"] = "none"
    """"none" loads every model at the start; "explicit" loads `load_models`, and others when a client asks."""
    load_models: tuple[str, ...] = ()
    """Models to load at the start under "explicit"; ("*",) for all."""
    model_config_name: str | None = None
    """Which of the configs of each model: ``configs/NAME.pbtxt``, or ``config.pbtxt`` for models without that one."""
    response_cache_mb: int | None = None
    """Size of the response cache, in MiB, for models whose configs enable it; None for no cache."""
    rate_limit_cores: int | None = None
    """Cores that the rate limiter shares out among instances whose configs claim some; None leaves it off."""
    state: str | None = None
    """Address of the store of the users' states, as `ebbtide.store.open_store` takes it; "none" for no store. None
    takes the address, if any, from the environment (EBBTIDE_STATE), which has the store's other settings too."""
    admin_key: str | None = field(default=None, repr=False)
    """Key without which Triton refuses model control, and changes of shared memory, tracing and logging, to everybody
    who reaches a port: `ebbtide.interest.admin_key`. None leaves them open. Triton takes it on its command line, so
    that whoever may list the processes of this machine can read it."""
    traces: str | None = None
    """OpenTelemetry collector (OTLP over HTTP), such as ``http://localhost:4318``, that gets a span of each model on a
    request's way; None sends none."""
    trace_rate: int = 1
    """One request in so many is traced."""
    startup_timeout_s: float = 120.0
    stop_timeout_s: float = 15.0
    """Time for requests in flight to end before the server is killed."""
    log_file: Path | None = None
    """Where the server's output goes, appended. None keeps it in a scratch folder while the server runs, and after a
    failed start, whose error names it."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for the server, over those inherited."""
    extra_args: tuple[str, ...] = ()
    """Further tritonserver options, last on its command line: ``("--log-verbose=1",)``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_repository", Path(self.model_repository))
        if not self.model_repository.is_dir():
            raise ValueError(f"model_repository {str(self.model_repository)!r} is not a folder")
        if self.model_control not in ("none", "explicit"):
            raise ValueError(f"model_control is {self.model_control!r}, expected 'none' or 'explicit'")
        if self.load_models and self.model_control != "explicit":
            raise ValueError("load_models is given, which needs model_control='explicit'")
        for name in ("grpc_port", "http_port", "metrics_port"):
            port = getattr(self, name)
            if port is not None and not 1 <= port <= 65535:
                raise ValueError(f"{name} is {port}, expected 1 to 65535, or None for a free one")
        if self.model_config_name is not None:
            self._require_config(self.model_config_name)
        for name in ("response_cache_mb", "rate_limit_cores"):
            amount = getattr(self, name)
            if amount is not None and amount < 1:
                raise ValueError(f"{name} is {amount}, expected at least 1, or None for none")
        if self.traces is not None and not self.traces.startswith(("http://", "https://")):
            raise ValueError(f"traces is {self.traces!r}, expected the address of a collector, http://HOST:4318")
        if self.trace_rate < 1:
            raise ValueError(f"trace_rate is {self.trace_rate}, expected at least 1")
        if self.admin_key is not None:
            admin_key.checked(self.admin_key, "admin_key")
        for name in ("startup_timeout_s", "stop_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")

    def _require_config(self, name: str) -> None:
        """Passes a name that a model has a config of: Triton itself takes ``config.pbtxt`` for one that none has."""
        known = sorted({path.stem for path in self.model_repository.glob("*/configs/*.pbtxt")})
        if name not in known:
            raise ValueError(
                f"model_config_name is {name!r}, expected one of the configs in {self.model_repository} "
                f"({', '.join(known) or 'there are none'}), or None for config.pbtxt"
            )
