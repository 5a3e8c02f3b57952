"""Runs the exported models in this process, without Triton: NumPy for the interest, ONNX Runtime for the graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from ebbtide.export import versions
from ebbtide.export.errors import RepositoryError
from ebbtide.export.head.served import open_head
from ebbtide.export.manifest import read_models
from ebbtide.export.sources import load_source
from ebbtide.interest import contract, exported, served_models
from ebbtide.interest.checks import Request, RequestTensors
from ebbtide.interest.errors import RequestError
from ebbtide.interest.item_keeper import ItemKeeper
from ebbtide.interest.modelfile import MODEL_FILE
from ebbtide.interest.observer import Observer
from ebbtide.interest.pipeline import InterestPipeline, Records
from ebbtide.interest.served_models import Kind, Model
from ebbtide.interest.users import Answer as Found
from ebbtide.interest.users import Users
from ebbtide.store import StateStore

Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, npt.NDArray[Any]]
"""Tensors by name, in Triton's shapes: the leading axis is the request if the model batches."""
Run = Callable[[Tensors], Tensors | RequestError]


@dataclass(frozen=True)
class Answer:
    """The answer to one request, from the outputs of `recommend`."""

    item_id: list[str]
    """Ids of the recommended items, best first; the export's top N."""
    score: Floats
    """``[top N]``, scores of these items; minus infinity marks an excluded item."""
    alpha_used: float
    event_counts: tuple[int, int, int]
    """Number of events used as history, used as current session, and left out."""


