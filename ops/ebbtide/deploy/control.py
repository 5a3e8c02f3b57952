"""Loads and unloads models of a running Triton (explicit model control) and tells what it serves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from google.protobuf import json_format
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ebbtide.deploy.errors import LoadRefusedError, ModelControlError
from ebbtide.interest import admin_key, contract, served_models, triton_texts

_ASK_TIMEOUT_S = 10.0


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
        self._loading = {"headers": self._headers, "client_timeout": load_timeout_s}
        self._triton = InferenceServerClient(address)

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
        (version,) = config.version_policy.specific.versions
        text = json_format.MessageToJson(config, preserving_proto_field_name=True)
        with self._told(f"loading {config.name}", LoadRefusedError):
            # An ensemble needs a version folder, and the protocol has no empty ones.
            files = {f"file:{version}/.keep": b"\n"}
            self._triton.load_model(config.name, config=text, files=files, **self._loading)

    def unload(self, name: str) -> None:
        """Unloads a model.

        Raises:
            ModelControlError: The server does not let models be unloaded.
        """
        with self._told(f"unloading {name}"):
            self._triton.unload_model(name, **self._loading)

    def loaded_models(self) -> set[str]:
        """The names of the models that are ready.

        Raises:
            ModelControlError: The server cannot be reached.
        """
        with self._told("asking for its models"):
            index = self._triton.get_model_repository_index(headers=self._headers, client_timeout=_ASK_TIMEOUT_S)
        return {str(model.name) for model in index.models if model.state == "READY"}

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

    @contextlib.contextmanager
    def _told(self, doing: str, refusal: type[Exception] = ModelControlError) -> Iterator[None]:
        try:
            yield
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
                    f"{self.address}: {doing}: got no answer ({said}); expected Triton's gRPC port, 8001 unless set"
                ) from failure
            raise refusal(f"{self.address}: {doing}: {said}") from failure
