"""Runs requests through every model of two implementations and notes where they differ.

Ensembles are walked step by step, as the repository's manifest lists them. Both implementations are given the same
inputs for each model, those of the in-process pipeline, so that a difference is seen at the model where it arises and
at no later one; whole ensembles are compared as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ebbtide.export.inprocess import InProcessPipeline, tensors_of
from ebbtide.interest import contract, served_models
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_keys
from ebbtide.interest.served_models import Kind, Model
from ebbtide.v1 import RecommendRequest
from ebbtide.verify.cases import Case, Implementation, Ints, RefusedError, Tensors, read_cases
from ebbtide.verify.differences import Difference, Differences, Ranked, StageDifference, compare_outputs
from ebbtide.verify.errors import UnlikeCatalogError, VerifyError
from ebbtide.verify.filters import Filters
from ebbtide.verify.recorded import catalog_ids
from ebbtide.verify.server import Server
from ebbtide.verify.tolerances import Tolerances

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle

Progress = Callable[[int], None]
"""Called with the number of requests just compared."""

_LOCAL = "in process"
_REFUSAL = "refusal"
_BEST, _SEEN = 8, 4
_UNKNOWN_KEY = 5
"""Of no item."""


def compare_bundle(
    bundle: InterestBundle,
    pipeline: InProcessPipeline,
    requests: Iterable[RecommendRequest],
    *,
    tolerances: Tolerances | None = None,
    progress: Progress = lambda _done: None,
) -> list[StageDifference]:
    """The in-process pipeline against torch and the formulas in double precision.

    Args:
        bundle: That the export was made from.
        pipeline: One version of the repository.
        requests: Recorded or random. One that the export refuses, such as for an item that the catalog lacks, is not
            compared: torch knows no limits.
        tolerances: None takes those that the repository's manifest states of this version.
        progress: See `Progress`.

    Returns:
        The largest difference of every field, in the contract's order.

    Raises:
        UnlikeCatalogError: The bundle has other items, or they stand in another order.
        VerifyError: No request could be compared.
    """
    # Here, so that a server is compared where no torch is installed.
    from ebbtide.verify.torch_model import TorchModel

    item_ids = _require_same_catalog(bundle, pipeline)
    comparison = _Comparison(
        pipeline,
        TorchModel(bundle, Filters.read(pipeline.repository, pipeline.version)),
        item_ids,
        tolerances,
        other_is_expected=True,
    )
    return comparison.all(requests, progress)


def compare_server(
    pipeline: InProcessPipeline,
    address: str,
    requests: Iterable[RecommendRequest],
    *,
    models: Mapping[str, str] | None = None,
    tolerances: Tolerances | None = None,
    progress: Progress = lambda _done: None,
) -> list[StageDifference]:
    """A running Triton against the in-process pipeline of the same files.

    Args:
        pipeline: One version of the repository that the server reads; this version is asked for.
        address: Host and gRPC port of the server.
        requests: Recorded or random. Both must refuse the same ones, in the same words.
        models: Names under which models of the repository are loaded there, where they differ, such as those of the
            candidate ensembles of a deployment.
        tolerances: None takes those that the repository's manifest states of this version.
        progress: See `Progress`.

    Returns:
        The largest difference of every field, in the contract's order.

    Raises:
        ServerMismatchError: The server cannot be reached, or does not serve this export.
        VerifyError: No request could be compared.
    """
    with Server(address, pipeline.version, models) as server:
        server.require_export(pipeline.fingerprint)
        item_ids = catalog_ids(pipeline.repository, pipeline.version)
        comparison = _Comparison(pipeline, server, item_ids, tolerances, other_is_expected=False)
        return comparison.all(requests, progress)


def _require_same_catalog(bundle: InterestBundle, pipeline: InProcessPipeline) -> list[str]:
    item_ids = catalog_ids(pipeline.repository, pipeline.version)
    if item_ids != bundle.catalog.item_id:
        known = bundle.catalog.item_id
        first = next(
            (position for position, pair in enumerate(zip(item_ids, known, strict=False)) if pair[0] != pair[1]),
            min(len(known), len(item_ids)),
        )
        raise UnlikeCatalogError(
            f"bundle {bundle.fingerprint}: got a catalog of {len(known):,} items; expected the {len(item_ids):,} of "
            f"the repository, in their order (they differ from item {first} on): give the bundle that version "
            f"{pipeline.version} was exported from"
        )
    return item_ids


class _Comparison:
    """The in-process pipeline and another implementation, request by request."""

    def __init__(
        self,
        pipeline: InProcessPipeline,
        other: Implementation,
        item_ids: list[str],
        tolerances: Tolerances | None,
        *,
        other_is_expected: bool,
    ) -> None:
        if tolerances is None:
            tolerances = Tolerances.read(pipeline.repository, pipeline.version)
        self._pipeline = pipeline
        self._other = other
        self._catalog = dict(zip(item_ids, range(len(item_ids)), strict=True))
        self._encoder_is_rounded = tolerances.encoder_is_rounded
        self._other_is_expected = other_is_expected
        names = (other.name, _LOCAL) if other_is_expected else (_LOCAL, other.name)
        self._found = Differences(", ".join(names), tolerances.by_field(pipeline.models.values()))
        self._done: dict[tuple[object, ...], Tensors] = {}
        """What the models gave for the request at hand, by model and inputs: ensembles share their first steps."""
        self._case: Case
        self._ensemble: Model

    def all(self, requests: Iterable[RecommendRequest], progress: Progress) -> list[StageDifference]:
        compared, refusal = 0, ""
        for case in read_cases(requests, time.time_ns() // 1_000_000):
            self._case = case
            self._done.clear()
            try:
                self._compare()
                compared += 1
            except RefusedError as error:
                refusal = refusal or f"request {case.number}: {error}"
                self._compare_refusal(error)
            progress(1)
        if not compared:
            raise VerifyError(f"requests: got none that the export serves; expected at least one. {refusal}")
        return self._found.all()

    def _compare(self) -> None:
        """All ensembles that take the request.

        Raises:
            RefusedError: The in-process pipeline refuses it.
        """
        ranked: list[str] = []
        for ensemble in self._ensembles():
            self._ensemble = ensemble
            outputs = self._compare_ensemble(ensemble, self._inputs(ensemble, self._candidates(ranked)))
            if contract.ITEM_ID.name in outputs:
                ranked = ranked or Ranked.read(outputs).item_id

    def _ensembles(self) -> Iterator[Model]:
        """Those that answer a request with, or without, texts; those that score candidates come last.

        Those that need a store are compared by `ebbtide.verify.states`.
        """
        found = [
            model
            for model in self._pipeline.models.values()
            if model.kind is Kind.ENSEMBLE
            and (contract.TEXT.name in _inputs(model)) == bool(self._case.texts)
            and not self._pipeline.needs_store(model)
        ]
        return iter(sorted(found, key=lambda model: contract.CANDIDATE_ITEM.name in _inputs(model)))

    def _candidates(self, ranked: list[str]) -> Ints:
        """Items to score: the best and the last of the answer, those of the events, and an unknown one."""
        best = item_keys([*ranked[:_BEST], *ranked[-1:]])
        some = np.concatenate([best, self._case.request.event_item[:_SEEN], [_UNKNOWN_KEY]])
        return some[: self._pipeline.limits.max_candidates]

    def _inputs(self, ensemble: Model, candidates: Ints) -> dict[str, npt.NDArray[Any]]:
        inputs = dict(tensors_of(self._case.request, ensemble))
        inputs[contract.CANDIDATE_ITEM.name] = candidates[None]
        if self._case.texts:
            inputs[contract.TEXT.name] = np.array(self._case.texts, dtype=np.object_)
        return {name: value for name, value in inputs.items() if name in _inputs(ensemble)}

    def _compare_ensemble(self, ensemble: Model, inputs: dict[str, npt.NDArray[Any]]) -> Tensors:
        """Every step, and the whole; returns the in-process outputs."""
        values = dict(inputs)
        for name in ensemble.steps:
            step = self._pipeline.models[name]
            # As the ensemble asks: a cached answer holds no other outputs.
            step = replace(step, outputs=served_models.read_outputs(ensemble, step, self._pipeline.models))
            values.update(self._compare_step(step, {key: values[key] for key in _inputs(step) if key in values}))
        outputs = {tensor.name: values[tensor.name] for tensor in ensemble.outputs}
        vectors = contract.TEXT_VECTOR.name
        if self._encoder_is_rounded and vectors in values and vectors not in outputs:
            # The encoder's rounding is judged at the encoder, by its own tolerance. Both then go on from the vectors of
            # the implementation that is checked, so that scores are compared as strictly as any.
            inputs = {**inputs, vectors: values[vectors]}
        self._compare_with_other(ensemble, inputs, outputs)
        return outputs

    def _compare_step(self, model: Model, inputs: Tensors) -> Tensors:
        """One model; returns its outputs in process, or the other's event vectors where the encoder is rounded."""
        key = (model, *((name, array.shape, _content(array)) for name, array in inputs.items()))
        if key not in self._done:
            outputs = self._pipeline.run(model.name, inputs)
            if isinstance(outputs, RequestError):
                raise RefusedError(str(outputs))
            outputs = {tensor.name: outputs[tensor.name] for tensor in model.outputs}
            others = self._compare_with_other(model, inputs, outputs)
            vectors = contract.TEXT_VECTOR.name
            if self._encoder_is_rounded and not self._other_is_expected and vectors in outputs:
                outputs = {**outputs, vectors: others.get(vectors, outputs[vectors])}
            self._done[key] = outputs
        return self._done[key]

    def _compare_with_other(self, model: Model, inputs: Tensors, local: Tensors) -> Tensors:
        """Notes the differences of one model, and returns what the other gave."""
        try:
            other = self._other.run(self._case, model, inputs)
        except RefusedError as error:
            self._add(
                model, _REFUSAL, Difference(np.inf, detail=f"{self._other.name} refuses what {_LOCAL} serves: {error}")
            )
            return {}
        if other is None:
            return {}
        got, expected = (local, other) if self._other_is_expected else (other, local)
        for field, difference in compare_outputs(got, expected, self._catalog):
            self._add(model, field, difference)
        return other

    def _compare_refusal(self, local: RefusedError) -> None:
        """A request that the in-process pipeline refuses: a server must refuse it in the same words."""
        # Torch checks no request.
        if not isinstance(self._other, Server):
            return
        inputs = self._inputs(self._ensemble, self._candidates([]))
        try:
            self._other.run(self._case, self._ensemble, inputs)
            difference = Difference(np.inf, detail=f"{self._other.name} serves it; {_LOCAL}: {local}")
        except RefusedError as error:
            alike = str(error) == str(local)
            difference = Difference(0.0) if alike else Difference(np.inf, detail=f"got {error}; expected {local}")
        self._add(self._ensemble, _REFUSAL, difference)

    def _add(self, model: Model, field: str, difference: Difference) -> None:
        self._found.add(model.name, field, difference, self._case.number, self._ensemble.name)


def _inputs(model: Model) -> list[str]:
    return [tensor.name for tensor in model.inputs]


def _content(array: npt.NDArray[Any]) -> object:
    return tuple(array.ravel().tolist()) if array.dtype == np.object_ else array.tobytes()