class InProcessPipeline:
    """Runs the models of one exported version as Triton does; an ensemble runs step by step."""

    def __init__(
        self,
        repository: Path,
        version: int | None = None,
        store: StateStore | None = None,
        threads: int | None = None,
    ) -> None:
        """Reads one version of an exported repository; encoder and scoring head are loaded at first use.

        Args:
            repository: Folder written by `ebbtide export`.
            version: The version to read; None for the one that the ensembles answer with.
            store: Holds the states of users; None refuses requests that name one. The caller closes it.
            threads: Of each graph; None for those of its config.

        Raises:
            RepositoryError: A model is missing, is damaged or belongs to another export.
        """
        self.repository = repository
        self._threads = threads
        self.models = read_models(repository)
        self.version = versions.served_version(repository) if version is None else version
        self.fingerprint = versions.version_fingerprint(repository, self.version)
        folder = self.folder(served_models.ADAPTIVE_WEIGHTS.name)
        try:
            exported.require_one_export(repository, self.version, self.fingerprint)
            self.weights: InterestPipeline = exported.read_pipeline(folder)
            self.limits = self.weights.parameters.config.limits
        except (ValueError, KeyError, OSError) as error:
            raise RepositoryError(f"{repository}: damaged export: {error}") from error
        self.users = Users(store, self.weights.parameters.config.states)
        self._runs: dict[str, Run] = {}

    @cached_property
    def head(self) -> Any:  # noqa: ANN401 - onnxruntime carries no types
        """The scoring head's session; for a head with an index, an object with the same `run` method.

        Raises:
            RepositoryError: A file is damaged or belongs to another export.
        """
        model = self.models[served_models.SCORING_HEAD.name]
        if model.kind is Kind.ONNX:
            return self._session(model)
        folder = self.folder(model.name)
        try:
            return open_head(folder, self.fingerprint)
        except (ValueError, KeyError, OSError) as error:
            raise RepositoryError(f"{folder}: damaged export: {error}") from error

    @cached_property
    def encoder(self) -> Any:  # noqa: ANN401 - onnxruntime carries no types
        """The encoder's session."""
        return self._session(self.models[served_models.ENCODER.name])

    @cached_property
    def tokenizer(self) -> Any:  # noqa: ANN401 - loaded from the served model's source
        """The `TextTokens` of the served tokenizer."""
        name = served_models.TOKENIZER.name
        return load_source(name, "text_tokens").TextTokens(self.folder(name), self.limits)

    def run(self, name: str, tensors: Tensors) -> Tensors | RequestError:
        """The outputs of a model, or the request's error.

        Args:
            name: Name of the model; an ensemble runs its steps. A step whose outputs are given does not run: with
                `text_vector`, `recommend_text` needs neither `text` nor the encoder.
            tensors: The model's inputs; other tensors are ignored.
        """
        model = self.models[name]
        if model.kind is not Kind.ENSEMBLE:
            return self._run_one(model, tensors)
        steps = self.steps(model, tensors)
        known = {tensor.name for one in (model, *steps) for tensor in one.inputs}
        values = {name: value for name, value in tensors.items() if name in known}
        for step in steps:
            outputs = self._run_one(step, values)
            if isinstance(outputs, RequestError):
                return outputs
            values.update(outputs)
        return {tensor.name: values[tensor.name] for tensor in model.outputs}

    def needs_store(self, model: Model) -> bool:
        """Whether every request to a model, or to an ensemble, reads or writes the store of the users' states."""
        return any(self.models[name].needs_store for name in model.steps or (model.name,))

    def steps(self, ensemble: Model, given: Tensors) -> list[Model]:
        """The steps that an ensemble has to run, in order, if some of its inner tensors are given."""
        needed = {tensor.name for tensor in ensemble.outputs}
        found: list[Model] = []
        for name in reversed(ensemble.steps):
            step = self.models[name]
            if any(tensor.name in needed and tensor.name not in given for tensor in step.outputs):
                found.insert(0, step)
                needed.update(tensor.name for tensor in step.inputs)
        return found

    def recommend(self, requests: Sequence[Request]) -> list[Answer | RequestError]:
        """The answers in the order of the requests; the requests hold text vectors instead of texts (see `embed`)."""
        return [self._recommend(request) for request in requests]

    def embed(self, texts: Sequence[str]) -> Floats:
        """The event vectors of texts, ``[texts, d]``.

        Raises:
            RequestError: There is no text or too many, or a text is blank or too long.
        """
        encoded = np.empty(len(texts), dtype=np.object_)
        encoded[:] = [text.encode() for text in texts]
        found = self.run(served_models.EMBED.name, {contract.TEXT.name: encoded})
        if isinstance(found, RequestError):
            raise found
        return found[contract.TEXT_VECTOR.name]

    def folder(self, name: str) -> Path:
        """A model's version folder."""
        return self.repository / name / str(self.version)

    def _recommend(self, request: Request) -> Answer | RequestError:
        has_texts = request.text_vector is not None or request.text_event is not None
        model = self.models[(served_models.RECOMMEND_TEXT if has_texts else served_models.RECOMMEND).name]
        found = self.run(model.name, tensors_of(request, model))
        if isinstance(found, RequestError):
            return found
        history, session, left_out = found[contract.EVENT_COUNTS.name][0].tolist()
        return Answer(
            found[contract.ITEM_ID.name][0].tolist(),
            found[contract.SCORE.name][0],
            float(found[contract.ALPHA_USED.name][0, 0]),
            (history, session, left_out),
        )

    def _run_one(self, model: Model, tensors: Tensors) -> Tensors | RequestError:
        given = {tensor.name: tensors[tensor.name] for tensor in model.inputs if tensor.name in tensors}
        for tensor in model.inputs:
            if not tensor.optional and tensor.name not in given:
                return RequestError(tensor.name, "no tensor", tensor.meaning)
        if model.name not in self._runs:
            self._runs[model.name] = self._open(model)
        return self._runs[model.name](given)

    def _open(self, model: Model) -> Run:
        if model.name == served_models.SCORING_HEAD.name:
            return _session_run(self.head, model)
        if model.name == served_models.ENCODER.name:
            return _session_run(self.encoder, model)
        if model.kind is Kind.ONNX:
            return _session_run(self._session(model), model)
        return PYTHON_MODELS[model.code](self, model)

    def _session(self, model: Model) -> Any:  # noqa: ANN401 - onnxruntime carries no types
        path = self.folder(model.name) / MODEL_FILE
        options = ort.SessionOptions()
        # As where the models are served: idle threads that spin use cores that others need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        parameters = versions.read_model_config(self.repository, model.name).parameters
        options.intra_op_num_threads = self._threads or int(parameters["intra_op_thread_count"].string_value)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def tensors_of(request: Request, model: Model) -> Tensors:
    """A request's tensors, with a leading axis of size 1 where the model has one."""
    rows = {tensor.name for tensor in model.inputs if model.batching or tensor.rows == 1}
    return {name: value[None] if name in rows else value for name, value in request.tensors().items()}


