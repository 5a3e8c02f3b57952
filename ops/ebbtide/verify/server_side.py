"""A running Triton as a side: every model of the repository called by itself, with plain `tritonclient`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from ebbtide.interest import contract
from ebbtide.interest.contract import Model
from ebbtide.interest.errors import RequestError
from ebbtide.verify.asked import (
    Answered,
    Asked,
    Floats,
    Ints,
    Outputs,
    RefusedError,
    Tokens,
    Weights,
    by_item,
    without_rows,
)
from ebbtide.verify.differences import Place, Ranked, compare_ranked
from ebbtide.verify.errors import ServerMismatchError

Arrays = Mapping[str, npt.NDArray[Any]]

_TIMEOUT_S = 60.0
_REFUSALS = ("INVALID_ARGUMENT", "INTERNAL", "UNKNOWN")
"""Answers of a model that was reached; with any other status nothing can be compared."""


class ServerSide:
    """One version of an export on one server."""

    name = "Triton"

    def __init__(self, address: str, version: int, models: Mapping[str, str] | None = None) -> None:
        """Prepares a connection.

        Args:
            address: Host and gRPC port.
            version: Of every model.
            models: Other names under which models of the contract are loaded.
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
        name = self._name(contract.RECOMMEND)
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

    def tokens(self, texts: tuple[bytes, ...]) -> Tokens:
        """From the model `tokenizer`."""
        found = self._infer(contract.TOKENIZER, {contract.TEXT.name: np.array(texts, dtype=np.object_)})
        return Tokens(found[contract.INPUT_IDS.name], found[contract.ATTENTION_MASK.name])

    def vectors(self, tokens: Tokens) -> Floats:
        """From the model `encoder`."""
        feeds = {contract.INPUT_IDS.name: tokens.input_ids, contract.ATTENTION_MASK.name: tokens.attention_mask}
        return self._infer(contract.ENCODER, feeds)[contract.TEXT_VECTOR.name]

    def embed(self, texts: tuple[bytes, ...]) -> Floats:
        """From the ensemble `embed`."""
        feeds = {contract.TEXT.name: np.array(texts, dtype=np.object_)}
        return self._infer(contract.EMBED, feeds)[contract.TEXT_VECTOR.name]

    def weights(self, asked: Asked, vectors: Floats | None) -> Weights:
        """From `adaptive_weights`, or its twin for requests with texts."""
        model = asked.weights_model
        found = self._infer(model, _tensors(asked, model, {contract.TEXT_VECTOR.name: vectors}))
        adjust_item, adjust_score = found[contract.ADJUST_ITEM.name][0], found[contract.ADJUST_SCORE.name][0]
        return Weights(
            found[contract.INTEREST.name][0],
            by_item(adjust_item, adjust_score),
            *_scalars(found),
            found[contract.ITEM_FILTER.name][0],
            adjust_item,
            adjust_score,
        )

    def compare_head(self, asked: Asked, weights: Weights, local: Ranked) -> Place:  # noqa: ARG002 - the weights hold its filter
        """The ranking of `scoring_head` against that of the in-process one."""
        values = (weights.interest, weights.adjust_item, weights.adjust_score, weights.item_filter)
        inputs = zip(contract.SCORING_HEAD.inputs, values, strict=True)
        found = self._infer(contract.SCORING_HEAD, {tensor.name: np.asarray(value)[None] for tensor, value in inputs})
        return compare_ranked(_ranked(found), local)

    def candidate_scores(self, weights: Weights, candidates: Ints) -> npt.NDArray[Any]:
        """From the model `candidate_head`."""
        values = (weights.interest, weights.adjust_item, weights.adjust_score, candidates)
        inputs = zip(contract.CANDIDATE_HEAD.inputs, values, strict=True)
        found = self._infer(contract.CANDIDATE_HEAD, {tensor.name: np.asarray(value)[None] for tensor, value in inputs})
        scores: Floats = found[contract.CANDIDATE_SCORE.name][0]
        return scores

    def rank(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:  # noqa: ARG002 - the ensemble embeds the texts itself
        """From the ensemble that a client would call."""
        return self._of_candidates(asked.rank_model, asked, candidates)

    def explain(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """From the model `explainer`."""
        given = {contract.TEXT_VECTOR.name: vectors, contract.CANDIDATE_ITEM.name: candidates[None]}
        found = self._infer(contract.EXPLAINER, _tensors(asked, contract.EXPLAINER, given))
        return without_rows(contract.EXPLAINER, found)

    def answer_explanation(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:  # noqa: ARG002 - as above
        """From the ensemble that a client would call."""
        return self._of_candidates(asked.explain_model, asked, candidates)

    def compare_answer(
        self,
        asked: Asked,
        vectors: Floats | None,  # noqa: ARG002 - the ensemble embeds the texts itself
        local: Answered,
    ) -> tuple[Place, float, tuple[int, ...]]:
        """The answer of the ensemble that a client would call against the in-process one."""
        found = self.recommend(asked)
        return compare_ranked(found.ranked, local.ranked), found.alpha_used, found.event_counts

    def recommend(self, asked: Asked) -> Answered:
        """From the ensemble that a client would call."""
        texts = np.array(asked.texts, dtype=np.object_) if asked.texts else None
        found = self._infer(asked.ensemble, _tensors(asked, asked.ensemble, {contract.TEXT.name: texts}))
        return Answered(_ranked(found), *_scalars(found))

    def _of_candidates(self, model: Model, asked: Asked, candidates: Ints) -> Outputs:
        texts = np.array(asked.texts, dtype=np.object_) if asked.texts else None
        # What has a row for the user has it in models that do not batch as well.
        row = candidates if model.batching else candidates[None]
        given = {contract.TEXT.name: texts, contract.CANDIDATE_ITEM.name: row}
        return without_rows(model, self._infer(model, _tensors(asked, model, given)))

    def close(self) -> None:
        """Closes the connection."""
        self._triton.close()

    def __enter__(self) -> ServerSide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _name(self, model: Model) -> str:
        return self._models.get(model.name, model.name)

    def _infer(self, model: Model, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        inputs = []
        for tensor in model.inputs:
            if tensor.name in arrays:
                entry = InferInput(tensor.name, arrays[tensor.name].shape, tensor.dtype.value)
                entry.set_data_from_numpy(arrays[tensor.name])
                inputs.append(entry)
        name = self._name(model)
        try:
            result = self._triton.infer(name, inputs, model_version=self._version, client_timeout=_TIMEOUT_S)
        except InferenceServerException as failure:
            if str(failure.status()).removeprefix("StatusCode.") not in _REFUSALS:
                raise self._unlike(name, failure) from failure
            said = failure.message() or "refused without a reason"
            known = RequestError.parse(said)
            raise RefusedError(str(known) if known else said) from failure
        missing = [tensor.name for tensor in model.outputs if result.as_numpy(tensor.name) is None]
        if missing:
            raise RefusedError(f"{name}: no output {', '.join(missing)}")
        return {tensor.name: result.as_numpy(tensor.name) for tensor in model.outputs}

    def _unlike(self, name: str, failure: InferenceServerException) -> ServerMismatchError:
        return ServerMismatchError(
            f"{self.address}: {name}, version {self._version}: got {failure.message() or failure.status()}; expected a "
            "server that serves this version at Triton's gRPC port (8001 unless set)"
        )


def _tensors(asked: Asked, model: Model, others: Mapping[str, npt.NDArray[Any] | None]) -> Arrays:
    """The request's tensors that are not missing, with a batch dimension of 1 where the model batches."""
    values: dict[str, npt.NDArray[Any] | None] = {
        field.name: getattr(asked.request, field.name) for field in fields(asked.request)
    }
    given = {name: value for name, value in {**values, **others}.items() if value is not None}
    return {name: value[None] for name, value in given.items()} if model.batching else given


def _scalars(found: Arrays) -> tuple[float, tuple[int, ...]]:
    alpha, counts = found[contract.ALPHA_USED.name].ravel(), found[contract.EVENT_COUNTS.name].ravel()
    return float(alpha[0]), tuple(counts.tolist())


def _ranked(found: Arrays) -> Ranked:
    item_id, score = found[contract.ITEM_ID.name], found[contract.SCORE.name]
    return Ranked([item.decode() for item in item_id.ravel()], score.ravel())
