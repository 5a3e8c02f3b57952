"""The trained bundle as a side: the encoder in torch, and the formulas in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.export.encoder.graph import EventEncoder
from ebbtide.interest import contract
from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import load_encoder
from ebbtide.train.model import InterestModel
from ebbtide.train.reference import ReferenceScores, score_request
from ebbtide.verify.asked import Answered, Asked, Floats, Ints, Outputs, Tokens, Weights
from ebbtide.verify.differences import Place, Ranked, compare_with_scores
from ebbtide.verify.filters import Filters

Doubles = npt.NDArray[np.float64]

_UNKNOWN = -1


class TorchSide:
    """What the export was made from."""

    name = "torch"

    def __init__(self, bundle: InterestBundle, filters: Filters) -> None:
        """Takes the bundle, whose encoder is read when the first text comes, and what requests may filter by."""
        self._bundle = bundle
        self._filters = filters
        self.catalog = bundle.catalog.index
        keys = item_keys(bundle.catalog.item_id).tolist()
        self._index = dict(zip(keys, range(len(keys)), strict=True))
        model = bundle.model
        with torch.inference_mode():
            terms = [
                block.item_projection.double()
                if block.features is None
                else block.features.double() @ block.item_projection.double()
                for block in model.blocks.values()
            ]
            factors = (model.gamma.double() * sum(terms)).numpy()
        self._factors: Doubles = np.concatenate([factors, bundle.prior_columns.astype(np.float64)], axis=1)
        self._embedded: tuple[list[list[int]], Floats] = [], np.empty((0, 0), dtype=np.float32)
        self._answered: tuple[Asked | None, Floats | None, ReferenceScores | None] = None, None, None
        self._projection: Doubles = model.event_projection.detach().double().numpy()

    @cached_property
    def _encoder(self) -> EventEncoder:
        encoder = load_encoder(self._bundle.encoder_folder())
        return EventEncoder(encoder, self._bundle.model.event_projection)

    @cached_property
    def _tokenizer(self) -> Any:  # noqa: ANN401 - tokenizers carries no types
        from tokenizers import Tokenizer

        folder = self._bundle.encoder_folder()
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(self._encoder.encoder.settings.max_tokens)
        tokenizer.enable_padding()
        # A text that spells a special token is text, as when it is served.
        tokenizer.encode_special_tokens = True
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
        """From the formulas."""
        reference = self.reference(asked, vectors)
        interest = np.concatenate([reference.interest, self._bundle.model.prior_weight.detach().double().numpy()])
        excluded = np.flatnonzero(np.isneginf(reference.scores)).tolist()
        adjustments = {index: float(reference.scores[index]) for index in {*reference.repeats, *excluded}}
        return Weights(interest, adjustments, reference.alpha, self._counts(asked, reference))

    def compare_head(self, asked: Asked, weights: Weights, local: Ranked) -> Place:
        """The in-process ranking against the scores of the whole catalog."""
        scores: Doubles = self._factors @ weights.interest.astype(np.float64)
        for index, value in weights.adjustments.items():
            scores[index] = value
        return compare_with_scores(local, self._filtered(asked, scores), self.catalog)

    def compare_answer(
        self, asked: Asked, vectors: Floats | None, local: Answered
    ) -> tuple[Place, float, tuple[int, ...]]:
        """The in-process answer against the formulas."""
        reference = self.reference(asked, vectors)
        index = compare_with_scores(local.ranked, self._filtered(asked, reference.scores), self.catalog)
        return index, reference.alpha, self._counts(asked, reference)

    def candidate_scores(self, weights: Weights, candidates: Ints) -> npt.NDArray[Any]:
        """From the item factors in double precision."""
        item = self._items(candidates)
        scores = self._factors[item] @ weights.interest.astype(np.float64)
        scores = np.array([weights.adjustments.get(*pair) for pair in zip(item.tolist(), scores.tolist(), strict=True)])
        return np.where(item == _UNKNOWN, np.nan, scores)

    def rank(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """From the formulas."""
        reference, item = self.reference(asked, vectors), self._items(candidates)
        return {
            contract.CANDIDATE_SCORE.name: np.where(item == _UNKNOWN, np.nan, reference.scores[item]),
            contract.ALPHA_USED.name: np.array([reference.alpha]),
            contract.EVENT_COUNTS.name: np.array(self._counts(asked, reference)),
        }

    def explain(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """From the formulas, but for the events' own parts: a score's parts by dimension, prior and adjustments."""
        answer = self.rank(asked, vectors, candidates)
        items = self._items(candidates)
        factors, reference = self._factors[items], self.reference(asked, vectors)
        replaced = np.isin(items, list(reference.repeats)) & ~np.isneginf(answer[contract.CANDIDATE_SCORE.name])
        factors[replaced] = 0
        factors[np.isnan(answer[contract.CANDIDATE_SCORE.name])] = np.nan
        d = reference.interest.size
        dimensions = factors[:, :d] * reference.interest
        prior = factors[:, d:] @ self._bundle.model.prior_weight.detach().double().numpy()
        return {
            **answer,
            contract.DIMENSION_SHARE.name: dimensions,
            contract.PRIOR_SHARE.name: prior,
            contract.ADJUSTMENT_SHARE.name: answer[contract.CANDIDATE_SCORE.name] - dimensions.sum(axis=1) - prior,
        }

    def answer_explanation(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """The same."""
        return self.explain(asked, vectors, candidates)

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

    def _filtered(self, asked: Asked, scores: Doubles) -> Doubles:
        """Scores of the catalog, minus infinity for what the request's attributes do not allow."""
        keys = asked.request.allow_attribute
        allowed = None if keys is None else self._filters.allowed(keys)
        return scores if allowed is None else np.where(allowed, scores, -np.inf)

    def _items(self, keys: Ints) -> Ints:
        """Catalog indices, `_UNKNOWN` for keys that are not in the catalog."""
        return np.array([self._index.get(key, _UNKNOWN) for key in keys.tolist()], dtype=np.int64)

    def _counts(self, asked: Asked, reference: ReferenceScores) -> tuple[int, ...]:
        """As `contract.EVENT_COUNTS`."""
        items = asked.request.event_item.size
        left_out = items - np.count_nonzero(self._counting(asked).index < items)
        return reference.events - reference.current_events, reference.current_events, left_out

    def _counting(self, asked: Asked) -> _Counting:
        """Those of known items, then those for whose unknown item a text stands in, then texts."""
        item = self._items(asked.request.event_item)
        stands_for = asked.request.text_event
        if stands_for is None:
            stands_for = np.full(len(asked.texts), _UNKNOWN)
        known = np.flatnonzero(item != _UNKNOWN)
        stand_in = np.flatnonzero((stands_for >= 0) & (item[stands_for] == _UNKNOWN) if item.size else stands_for >= 0)
        own = np.flatnonzero(stands_for < 0)
        behind = item.size + np.arange(own.size)
        return _Counting(
            np.concatenate([known, stands_for[stand_in], behind]), item[known], np.concatenate([stand_in, own])
        )

    def _score(self, asked: Asked, vectors: Floats | None) -> ReferenceScores:
        request, counting = asked.request, self._counting(asked)
        flags, weight = request.event_is_current, request.event_weight
        excluded = self._items(np.empty(0, dtype=np.int64) if request.exclude_item is None else request.exclude_item)
        texts = None
        if vectors is not None and counting.text.size:
            texts = vectors[counting.text].astype(np.float64) @ self._from_event_space
        with _decay_scaled(self._bundle.model, request.decay_scale):
            return score_request(
                self._bundle.model,
                self._bundle.prior_columns,
                item=counting.item.tolist(),
                time_ms=request.event_time[counting.index].tolist(),
                now_ms=int(request.now[0]),
                is_current=None if flags is None else flags[counting.index].tolist(),
                weight=None if weight is None else weight[counting.index].tolist(),
                alpha=None if request.alpha is None else float(request.alpha[0]),
                exclude=excluded[excluded != _UNKNOWN].tolist(),
                exclude_seen=None if request.exclude_seen is None else bool(request.exclude_seen[0]),
                text_vectors=texts,
            )


@dataclass(frozen=True)
class _Counting:
    """Events that count, in the order in which the formulas take them."""

    index: Ints
    """``[events]``: places in the request's events."""
    item: Ints
    """Catalog indices of those with an item, which come first."""
    text: Ints
    """Of the others, their text's place among the request's texts."""


@contextmanager
def _decay_scaled(model: InterestModel, scale: Floats | None) -> Iterator[None]:
    """The model with every decay rate by age times the request's scale, while the context lasts."""
    if scale is None or model.config.decay != "learned":
        yield
        return
    rate = model.log_decay_rate.data
    kept = rate.clone()
    with np.errstate(divide="ignore"):
        rate += float(np.log(np.float64(scale[0])))
    try:
        yield
    finally:
        rate.copy_(kept)