def _session_run(session: Any, model: Model) -> Run:  # noqa: ANN401 - onnxruntime carries no types
    names = [tensor.name for tensor in model.outputs]
    return lambda tensors: dict(zip(names, session.run(names, dict(tensors)), strict=True))


def _open_tokenizer(pipeline: InProcessPipeline, _model: Model) -> Run:
    def run(tensors: Tensors) -> Tensors | RequestError:
        try:
            found: Tensors = pipeline.tokenizer.encode(tensors[contract.TEXT.name].ravel())._asdict()
        except RequestError as error:
            return error
        return found

    return run


def _open_weights(pipeline: InProcessPipeline, _model: Model) -> Run:
    return _with_users(pipeline, lambda requests, records: pipeline.weights.run_requests(requests, records=records))


def _open_candidate_head(pipeline: InProcessPipeline, model: Model) -> Run:
    scorer = exported.read_candidate_scorer(pipeline.folder(model.name))
    return lambda tensors: scorer.run_requests([tensors])[0]


def _open_slate_composer(pipeline: InProcessPipeline, model: Model) -> Run:
    composer = exported.read_slate_composer(pipeline.folder(model.name))
    return lambda tensors: composer.run_requests([tensors])[0]


def _open_explainer(pipeline: InProcessPipeline, model: Model) -> Run:
    explainer = exported.read_explainer(pipeline.folder(model.name))
    return _with_users(pipeline, explainer.run_requests)


def _open_observer(pipeline: InProcessPipeline, model: Model) -> Run:
    plain, feedback = exported.read_observer(pipeline.folder(model.name))
    observer = Observer(plain, pipeline.users, feedback=feedback)
    return lambda tensors: observer.run_requests([tensors])[0]


def _open_interest_reader(pipeline: InProcessPipeline, model: Model) -> Run:
    return _with_users(pipeline, exported.read_interest_reader(pipeline.folder(model.name)).run_requests)


def _open_forgetter(pipeline: InProcessPipeline, _model: Model) -> Run:
    return lambda tensors: _returned(pipeline.users.forget([tensors])[0])


def _open_item_keeper(pipeline: InProcessPipeline, model: Model) -> Run:
    keeper = ItemKeeper(exported.read_item_keeper(pipeline.folder(model.name)), pipeline.users)
    return lambda tensors: keeper.run_requests([tensors])[0]


def _with_users(
    pipeline: InProcessPipeline,
    run: Callable[[Sequence[RequestTensors], Sequence[Records] | None], Sequence[Found]],
) -> Run:
    """Runs a model with the states of the users that a request names."""
    return lambda tensors: _returned(pipeline.users.answer([tensors], run)[0])


def _returned(answer: Tensors | Exception) -> Tensors | RequestError:
    """An answer, or the request's error; other errors are raised."""
    if isinstance(answer, Exception) and not isinstance(answer, RequestError):
        raise answer
    return answer


PYTHON_MODELS: dict[str, Callable[[InProcessPipeline, Model], Run]] = {
    served_models.TOKENIZER.name: _open_tokenizer,
    served_models.ADAPTIVE_WEIGHTS.name: _open_weights,
    served_models.CANDIDATE_HEAD.name: _open_candidate_head,
    served_models.SLATE_COMPOSER.name: _open_slate_composer,
    served_models.EXPLAINER.name: _open_explainer,
    served_models.OBSERVER.name: _open_observer,
    served_models.INTEREST_READER.name: _open_interest_reader,
    served_models.FORGETTER.name: _open_forgetter,
    served_models.ITEM_KEEPER.name: _open_item_keeper,
}
"""Functions that load each Python model without Triton, by `Model.code`."""
