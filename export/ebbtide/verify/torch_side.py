"""The trained bundle as a side: the encoder in torch, and the formulas in double precision."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.export.encoder.graph import EventEncoder
from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import encoder_folder, load_encoder
from ebbtide.train.reference import ReferenceScores, score_request
from ebbtide.verify.asked import Answered, Asked, Floats, Tokens, Weights
from ebbtide.verify.differences import Place, Ranked, compare_with_scores

Doubles = npt.NDArray[np.float64]

_ROUNDING = 1e-9


class TorchSide:
    """What the export was made from."""

    name = "torch"

    def __init__(self, bundle: InterestBundle) -> None:
        """Takes the bundle; its encoder is read when the first text comes."""
        self._bundle = bundle
        self.catalog = bundle.catalog.index
        keys = item_keys(bundle.catalog.item_id).tolist()
        self._index = dict(zip(keys, range(len(keys)), strict=True))
        model = bundle.model
        with torch.inference_mode():
            own = model.text_vectors.double() @ model.item_projection.double() + model.item_residual.double()
            factors = (model.gamma.double() * own).numpy()
        self._factors: Doubles = np.concatenate([factors, bundle.prior_columns.astype(np.float64)], axis=1)
        self._embedded: tuple[list[list[int]], Floats] = [], np.empty((0, 0), dtype=np.float32)
        self._answered: tuple[Asked | None, Floats | None, ReferenceScores | None] = None, None, None
        self._projection: Doubles = model.event_projection.detach().double().numpy()

    @cached_property
    def _encoder(self) -> EventEncoder:
        encoder = load_encoder(encoder_folder(self._bundle.config.encoder.source))
        return EventEncoder(encoder, self._bundle.model.event_projection)

    @cached_property
    def _tokenizer(self) -> Any:  # noqa: ANN401 - tokenizers carries no types
        from tokenizers import Tokenizer

        folder = encoder_folder(self._bundle.config.encoder.source)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(self._encoder.encoder.settings.max_tokens)
        tokenizer.enable_padding()
        return tokenizer

    @cached_property
    def _from_event_space(self) -> Doubles:
        """``[d, text width]``: gives back a text vector whose projection is the event vector."""
        inverse: Doubles = np.linalg.pinv(self._projection)
        return inverse

    def tokens(self, texts: tuple[bytes, ...]) -> Tokens:
        """As the encoder's own tokenizer cuts them."""
        encodings = self._tokenizer.encode_batch([text.decode() for text in texts])
        return Tokens(
            np.array([encoding.ids for encoding in encodings], dtype=np.int64),
            np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
        )

    def vectors(self, tokens: Tokens) -> Floats:
        """As the language model and the projection give them."""
        # The encoder and `embed` are asked one after the other, for the same tokens unless the tokenizers differ.
        rows = tokens.rows()
        if rows != self._embedded[0]:
            with torch.inference_mode():
                found = self._encoder(torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.attention_mask))
            self._embedded = rows, found.numpy()
        return self._embedded[1]

    def embed(self, texts: tuple[bytes, ...]) -> Floats:
        """Both."""
        return self.vectors(self.tokens(texts))

    def weights(self, asked: Asked, vectors: Floats | None) -> Weights:
        """From the formulas; adjustments are what the scores differ by from the interest's alone."""
        reference = self.reference(asked, vectors)
        interest = np.concatenate([reference.interest, self._bundle.model.prior_weight.detach().double().numpy()])
        linear = self._factors @ interest
        adjustment = reference.scores - linear
        # What a sum in another order changes is no adjustment.
        touched = np.flatnonzero(np.abs(adjustment) > _ROUNDING * np.maximum(1, np.abs(linear)))
        adjustments = {int(index): float(adjustment[index]) for index in touched}
        return Weights(interest, adjustments, reference.alpha, reference.events)

    def compare_head(self, weights: Weights, local: Ranked) -> Place:
        """The in-process ranking against the scores of the whole catalog."""
        scores: Doubles = self._factors @ weights.interest.astype(np.float64)
        for index, value in weights.adjustments.items():
            scores[index] += value
        return compare_with_scores(local, scores, self.catalog)

    def compare_answer(self, asked: Asked, vectors: Floats | None, local: Answered) -> tuple[Place, float, int]:
        """The in-process answer against the formulas."""
        reference = self.reference(asked, vectors)
        return compare_with_scores(local.ranked, reference.scores, self.catalog), reference.alpha, reference.events

    def reference(self, asked: Asked, vectors: Floats | None) -> ReferenceScores:
        """The whole answer from the formulas.

        Args:
            asked: The request; events and exclusions of items that the catalog lacks do not count.
            vectors: ``[texts, d]``, event vectors of its texts.
        """
        last, of_vectors, answer = self._answered
        if answer is None or last is not asked or of_vectors is not vectors:
            answer = self._score(asked, vectors)
            self._answered = asked, vectors, answer
        return answer

    def _score(self, asked: Asked, vectors: Floats | None) -> ReferenceScores:
        request = asked.request
        known = np.array([key in self._index for key in request.event_item.tolist()], dtype=np.bool_)
        kept = np.concatenate([known, np.ones(len(asked.texts), dtype=np.bool_)])
        flags, weight, excluded = request.event_is_current, request.event_weight, request.exclude_item
        return score_request(
            self._bundle.model,
            self._bundle.prior_columns,
            item=[self._index[key] for key in request.event_item[known].tolist()],
            time_ms=request.event_time[kept].tolist(),
            now_ms=int(request.now[0]),
            is_current=None if flags is None else flags[kept].tolist(),
            weight=None if weight is None else weight[kept].tolist(),
            alpha=None if request.alpha is None else float(request.alpha[0]),
            exclude=[self._index[key] for key in ([] if excluded is None else excluded.tolist()) if key in self._index],
            exclude_seen=None if request.exclude_seen is None else bool(request.exclude_seen[0]),
            text_vectors=None if vectors is None else vectors.astype(np.float64) @ self._from_event_space,
        )
