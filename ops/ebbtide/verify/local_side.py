"""The exported files in this process as a side, by `InProcessPipeline`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ebbtide.export.inprocess import Answer, InProcessPipeline
from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.pipeline import AdaptiveWeights
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
from ebbtide.verify.differences import Ranked

_Value = TypeVar("_Value")


class LocalSide:
    """The yardstick of the server, and what is held against torch."""

    name = "in process"

    def __init__(self, pipeline: InProcessPipeline) -> None:
        """Takes one version of a repository."""
        self.pipeline = pipeline

    def tokens(self, texts: tuple[bytes, ...]) -> Tokens:
        """As the exported tokenizer cuts them."""
        try:
            batch = self.pipeline.tokenizer.encode(texts)
        except RequestError as error:
            raise RefusedError(str(error)) from error
        return Tokens(batch.input_ids, batch.attention_mask)

    def vectors(self, tokens: Tokens) -> Floats:
        """As the exported encoder gives them."""
        feeds = {
            contract.INPUT_IDS.name: tokens.input_ids,
            contract.ATTENTION_MASK.name: tokens.attention_mask,
        }
        (vectors,) = self.pipeline.encoder.run([contract.TEXT_VECTOR.name], feeds)
        return np.asarray(vectors, dtype=np.float32)

    def embed(self, texts: tuple[bytes, ...]) -> Floats:
        """Both."""
        return self.vectors(self.tokens(texts))

    def weights(self, asked: Asked, vectors: Floats | None) -> Weights:
        """As the served NumPy code gives them."""
        (answer,) = self.pipeline.weights.run([asked.with_vectors(vectors)])
        if not isinstance(answer, AdaptiveWeights):
            raise RefusedError(str(answer))
        return Weights(
            answer.interest,
            by_item(answer.adjust_item, answer.adjust_score),
            float(answer.alpha_used[0]),
            tuple(answer.event_counts.tolist()),
            answer.item_filter,
            answer.adjust_item,
            answer.adjust_score,
        )

    def head(self, weights: Weights) -> Ranked:
        """As the exported scoring head ranks."""
        values = (weights.interest, weights.adjust_item, weights.adjust_score, weights.item_filter)
        feeds = {
            tensor.name: np.asarray(value)[None]
            for tensor, value in zip(contract.SCORING_HEAD.inputs, values, strict=True)
        }
        item_id, score = self.pipeline.head.run([contract.ITEM_ID.name, contract.SCORE.name], feeds)
        return Ranked(item_id[0].tolist(), score[0])

    def candidate_scores(self, weights: Weights, candidates: Ints) -> npt.NDArray[Any]:
        """As the served NumPy code scores them."""
        return _served(self.pipeline.candidate_scores(weights, candidates))

    def rank(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """The whole answer, with these vectors for its texts."""
        request = replace(asked.with_vectors(vectors), candidate_item=candidates)
        weights = _served(self.pipeline.weights.run([request])[0])
        return {
            contract.CANDIDATE_SCORE.name: _served(self.pipeline.rank(request)),
            contract.ALPHA_USED.name: weights.alpha_used,
            contract.EVENT_COUNTS.name: weights.event_counts,
        }

    def explain(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """The explanation, with these vectors for its texts."""
        request = replace(asked.with_vectors(vectors), candidate_item=candidates)
        return without_rows(contract.EXPLAINER, vars(_served(self.pipeline.explain(request))))

    def answer_explanation(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """The same."""
        return self.explain(asked, vectors, candidates)

    def recommend(self, asked: Asked, vectors: Floats | None) -> Answered:
        """The whole answer, with these vectors for its texts."""
        (answer,) = self.pipeline.recommend([asked.with_vectors(vectors)])
        if not isinstance(answer, Answer):
            raise RefusedError(str(answer))
        return Answered(Ranked(answer.item_id, answer.score), answer.alpha_used, answer.event_counts)


def _served(answer: _Value | RequestError) -> _Value:
    if isinstance(answer, RequestError):
        raise RefusedError(str(answer))
    return answer
