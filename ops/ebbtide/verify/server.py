"""A running Triton: every model of the repository called by itself, with plain `tritonclient`."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from ebbtide.interest import contract, served_models
from ebbtide.interest.errors import RequestError
from ebbtide.interest.served_models import Model
from ebbtide.verify.cases import Case, RefusedError, Tensors
from ebbtide.verify.errors import ServerMismatchError

_TIMEOUT_S = 60.0
_REFUSALS = ("INVALID_ARGUMENT", "INTERNAL", "UNKNOWN")
"""Answers of a model that was reached; with any other status nothing can be compared."""


class Server:
    """One version of an export on one server."""

    name = "Triton"

    def __init__(self, address: str, version: int, models: Mapping[str, str] | None = None) -> None:
        """Prepares a connection.

        Args:
            address: Host and gRPC port.
            version: Of every model.
            models: Other names under which models of the repository are loaded.
        """
        self.address = address
        self._version = str(version)
        self._models = models or {}
        self._triton = InferenceServerClient(address)

    def require_export(self, fingerprint: str) -> None:
        """Passes a server whose `recommend` is of this export.

        Raises:
            ServerMismatchError: It is of another one, or cannot be reached.
        """
        name = self._name(served_models.RECOMMEND)
        try:
            config = self._triton.get_model_config(name, self._version, client_timeout=_TIMEOUT_S).config
        except InferenceServerException as failure:
            raise self._unlike(name, failure) from failure
        found = config.parameters[contract.FINGERPRINT_PARAMETER].string_value
        if found != fingerprint:
            raise ServerMismatchError(
                f"{self.address}: {name}, version {self._version}: got export {found or 'none'}; expected "
                f"{fingerprint}, that of the repository: give the one that this server reads, or restart the server"
            )

    def run(self, case: Case, model: Model, tensors: Tensors) -> Tensors:  # noqa: ARG002 - the tensors say it all
        """All outputs of a model; see `Implementation.run`."""
        return self.infer(model, tensors)

    def infer(self, model: Model, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        """All outputs of a model.

        Raises:
            RefusedError: The model refuses them.
            ServerMismatchError: The server cannot be reached, or does not serve the model.
        """
        if contract.AS_EXPORTED.name in {tensor.name for tensor in model.inputs}:
            # A server that others use may know newer events than the files.
            rows = next(iter(tensors.values())).shape[:1] if model.batching else ()
            tensors = {**tensors, contract.AS_EXPORTED.name: np.ones((*rows, 1), dtype=np.bool_)}
        inputs = []
        for tensor in model.inputs:
            if tensor.name in tensors:
                entry = InferInput(tensor.name, tensors[tensor.name].shape, tensor.dtype.value)
                entry.set_data_from_numpy(tensors[tensor.name])
                inputs.append(entry)
        name = self._name(model)
        try:
            result = self._triton.infer(
                name,
                inputs,
                model_version=self._version,
                outputs=[InferRequestedOutput(tensor.name) for tensor in model.outputs],
                client_timeout=_TIMEOUT_S,
            )
        except InferenceServerException as failure:
            if str(failure.status()).removeprefix("StatusCode.") not in _REFUSALS:
                raise self._unlike(name, failure) from failure
            said = failure.message() or "refused without a reason"
            known = RequestError.parse(said)
            raise RefusedError(str(known) if known else said) from failure
        missing = [tensor.name for tensor in model.outputs if result.as_numpy(tensor.name) is None]
        if missing:
            raise RefusedError(f"{name}: no output {', '.join(missing)}")
        return _as_exported({tensor.name: result.as_numpy(tensor.name) for tensor in model.outputs})

    def close(self) -> None:
        """Closes the connection."""
        self._triton.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _name(self, model: Model) -> str:
        return self._models.get(model.name, model.name)

    def _unlike(self, name: str, failure: InferenceServerException) -> ServerMismatchError:
        return ServerMismatchError(
            f"{self.address}: {name}, version {self._version}: got {failure.message() or failure.status()}; expected a "
            "server that serves this version at Triton's gRPC port (8001 unless set)"
        )


def _as_exported(outputs: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The outputs without the items that were added to the server: those that a request leaves out keep a position."""
    score = outputs.get(contract.NEW_ITEM_SCORE.name)
    if score is None:
        return outputs
    named = ~np.isneginf(score).all(axis=0)
    new_items = (contract.NEW_ITEM_ID.name, contract.NEW_ITEM_SCORE.name)
    return {name: array[:, named] if name in new_items else array for name, array in outputs.items()}
