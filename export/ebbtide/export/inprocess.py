"""The exported models in this process, without Triton: NumPy for the interest, ONNX Runtime for encoder and head."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.export.errors import RepositoryError
from ebbtide.export.onnx_files import MODEL_FILE
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

    def __init__(self, repository: Path) -> None:
        """Reads an exported repository; the encoder's graph only when texts come.

        Raises:
            RepositoryError: A model is missing, damaged or of another export.
        """
        self._repository = repository
        weights = contract.ADAPTIVE_WEIGHTS
        try:
            self.fingerprint = _parameter(repository, weights, contract.FINGERPRINT_PARAMETER)
            exported.require_one_export(repository, self.fingerprint)
            folder = version_folder(repository, weights)
            self.weights: InterestPipeline = exported.read_pipeline(folder, self.fingerprint)
            self.limits = exported.read_interest_config(folder, self.fingerprint).limits
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
        tokens = _text_tokens_module()
        return tokens.TextTokens(version_folder(self._repository, contract.TOKENIZER), self.limits)

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
        path = version_folder(self._repository, model) / MODEL_FILE
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(_parameter(self._repository, model, "intra_op_thread_count"))
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map.get(contract.FINGERPRINT_PARAMETER, "none")
        if found != self.fingerprint:
            raise RepositoryError(
                f"{path}: got fingerprint {found}; expected {self.fingerprint}: files of two exports are mixed"
            )
        return session


def version_folder(repository: Path, model: Model) -> Path:
    """The newest version of a model, the one that Triton serves.

    Raises:
        RepositoryError: There is none.
    """
    folder = repository / model.name
    versions = [int(place.name) for place in folder.glob("[1-9]*") if place.name.isdigit()]
    if not versions:
        raise RepositoryError(f"{folder}: no version of this model; expected a repository written by `ebbtide export`")
    return folder / str(max(versions))


def read_model_config(repository: Path, name: str) -> Any:  # noqa: ANN401 - tritonclient carries no types
    """A model's ``config.pbtxt`` as Triton's message."""
    text = (repository / name / exported.MODEL_CONFIG_FILE).read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _parameter(repository: Path, model: Model, key: str) -> str:
    parameters: Mapping[str, Any] = read_model_config(repository, model.name).parameters
    return str(parameters[key].string_value)


def _text_tokens_module() -> Any:  # noqa: ANN401 - a module outside the package
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
