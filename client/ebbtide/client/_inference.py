"""Inference of one model: its contract and limits are checked first, then it is asked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from ebbtide.client._contract_check import check_model
from ebbtide.client._failures import Asked
from ebbtide.client._fields import caller_error
from ebbtide.client._retry import Deadline
from ebbtide.client._served import UNKNOWN, Served, check_limits, served
from ebbtide.client._steps import Caller, Question, Steps, T
from ebbtide.client._triton import Untyped, infer_inputs, read_outputs
from ebbtide.client.codec import Arrays, EncodedRequest
from ebbtide.client.config import ClientConfig
from ebbtide.client.errors import EbbtideError, PermissionDeniedError, Status
from ebbtide.client.hooks import Call
from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError

logger = logging.getLogger("ebbtide.client")

Read = Callable[[Arrays, str], T]
"""Turns output tensors, and the version of the model that gave them, into an answer."""

_DATATYPES = {
    model.name: {tensor.name: tensor.dtype.value for tensor in model.inputs} for model in contract.MODELS.values()
}


class Inference:
    """Asks the models of one server, and remembers what it told of each."""

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
        self._compression = None if config.compression == "none" else config.compression
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
            request: As the caller gave it, so that a bad field is named in the caller's terms; of several people, one
                for each row.
        """
        model_name = encoded.model_name
        known = yield from self.prepare(model_name, deadline, metadata)
        try:
            check_limits(encoded, known.limits)
        except RequestError as error:
            raise caller_error(error, None if isinstance(request, Sequence) else request) from error

        def read_answer(reply: Untyped, call: Call) -> T:
            outputs, call.model_version = read_outputs(reply)
            self._note_version(model_name, call.model_version)
            return read(outputs, call.model_version)

        arguments = {
            "model_name": model_name,
            "inputs": infer_inputs(encoded.tensors, _DATATYPES[model_name]),
            "compression_algorithm": self._compression,
        }
        question = Question(method, "infer", arguments, read_answer, model_name, request)
        return (yield from self._caller.ask(question, deadline, metadata))

    def prepare(self, model_name: str, deadline: Deadline, metadata: Mapping[str, str] | None = None) -> Steps[Served]:
        """What the server tells of a model, which is asked for once, and again when another version answers.

        Raises:
            VersionMismatchError: The model is not one that this client speaks to.
        """
        known = self._served.get(model_name)
        if known is not None:
            return known
        if not self._config.check_contract:
            return UNKNOWN
        try:
            config = yield from self.model_config("check_contract", model_name, deadline, metadata)
        except EbbtideError as error:
            hidden = isinstance(error, PermissionDeniedError) or error.status is Status.UNIMPLEMENTED
            if not hidden or self._config.expected_fingerprint is not None:
                raise
            logger.warning("%s: the model's contract is not checked, since the server does not tell it", error)
            known = UNKNOWN
        else:
            check_model(config, contract.MODELS[model_name], self._config.expected_fingerprint, self._target)
            known = served(config)
        self._served[model_name] = known
        return known

    def model_config(
        self, method: str, model_name: str, deadline: Deadline, metadata: Mapping[str, str] | None = None
    ) -> Steps[Untyped]:
        """The ``ModelConfig`` of a model."""
        arguments = {"model_name": model_name}
        question = Question(method, "get_model_config", arguments, lambda reply, _: reply.config, model_name)
        return (yield from self._caller.ask(question, deadline, metadata))

    def _note_version(self, model_name: str, version: str) -> None:
        """Has the model checked again once another version of it answered: a deployment may have switched."""
        known = self._versions.setdefault(model_name, {version})
        if version not in known:
            known.add(version)
            self._served.pop(model_name, None)
