"""Loads and unloads models of a running Triton (explicit model control) and tells what it serves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import InferenceServerClient, model_config_pb2
from tritonclient.utils import InferenceServerException

from ebbtide.deploy.errors import LoadRefusedError, ModelControlError
from ebbtide.interest import admin_key, contract, served_models, triton_texts

_ASK_TIMEOUT_S = 10.0
LOADED_TOGETHER = "models_loaded_together"
"""The ensemble that has all models as its steps; see `ModelControl.load_together`."""
_NO_MODEL = "no_model_has_this_name"


@dataclass(frozen=True)
class Served:
    """What an ensemble of the server answers with."""

    version: int
    fingerprint: str


class ModelControl:
    """The model control of one server; close it, or use it as a context manager."""

    def __init__(self, address: str, load_timeout_s: float = 300.0, *, key: str | None = None) -> None:
        """Prepares a connection.

        Args:
            address: Host and gRPC port.
            load_timeout_s: How long one model may take to load, seconds.
            key: Of the server's administration; None for a server that asks for none.
        """
        self.address = address
        self._headers = {} if key is None else {admin_key.GRPC_HEADER: key}
        self._load_timeout_s = load_timeout_s
        self._loading = {"headers": self._headers, "client_timeout": load_timeout_s}
        self._triton = InferenceServerClient(address)
        self._has_answered = False

    def served(self, ensemble: str = served_models.RECOMMEND.name) -> Served:
        """The version and the id that an ensemble answers with.

        Raises:
            ModelControlError: The server cannot be reached, or does not serve it.
        """
        with self._told(f"asking for {ensemble}"):
            config = self._triton.get_model_config(ensemble, client_timeout=_ASK_TIMEOUT_S).config
        versions = {step.model_version for step in config.ensemble_scheduling.step}
        fingerprint = config.parameters[contract.FINGERPRINT_PARAMETER].string_value
        return Served(int(versions.pop()) if len(versions) == 1 else 0, str(fingerprint))

    def server_version(self) -> str:
        """Triton's version.

        Raises:
            ModelControlError: The server cannot be reached.
        """
        with self._told("asking for its version"):
            return str(self._triton.get_server_metadata(client_timeout=_ASK_TIMEOUT_S).version)

    def load(self, name: str) -> None:
        """Loads a model as its folder says now; versions that stay are not touched, and go on answering.

        Raises:
            LoadRefusedError: The server refused it; what was loaded before stays.
            ModelControlError: The server does not let models be loaded.
        """
        with self._told(f"loading {name}", LoadRefusedError):
            self._triton.load_model(name, **self._loading)

    def load_as(self, config: Any) -> None:  # noqa: ANN401 - tritonclient carries no types
        """Loads a model with another configuration than its folder has; its files stay those of the folder.

        Args:
            config: Triton's `ModelConfig` of it, whole.

        Raises:
            LoadRefusedError: The server refused it; what was loaded before stays.
            ModelControlError: The server does not let models be loaded.
        """
        text = json_format.MessageToJson(config, preserving_proto_field_name=True)
        with self._told(f"loading {config.name}", LoadRefusedError):
            self._triton.load_model(config.name, config=text, **self._loading)

    def load_ensemble(self, config: Any) -> None:  # noqa: ANN401 - tritonclient carries no types
        """Loads an ensemble that the repository does not hold, under the name that its configuration gives.

        Raises:
            LoadRefusedError: The server refused it.
            ModelControlError: The server does not let models be loaded.
        """
        self._load_ensemble(config, self._load_timeout_s)

    def load_together(self, configs: Sequence[Any]) -> None:
        """Loads models, and the models they are made of, as their folders say now, all in one call.

        Versions that stay are not touched. Triton 2.51 loads every ensemble anew for each model of it that it loads,
        and then again with each call until the ensemble itself is part of one. On a busy machine about one such load in
        2,000 ends Triton: a thread that is done with an old ensemble forgets it by its address in memory, which a new
        one may have by then. So this asks for all of them at once, as the steps of an ensemble that stays loaded.

        Args:
            configs: Triton's `ModelConfig` of each.

        Raises:
            LoadRefusedError: The server refused one of them, and does not say which.
            ModelControlError: The server does not let models be loaded.
        """
        self._load_ensemble(_ensemble_of(configs), self._load_timeout_s * len(configs))

    def unload(self, name: str) -> None:
        """Unloads a model.

        Raises:
            ModelControlError: The server does not let models be unloaded.
        """
        with self._told(f"unloading {name}"):
            self._triton.unload_model(name, **self._loading)

    def is_ready(self, name: str) -> bool:
        """Whether a model answers; the index of the repository lists none that the folder does not have.

        Raises:
            ModelControlError: The server cannot be reached.
        """
        with self._told(f"asking for {name}"):
            return bool(self._triton.is_model_ready(name, client_timeout=_ASK_TIMEOUT_S))

    def require_loaded(self, configs: Sequence[Any]) -> None:
        """Passes a server on which all versions are ready that configs ask for.

        Args:
            configs: Triton's `ModelConfig` of each model.

        Raises:
            LoadRefusedError: With the server's words on the first version that is not.
            ModelControlError: The server cannot be reached.
        """
        with self._told("asking for its models"):
            index = self._triton.get_model_repository_index(headers=self._headers, client_timeout=_ASK_TIMEOUT_S)
        found = {(str(model.name), int(model.version or 0)): model for model in index.models}
        for config in configs:
            for version in config.version_policy.specific.versions:
                model = found.get((config.name, version))
                if model is None:
                    # It was not even looked at; alone, the server says why.
                    self.load(config.name)
                elif model.state != "READY":
                    raise LoadRefusedError(
                        f"{self.address}: loading {config.name}: version {version} is {model.state}: {model.reason}"
                    )

    def require_control(self) -> None:
        """Passes a server that lets models be loaded; nothing changes.

        Raises:
            ModelControlError: It does not.
        """
        # There is no such model, and Triton says so only where it would load one.
        with contextlib.suppress(LoadRefusedError), self._told("model control", LoadRefusedError):
            self._triton.load_model(_NO_MODEL, **self._loading)

    def infer(self, name: str, inputs: list[Any], timeout_s: float) -> Any:  # noqa: ANN401 - tritonclient carries no types
        """The answer of a model.

        Raises:
            InferenceServerException: The server's refusal.
        """
        return self._triton.infer(name, inputs, client_timeout=timeout_s)

    def close(self) -> None:
        """Closes the connection."""
        self._triton.close()

    def __enter__(self) -> ModelControl:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _load_ensemble(self, config: Any, timeout_s: float) -> None:  # noqa: ANN401 - tritonclient carries no types
        (version,) = config.version_policy.specific.versions
        text = json_format.MessageToJson(config, preserving_proto_field_name=True)
        with self._told(f"loading {config.name}", LoadRefusedError):
            # An ensemble needs a version folder, and the protocol has no empty ones.
            files = {f"file:{version}/.keep": b"\n"}
            self._triton.load_model(
                config.name, config=text, files=files, headers=self._headers, client_timeout=timeout_s
            )

    @contextlib.contextmanager
    def _told(self, doing: str, refusal: type[Exception] = ModelControlError) -> Iterator[None]:
        try:
            yield
            self._has_answered = True
        except InferenceServerException as failure:
            said = failure.message() or "no reason given"
            if triton_texts.PROTOCOL_RESTRICTED in said:
                raise ModelControlError(
                    f"{self.address}: {doing}: got a server that wants the key to its administration, which was not "
                    "given or is another one; expected the key that `ebbtide serve` keeps in REPOSITORY.admin-key: run "
                    f"this where it can be read, or give it with --admin-key-file or {admin_key.VARIABLE}"
                ) from failure
            if triton_texts.MODEL_CONTROL_OFF in said:
                raise ModelControlError(
                    f"{self.address}: {doing}: got a server that does not let models be loaded; expected one under "
                    "explicit model control: start it with `ebbtide serve --allow-deploy`, or tritonserver with "
                    "--model-control-mode=explicit --load-model=*"
                ) from failure
            status = str(failure.status())
            if ("UNAVAILABLE" in status and triton_texts.NOT_CONNECTED in said) or "DEADLINE" in status:
                raise ModelControlError(
                    f"{self.address}: {doing}: got no answer ({said}); "
                    + (
                        "it answered before: its log says why it no longer does; a failing warm-up may end Triton 2.51"
                        if self._has_answered
                        else "expected Triton's gRPC port, 8001 unless set"
                    )
                ) from failure
            raise refusal(f"{self.address}: {doing}: {said}") from failure


def _ensemble_of(configs: Sequence[Any]) -> Any:  # noqa: ANN401 - tritonclient carries no types
    """An ensemble that nobody asks, with models as its steps: each has inputs of its own, and gives one output."""
    ensemble = model_config_pb2.ModelConfig(name=LOADED_TOGETHER, platform="ensemble")
    ensemble.version_policy.specific.versions.append(1)
    for config in configs:
        step = ensemble.ensemble_scheduling.step.add(model_name=config.name, model_version=-1)
        batch = [-1] if config.max_batch_size else []
        for tensor in config.input:
            name = step.input_map[tensor.name] = f"{config.name}.{tensor.name}"
            dims = [*batch, *tensor.dims]
            ensemble.input.add(name=name, data_type=tensor.data_type, dims=dims, optional=tensor.optional)
        output = config.output[0]
        name = step.output_map[output.name] = f"{config.name}.{output.name}"
        ensemble.output.add(name=name, data_type=output.data_type, dims=[*batch, *output.dims])
    return ensemble
