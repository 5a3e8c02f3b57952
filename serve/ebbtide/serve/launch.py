"""The command line and the environment with which tritonserver starts."""

from __future__ import annotations

import os
from pathlib import Path

from ebbtide.interest import admin_key
from ebbtide.serve.config import NO_STATE, ServerConfig
from ebbtide.serve.distribution import EmbeddedServer
from ebbtide.serve.ports import Ports
from ebbtide.serve.startup import is_whole_export
from ebbtide.store import ADDRESS_VARIABLE

SHM_DEFAULT_BYTES = 4 * 1024 * 1024
"""Shared memory of one Python stub at its start; it grows when a batch needs more and never shrinks."""
SHM_GROWTH_BYTES = 4 * 1024 * 1024
CORES_RESOURCE = "cores"
"""What instances claim of the rate limiter, by the name that exported configs have for it."""


def command_line(
    server: EmbeddedServer, config: ServerConfig, repository: Path, ports: Ports, shm_prefix: str
) -> list[str]:
    """The tritonserver command; `extra_args` come last. `repository` is an absolute path that Triton can take."""
    # A restart must not wait longer than the grace it was given, whatever is in flight.
    exit_timeout_s = max(1, int(config.stop_timeout_s) - 1)
    return [
        str(server.executable),
        f"--model-repository={repository}",
        f"--model-control-mode={config.model_control}",
        *(f"--load-model={name}" for name in config.load_models),
        f"--backend-directory={server.backend_directory}",
        f"--cache-directory={server.cache_directory}",
        f"--grpc-address={config.host}",
        f"--grpc-port={ports.grpc}",
        f"--http-address={config.host}",
        f"--http-port={ports.http}",
        f"--metrics-address={config.host}",
        f"--metrics-port={ports.metrics}",
        # A server that stays up after a failed load gives the reason in its repository index.
        "--exit-on-error=false",
        f"--exit-timeout-secs={exit_timeout_s}",
        # Two servers with one prefix would write into each other's regions.
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,shm-default-byte-size={SHM_DEFAULT_BYTES}",
        f"--backend-config=python,shm-growth-byte-size={SHM_GROWTH_BYTES}",
        *_chosen(config),
        *config.extra_args,
    ]


def _chosen(config: ServerConfig) -> list[str]:
    """Options for some settings and repositories only."""
    options = []
    if is_whole_export(config.model_repository):
        # To fill in what configs leave out, Triton runs every Python model once before it loads it. Exported configs
        # leave nothing out; without this a server starts in half the time.
        options.append("--disable-auto-complete-config")
    if config.model_config_name is not None:
        options.append(f"--model-config-name={config.model_config_name}")
    if config.response_cache_mb is not None:
        options.append(f"--cache-config=local,size={config.response_cache_mb * 1024 * 1024}")
    if config.admin_key is not None:
        restricted = f"{','.join(admin_key.PROTOCOLS)}:{admin_key.HEADER}={config.admin_key}"
        options += [f"--grpc-restricted-protocol={restricted}", f"--http-restricted-api={restricted}"]
    if config.traces is not None:
        settings = ("mode=opentelemetry", "level=TIMESTAMPS", f"rate={config.trace_rate}")
        collector = f"opentelemetry,url={config.traces.rstrip('/')}/v1/traces"
        options += [f"--trace-config={setting}" for setting in (*settings, collector)]
    if config.rate_limit_cores is not None:
        options += ["--rate-limit=execution_count", f"--rate-limit-resource={CORES_RESOURCE}:{config.rate_limit_cores}"]
    return options


def environment(server: EmbeddedServer, config: ServerConfig) -> dict[str, str]:
    """The caller's environment with what the server and its stubs need."""
    # Models have no use for the key, and what they run may show its environment.
    inherited = {name: value for name, value in os.environ.items() if name != admin_key.VARIABLE}
    return {
        **inherited,
        "PATH": _joined((server.python.parent,), inherited.get("PATH")),
        "LD_LIBRARY_PATH": _joined(server.library_path, inherited.get("LD_LIBRARY_PATH")),
        # For the stub of Python 3.10; newer ones read it from the environment that `distribution` lays out.
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        **({} if config.state is None else {ADDRESS_VARIABLE: "" if config.state == NO_STATE else config.state}),
        **config.environment,
    }


def _joined(first: tuple[Path, ...], inherited: str | None) -> str:
    return os.pathsep.join([*map(str, first), *([inherited] if inherited else [])])
