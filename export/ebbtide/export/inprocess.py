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
from ebbtide.export.sources import model_sources
from ebbtide.interest import contract, exported
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Model
from ebbtide.interest.errors import RequestError
from ebbtide.interest.pipeline import AdaptiveWeights, InterestPipeline

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """The answer to one request, as the outputs of `recommend`."""

    item_id: list[str]
    """Best first, the export's top N."""
    score: Floats
    """``[top N]``; minus infinity marks an excluded item."""
    alpha_used: float
    events_used: int


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
        self.head: Any = self._session(contract.SCORING_HEAD)

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
            Answer(item_id[row].tolist(), score[row], float(answer.alpha_used[0]), int(answer.events_used[0]))
            for row, answer in enumerate(weights)
        ]

    def _session(self, model: Model) -> Any:  # noqa: ANN401 - onnxruntime carries no types
        path = self._folder(model) / exported.MODEL_FILE
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
