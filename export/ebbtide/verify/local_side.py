"""The exported files in this process as a side, by `InProcessPipeline`."""

from __future__ import annotations

import numpy as np

from ebbtide.export.inprocess import Answer, InProcessPipeline
from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.pipeline import AdaptiveWeights
from ebbtide.verify.asked import Answered, Asked, Floats, RefusedError, Tokens, Weights, summed
from ebbtide.verify.differences import Ranked


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
            summed(answer.adjust_item, answer.adjust_score),
            float(answer.alpha_used[0]),
            int(answer.events_used[0]),
            answer.adjust_item,
            answer.adjust_score,
        )

    def head(self, weights: Weights) -> Ranked:
        """As the exported scoring head ranks."""
        values = (weights.interest, weights.adjust_item, weights.adjust_score)
        feeds = {
            tensor.name: np.asarray(value)[None]
            for tensor, value in zip(contract.SCORING_HEAD.inputs, values, strict=True)
        }
        item_id, score = self.pipeline.head.run([contract.ITEM_ID.name, contract.SCORE.name], feeds)
        return Ranked(item_id[0].tolist(), score[0])

    def recommend(self, asked: Asked, vectors: Floats | None) -> Answered:
        """The whole answer, with these vectors for its texts."""
        (answer,) = self.pipeline.recommend([asked.with_vectors(vectors)])
        if not isinstance(answer, Answer):
            raise RefusedError(str(answer))
        return Answered(Ranked(answer.item_id, answer.score), answer.alpha_used, answer.events_used)
