"""The trained bundle: its encoder in torch, and the formulas in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.export.encoder.graph import EventEncoder
from ebbtide.export.tables import event_types
from ebbtide.interest import contract, served_models
from ebbtide.interest.event_types import EventTypes
from ebbtide.interest.keys import item_keys
from ebbtide.interest.served_models import Model
from ebbtide.interest.slate_options import DEFAULT_SIZE
from ebbtide.train.blocks import RESIDUAL, TEXT
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import load_encoder
from ebbtide.train.reference import ReferenceScores, score_request
from ebbtide.verify.cases import CATALOG_SCORE, Case, Floats, Ints, Tensors, by_item
from ebbtide.verify.filters import Filters

Doubles = npt.NDArray[np.float64]

_UNKNOWN = -1


class TorchModel:
    """What the export was made from; it has no model that the formulas do not know."""

    name = "torch"

    def __init__(self, bundle: InterestBundle, filters: Filters) -> None:
        """Takes the bundle, whose encoder is read when the first text comes, and what requests may filter by."""
        self._bundle = bundle
        self._filters = filters
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
            terms = [model.gamma.double() * term for term in terms]
            factors = sum(terms, torch.zeros((), dtype=torch.float64)).numpy()
        self._blocks: dict[str, Doubles] = {name: term.numpy() for name, term in zip(model.blocks, terms, strict=True)}
        self._factors: Doubles = np.concatenate([factors, bundle.prior_columns.astype(np.float64)], axis=1)
        self._embedded: tuple[bytes, Tensors] = b"", {}
        self._answered: tuple[Case | None, dict[bytes, ReferenceScores]] = None, {}
        self._models: dict[str, Callable[[Case, Tensors], Tensors]] = {
            served_models.TOKENIZER.name: self._tokens,
            served_models.ENCODER.name: self._text_vectors,
            served_models.EMBED.name: self._embed,
            served_models.ADAPTIVE_WEIGHTS.name: self._weights,
            served_models.ADAPTIVE_WEIGHTS_TEXT.name: self._weights,
            served_models.SCORING_HEAD.name: self._head,
            served_models.CANDIDATE_HEAD.name: self._candidate_scores,
            served_models.RECOMMEND.name: self._recommend,
            served_models.RECOMMEND_TEXT.name: self._recommend,
            served_models.RECOMMEND_SLATE.name: self._recommend,
            served_models.RECOMMEND_SLATE_TEXT.name: self._recommend,
            served_models.SLATE_COMPOSER.name: self._slate,
            served_models.RANK.name: self._rank,
            served_models.RANK_TEXT.name: self._rank,
            served_models.EXPLAINER.name: self._explain,
            served_models.EXPLAIN.name: self._explain,
            served_models.EXPLAIN_TEXT.name: self._explain,
        }
        self._projection: Doubles = model.event_projection.detach().double().numpy()
        types = event_types(bundle)
        self._event_types = EventTypes(types) if types else None
        self._prior_weight: Doubles = model.prior_weight.detach().double().numpy()

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

    def run(self, case: Case, model: Model, tensors: Tensors) -> Tensors | None:
        """What the formulas give; see `Implementation.run`."""
        compute = self._models.get(model.name)
        return None if compute is None else compute(case, tensors)

    def _tokens(self, _case: Case, tensors: Tensors) -> Tensors:
        """As the tokenizer of the trained encoder cuts the texts."""
        encodings = self._tokenizer.encode_batch([text.decode() for text in tensors[contract.TEXT.name]])
        return {
            contract.INPUT_IDS.name: np.array([encoding.ids for encoding in encodings], dtype=np.int64),
            contract.ATTENTION_MASK.name: np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
        }

    def _text_vectors(self, _case: Case, tensors: Tensors) -> Tensors:
        """As the language model and the projection give them."""
        ids, mask = tensors[contract.INPUT_IDS.name], tensors[contract.ATTENTION_MASK.name]
        # The encoder and the ensembles ask one after the other, for the same tokens unless the tokenizers differ.
        key = ids.tobytes() + mask.tobytes()
        if key != self._embedded[0]:
            with torch.inference_mode():
                found = self._encoder(torch.from_numpy(ids), torch.from_numpy(mask))
            names = (tensor.name for tensor in served_models.ENCODER.outputs)
            self._embedded = key, {name: vector.numpy() for name, vector in zip(names, found, strict=True)}
        return self._embedded[1]

    def _embed(self, case: Case, tensors: Tensors) -> Tensors:
        return self._text_vectors(case, self._tokens(case, tensors))

    def _weights(self, case: Case, tensors: Tensors) -> Tensors:
        """From the formulas; without `item_filter`, and with as many adjustments as there are."""
        reference = self._reference(case, tensors)
        interest = np.concatenate([reference.interest, self._prior_weight])
        excluded = np.flatnonzero(np.isneginf(reference.scores)).tolist()
        adjusted = sorted({*reference.repeats, *reference.related, *excluded})
        return {
            contract.INTEREST.name: interest[None],
            contract.ADJUST_ITEM.name: np.array([adjusted], dtype=np.int64),
            contract.ADJUST_SCORE.name: reference.scores[adjusted][None],
            **self._counted(case, reference),
        }

    def _head(self, case: Case, tensors: Tensors) -> Tensors:
        """The scores of the whole catalog, from the item factors in double precision."""
        scores: Doubles = self._factors @ tensors[contract.INTEREST.name][0].astype(np.float64)
        for index, value in _adjustments(tensors).items():
            scores[index] = value
        return {CATALOG_SCORE: self._filtered(case, scores)}

    def _candidate_scores(self, _case: Case, tensors: Tensors) -> Tensors:
        """From the item factors in double precision."""
        item, adjustments = self._items(tensors[contract.CANDIDATE_ITEM.name][0]), _adjustments(tensors)
        scores = self._factors[item] @ tensors[contract.INTEREST.name][0].astype(np.float64)
        scores = np.array([adjustments.get(*pair) for pair in zip(item.tolist(), scores.tolist(), strict=True)])
        return {contract.CANDIDATE_SCORE.name: np.where(item == _UNKNOWN, np.nan, scores)[None]}

    def _recommend(self, case: Case, tensors: Tensors) -> Tensors:
        reference = self._reference(case, tensors)
        return {CATALOG_SCORE: self._filtered(case, reference.scores), **self._counted(case, reference)}

    def _slate(self, _case: Case, tensors: Tensors) -> Tensors:
        """The list of a request without wishes: the first of those that the user may get."""
        ids, scores = tensors[contract.ITEM_ID.name][0], tensors[contract.SCORE.name][0]
        kept = np.isfinite(scores)
        return {
            contract.SLATE_ITEM_ID.name: ids[kept][None, :DEFAULT_SIZE],
            contract.SLATE_SCORE.name: scores[kept][None, :DEFAULT_SIZE],
        }

    def _rank(self, case: Case, tensors: Tensors) -> Tensors:
        reference = self._reference(case, tensors)
        item = self._items(tensors[contract.CANDIDATE_ITEM.name][0])
        scores = np.where(item == _UNKNOWN, np.nan, reference.scores[item])
        return {contract.CANDIDATE_SCORE.name: scores[None], **self._counted(case, reference)}

    def _explain(self, case: Case, tensors: Tensors) -> Tensors:
        """A score's shares by dimension, prior and adjustments; the shares of single events are not recomputed."""
        answer, reference = self._rank(case, tensors), self._reference(case, tensors)
        score = answer[contract.CANDIDATE_SCORE.name][0]
        items = self._items(tensors[contract.CANDIDATE_ITEM.name][0])
        factors = self._factors[items]
        replaced = np.isin(items, list(reference.repeats)) & ~np.isneginf(score)
        d = reference.interest.size
        factors[replaced, d:] = 0
        factors[np.isnan(score)] = np.nan
        counted = np.where(replaced[:, None], reference.seen_interest, reference.interest)
        dimensions = factors[:, :d] * counted
        prior = factors[:, d:] @ self._prior_weight
        names = list(self._blocks)
        blocks = np.stack([(rows[items] * counted).sum(axis=1) for rows in self._blocks.values()], axis=1)
        blocks[np.isnan(score)] = np.nan
        if names == [TEXT, RESIDUAL]:
            names, blocks = [], blocks[:, :0]
        return {
            **answer,
            contract.BLOCK_NAME.name: np.array([name.encode() for name in names], dtype=np.object_),
            contract.BLOCK_SHARE.name: blocks,
            contract.DIMENSION_SHARE.name: dimensions,
            contract.PRIOR_SHARE.name: prior,
            contract.ADJUSTMENT_SHARE.name: score - dimensions.sum(axis=1) - prior,
        }

    def _reference(self, case: Case, tensors: Tensors) -> ReferenceScores:
        """The whole answer from the formulas; events and exclusions of items that the catalog lacks do not count.

        Args:
            case: The request.
            tensors: With `text_vector` for its texts; without it torch embeds them.
        """
        vectors = tensors.get(contract.TEXT_VECTOR.name)
        if vectors is None and case.texts:
            vectors = self._embed(case, tensors)[contract.TEXT_VECTOR.name]
        last, answers = self._answered
        if last is not case:
            answers = {}
            self._answered = case, answers
        key = b"" if vectors is None else vectors.tobytes()
        if key not in answers:
            answers[key] = self._score(case, vectors)
        return answers[key]

    def _counted(self, case: Case, reference: ReferenceScores) -> Tensors:
        """`alpha_used` and `event_counts`."""
        items = case.request.event_item.size
        left_out = items - np.count_nonzero(self._counting(case).index < items)
        counts = (reference.events - reference.current_events, reference.current_events, left_out)
        return {contract.ALPHA_USED.name: np.array([[reference.alpha]]), contract.EVENT_COUNTS.name: np.array([counts])}

    def _filtered(self, case: Case, scores: Doubles) -> Doubles:
        """Scores of the catalog, minus infinity for what the request's attributes do not allow."""
        keys = case.request.allow_attribute
        allowed = None if keys is None else self._filters.allowed(keys)
        return scores if allowed is None else np.where(allowed, scores, -np.inf)

    def _items(self, keys: Ints) -> Ints:
        """Catalog indices, `_UNKNOWN` for keys that are not in the catalog."""
        return np.array([self._index.get(key, _UNKNOWN) for key in keys.tolist()], dtype=np.int64)

    def _counting(self, case: Case) -> _Counting:
        """Events of known items, then those of unknown items with a text, then events of texts alone."""
        item = self._items(case.request.event_item)
        stands_for = case.request.text_event
        if stands_for is None:
            stands_for = np.full(len(case.texts), _UNKNOWN)
        known = np.flatnonzero(item != _UNKNOWN)
        stand_in = np.flatnonzero((stands_for >= 0) & (item[stands_for] == _UNKNOWN) if item.size else stands_for >= 0)
        alone = np.flatnonzero(stands_for < 0)
        behind = item.size + np.arange(alone.size)
        return _Counting(
            np.concatenate([known, stands_for[stand_in], behind]), item[known], np.concatenate([stand_in, alone])
        )

    def _score(self, case: Case, vectors: Floats | None) -> ReferenceScores:
        request, counting = case.request, self._counting(case)
        flags, weight = request.event_is_current, request.event_weight
        if request.event_type is not None and self._event_types is not None:
            weight = self._event_types.weighed(self._event_types.find(request.event_type), weight)
        excluded = self._items(np.empty(0, dtype=np.int64) if request.exclude_item is None else request.exclude_item)
        texts = None
        if vectors is not None and counting.text.size:
            texts = vectors[counting.text].astype(np.float64) @ self._from_event_space
        return score_request(
            self._bundle.model,
            self._bundle.prior_columns,
            item=counting.item.tolist(),
            time_ms=request.event_time[counting.index].tolist(),
            now_ms=int(request.now[0]),
            is_current=None if flags is None else flags[counting.index].tolist(),
            weight=None if weight is None else weight[counting.index].tolist(),
            alpha=None if request.alpha is None else float(request.alpha[0]),
            decay_scale=1.0 if request.decay_scale is None else float(request.decay_scale[0]),
            exclude=excluded[excluded != _UNKNOWN].tolist(),
            exclude_seen=None if request.exclude_seen is None else bool(request.exclude_seen[0]),
            text_vectors=texts,
        )


@dataclass(frozen=True)
class _Counting:
    """Events that count, in the order in which the formulas take them."""

    index: Ints
    """``[events]``: positions among the request's events."""
    item: Ints
    """Catalog indices of those with an item, which come first."""
    text: Ints
    """Of the others, their text's position among the request's texts."""


def _adjustments(tensors: Tensors) -> dict[int, float]:
    return by_item(tensors[contract.ADJUST_ITEM.name], tensors[contract.ADJUST_SCORE.name])
