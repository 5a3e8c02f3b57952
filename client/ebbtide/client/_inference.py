"""Inference of one model: its contract and limits are checked first, then it is asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from ebbtide.client._contract_check import check_inputs, check_model
from ebbtide.client._failures import Asked
from ebbtide.client._fields import caller_error
from ebbtide.client._retry import Deadline
from ebbtide.client._served import UNKNOWN, Served, check_limits, nearest_values, output_shapes, served
from ebbtide.client._shared_memory import Region, Regions, is_lost
from ebbtide.client._steps import Caller, Question, Steps, T
from ebbtide.client._triton import MODEL_CONFIG, Untyped, infer_request, read_outputs
from ebbtide.client.codec import Arrays, EncodedRequest
from ebbtide.client.config import ClientConfig
from ebbtide.client.errors import EbbtideError, InvalidArgumentError, PermissionDeniedError, Status
from ebbtide.client.hooks import Call
from ebbtide.interest import served_models
from ebbtide.interest.errors import RequestError

logger = logging.getLogger("ebbtide.client")

Read = Callable[[Arrays, str], T]
"""Turns output tensors, and the version of the model that gave them, into an answer."""

_DATATYPES = {
    model.name: {tensor.name: tensor.dtype.value for tensor in model.inputs} for model in served_models.MODELS.values()
}


@dataclass(frozen=True)
class _Asked(Generic[T]):
    """The arguments of `Inference.infer`, and the model's configuration."""

    method: str
    encoded: EncodedRequest
    known: Served
    read: Read[T]
    deadline: Deadline
    metadata: Mapping[str, str] | None
    request: Asked


class Inference:
    """Sends inference requests to the models of one server, and remembers the configuration of each model."""

    def __init__(self, config: ClientConfig, caller: Caller, target: str) -> None:
        """Makes the one of a client.

        Args:
            config: The client's.
            caller: Asks the server.
            target: Where the server is, for errors.
        """
        self._config = config
        self._caller = caller
        self._target = target
        self._regions = Regions(caller, target) if config.shared_memory else None
        self._served: dict[str, Served] = {}
        self._versions: dict[str, set[str]] = {}

    def infer(
        self,
        method: str,
        encoded: EncodedRequest,
        read: Read[T],
        deadline: Deadline,
        metadata: Mapping[str, str] | None,
        request: Asked,
    ) -> Steps[T]:
        """Asks a model.

        Args:
            method: The client's method, for hooks.
            encoded: What to send.
            read: Turns the output tensors into the answer.
            deadline: When the whole call ends.
            metadata: Sent with this call.
            request: The caller's request, so that errors name fields as the caller wrote them; of several users, one
                for each row.
        """
        model_name = encoded.model_name
        known = yield from self.prepare(model_name, deadline, metadata)
        try:
            check_limits(encoded, known.limits)
        except RequestError as error:
            raise caller_error(error, None if isinstance(request, Sequence) else request) from error
        check_inputs(encoded, known, self._target)

        asked = _Asked(method, encoded, known, read, deadline, metadata, request)
        if self._regions is None:
            return (yield from self._ask(asked, None))
        region = yield from self._regions.take(deadline, metadata)
        try:
            return (yield from self._ask(asked, region))
        except EbbtideError as error:
            if region is None:
                raise
            if not is_lost(error):
                region.is_done = error.status is Status.INVALID_ARGUMENT and error.attempts == 1
                raise
            self._regions.forget()
        finally:
            self._regions.give_back(region)
        return (yield from self._ask(asked, None))

    def release(self) -> Steps[None]:
        """Makes the server release the shared memory of this client."""
        if self._regions is not None:
            yield from self._regions.close()

    def _ask(self, asked: _Asked[T], region: Region | None) -> Steps[T]:
        """Asks a model, with its tensors in shared memory if there is a region and they fit."""
        encoded, model_name = asked.encoded, asked.encoded.model_name
        asked_name = model_name + self._config.model_suffix
        message = None
        if region is not None:
            outputs = output_shapes(asked.known, served_models.MODELS[model_name], encoded)
            message = region.request(asked_name, encoded.tensors, _DATATYPES[model_name], outputs)
        if message is None:
            region = None
            message = infer_request(asked_name, encoded.tensors, _DATATYPES[model_name])

        def read_answer(reply: Untyped, call: Call) -> T:
            outputs, call.model_version = read_outputs(reply) if region is None else region.read_outputs(reply, call)
            self._note_version(model_name, call.model_version)
            return asked.read(outputs, call.model_version)

        question = Question(
            asked.method,
            "ModelInfer",
            message,
            read_answer,
            asked_name,
            asked.request,
            compression=self._config.compression,
        )
        try:
            return (yield from self._caller.ask(question, asked.deadline, asked.metadata))
        except InvalidArgumentError as error:
            nearest = nearest_values(error, getattr(asked.request, "allow", ()), asked.known)
            if nearest is not None:
                error.expect(nearest)
            raise

    def prepare(self, model_name: str, deadline: Deadline, metadata: Mapping[str, str] | None = None) -> Steps[Served]:
        """The limits and shapes of a model; the server is asked once, and again after another version answered.

        Raises:
            VersionMismatchError: The model has other tensors, or is of another export.
        """
        known = self._served.get(model_name)
        if known is not None:
            return known
        if not self._config.check_contract:
            return UNKNOWN
        try:
            config = yield from self.model_config(
                "check_contract", model_name + self._config.model_suffix, deadline, metadata
            )
        except EbbtideError as error:
            hidden = isinstance(error, PermissionDeniedError) or error.status is Status.UNIMPLEMENTED
            if not hidden or self._config.expected_fingerprint is not None:
                raise
            logger.warning(
                "%s: the contract of the model is not checked, because the server does not give its configuration",
                error,
            )
            known = UNKNOWN
        else:
            check_model(config, served_models.MODELS[model_name], self._config.expected_fingerprint, self._target)
            known = served(config)
        self._served[model_name] = known
        return known

    def model_config(
        self, method: str, model_name: str, deadline: Deadline, metadata: Mapping[str, str] | None = None
    ) -> Steps[Untyped]:
        """The ``ModelConfig`` of a model."""
        message = MODEL_CONFIG(name=model_name)
        question = Question(method, "ModelConfig", message, lambda reply, _: reply.config, model_name)
        return (yield from self._caller.ask(question, deadline, metadata))

    def _note_version(self, model_name: str, version: str) -> None:
        """Makes the next call check the model again after another version answered: a deployment may have switched."""
        known = self._versions.setdefault(model_name, {version})
        if version not in known:
            known.add(version)
            self._served.pop(model_name, None)
