"""The exported models in this process, without Triton: NumPy for the interest, ONNX Runtime for encoder and head."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
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
from ebbtide.export.sources import model_sources
from ebbtide.interest import contract, exported
from ebbtide.interest.candidates import CandidateScorer
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Model
from ebbtide.interest.errors import RequestError
from ebbtide.interest.explanation import Explainer, Explanation
from ebbtide.interest.modelfile import MODEL_FILE
from ebbtide.interest.pipeline import AdaptiveWeights, InterestPipeline
from ebbtide.interest.retrieval import RETRIEVAL_FILE

Floats = npt.NDArray[np.float32]

_WEIGHTS_OF_CANDIDATES = tuple(
    tensor for tensor in contract.CANDIDATE_HEAD.inputs if tensor is not contract.CANDIDATE_ITEM
)


@dataclass(frozen=True)
class Answer:
    """The answer to one request, as the outputs of `recommend`."""

    item_id: list[str]
    """Best first, the export's top N."""
    score: Floats
    """``[top N]``; minus infinity marks an excluded item."""
    alpha_used: float
    event_counts: tuple[int, int, int]
    """Of the history, of the session, left out."""


class InProcessPipeline:
    """The twin of the Triton ensembles, read from the same folder."""

    def __init__(self, repository: Path, version: int | None = None) -> None:
        """Reads one version of an exported repository; the encoder's graph only when texts come.

        Args:
            repository: Written by an export.
            version: None takes the one that the ensembles answer with.

        Raises:
            RepositoryError: A model is missing, damaged or of another export.
        """
        self.repository = repository
        self.version = versions.served_version(repository) if version is None else version
        self.fingerprint = versions.version_fingerprint(repository, self.version)
        folder = self._folder(contract.ADAPTIVE_WEIGHTS)
        try:
            exported.require_one_export(repository, self.version, self.fingerprint)
            self.weights: InterestPipeline = exported.read_pipeline(folder)
            self.limits = exported.read_interest_config(folder).limits
        except (ValueError, KeyError, OSError) as error:
            raise RepositoryError(f"{repository}: not a sound export: {error}") from error
        self.head: Any = self._head()

    @cached_property
    def candidates(self) -> CandidateScorer:
        """What `candidate_head` serves."""
        return exported.read_candidate_scorer(self._folder(contract.CANDIDATE_HEAD))

    @cached_property
    def explainer(self) -> Explainer:
        """What `explainer` serves."""
        return exported.read_explainer(self._folder(contract.EXPLAINER))

    @cached_property
    def encoder(self) -> Any:  # noqa: ANN401 - onnxruntime carries no types
        """The encoder's session."""
        return self._session(contract.ENCODER)

    @cached_property
    def tokenizer(self) -> Any:  # noqa: ANN401 - loaded from the served model's source
        """The `TextTokens` of the served tokenizer."""
        tokens = text_tokens_module()
        return tokens.TextTokens(self._folder(contract.TOKENIZER), self.limits)

    def recommend(self, requests: Sequence[Request]) -> list[Answer | RequestError]:
        """The answers in the requests' order; texts are given as vectors (see `embed`)."""
        results: list[Answer | RequestError] = []
        weights = self.weights.run(requests)
        served = [answer for answer in weights if isinstance(answer, AdaptiveWeights)]
        ranked = iter(self._rank(served))
        for answer in weights:
            results.append(next(ranked) if isinstance(answer, AdaptiveWeights) else answer)
        return results

    def rank(self, request: Request) -> Floats | RequestError:
        """The scores of a request's `candidate_item`, ``[candidates]``: minus infinity excluded, NaN unknown."""
        (weights,) = self.weights.run([request])
        if isinstance(weights, RequestError):
            return weights
        return self.candidate_scores(weights, request.candidate_item)

    def candidate_scores(self, weights: Any, candidates: npt.NDArray[np.int64] | None) -> Floats | RequestError:  # noqa: ANN401 - whatever has the attributes
        """The same for weights that are known.

        Args:
            weights: With the attributes `interest`, `adjust_item` and `adjust_score` of `AdaptiveWeights`.
            candidates: ``[candidates]``, item keys.
        """
        if candidates is None:
            return RequestError(contract.CANDIDATE_ITEM.name, "no tensor", "the items to score")
        part = {tensor.name: np.asarray(getattr(weights, tensor.name))[None] for tensor in _WEIGHTS_OF_CANDIDATES}
        (scores,) = self.candidates.run_parts([{**part, contract.CANDIDATE_ITEM.name: candidates[None]}])
        return scores if isinstance(scores, RequestError) else scores[contract.CANDIDATE_SCORE.name][0]

    def explain(self, request: Request) -> Explanation | RequestError:
        """Why a request's `candidate_item` score as they do; texts are given as vectors (see `embed`)."""
        return self.explainer.run(request)

    def embed(self, texts: Sequence[str]) -> Floats:
        """The event vectors of texts, ``[texts, d]``.

        Raises:
            RequestError: No text, too many, or one that is blank or too long.
        """
        batch = self.tokenizer.encode([text.encode() for text in texts])
        (vectors,) = self.encoder.run(None, batch._asdict())
        return np.asarray(vectors, dtype=np.float32)

    def _rank(self, weights: Sequence[AdaptiveWeights]) -> list[Answer]:
        if not weights:
            return []
        feeds = {
            tensor.name: np.stack([getattr(answer, tensor.name) for answer in weights])
            for tensor in contract.SCORING_HEAD.inputs
        }
        names = [contract.ITEM_ID.name, contract.SCORE.name]
        item_id, score = self.head.run(names, feeds)
        return [
            Answer(item_id[row].tolist(), score[row], float(answer.alpha_used[0]), tuple(answer.event_counts.tolist()))
            for row, answer in enumerate(weights)
        ]

    def _head(self) -> Any:  # noqa: ANN401 - onnxruntime carries no types
        """The scoring head's session, or what is run like one where it answers from an index."""
        folder = self._folder(contract.SCORING_HEAD)
        if not (folder / RETRIEVAL_FILE).is_file():
            return self._session(contract.SCORING_HEAD)
        try:
            return open_head(folder, self.fingerprint)
        except (ValueError, KeyError, OSError) as error:
            raise RepositoryError(f"{folder}: not a sound export: {error}") from error

    def _session(self, model: Model) -> Any:  # noqa: ANN401 - onnxruntime carries no types
        path = self._folder(model) / MODEL_FILE
        options = ort.SessionOptions()
        parameters = versions.read_model_config(self.repository, model.name).parameters
        options.intra_op_num_threads = int(parameters["intra_op_thread_count"].string_value)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def _folder(self, model: Model) -> Path:
        return self.repository / model.name / str(self.version)


def text_tokens_module() -> Any:  # noqa: ANN401 - a module outside the package
    """The served tokenizer's code; from this installation, so that reading an export runs none of its code."""
    name = "ebbtide_served_text_tokens"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, model_sources() / contract.TOKENIZER.name / "text_tokens.py"
        )
        assert spec is not None  # noqa: S101 - the file is part of the package
        assert spec.loader is not None  # noqa: S101 - as above
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]
