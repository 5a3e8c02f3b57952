"""One request as every side takes it, and what the stages give for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ebbtide.client.codec import encode
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Model
from ebbtide.v1 import RecommendRequest
from ebbtide.verify.differences import Place, Ranked
from ebbtide.verify.errors import RecordedRequestError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Outputs = Mapping[str, npt.NDArray[Any]]


class RefusedError(Exception):
    """A side refuses a request; its text is the reason, as Triton gives it."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    number: int
    """From 1, in the order given."""
    request: Request
    """Without the texts' vectors."""
    texts: tuple[bytes, ...]
    """Of the events with a text."""

    @property
    def ensemble(self) -> Model:
        """The model that a client calls for it."""
        return contract.RECOMMEND_TEXT if self.texts else contract.RECOMMEND

    @property
    def weights_model(self) -> Model:
        """The model of that ensemble that makes the interest."""
        return contract.ADAPTIVE_WEIGHTS_TEXT if self.texts else contract.ADAPTIVE_WEIGHTS

    @property
    def rank_model(self) -> Model:
        """The ensemble that scores candidates for it."""
        return contract.RANK_TEXT if self.texts else contract.RANK

    @property
    def explain_model(self) -> Model:
        """The model that explains scores for it."""
        return contract.EXPLAIN_TEXT if self.texts else contract.EXPLAIN

    def with_vectors(self, vectors: Floats | None) -> Request:
        """The request with the texts' vectors, ``[texts, d]``."""
        return replace(self.request, text_vector=vectors) if self.texts else self.request


@dataclass(frozen=True)
class Tokens:
    """The outputs of the tokenizer."""

    input_ids: Ints
    """``[texts, tokens]``."""
    attention_mask: Ints
    """``[texts, tokens]``."""

    def rows(self) -> list[list[int]]:
        """The ids of each text, without padding."""
        return [ids[mask != 0].tolist() for ids, mask in zip(self.input_ids, self.attention_mask, strict=True)]


@dataclass(frozen=True)
class Weights:
    """The outputs of `adaptive_weights`, without batch dimension."""

    interest: npt.NDArray[Any]
    """``[d + p]``."""
    adjustments: dict[int, float]
    """By catalog index: the score in the place of the item's own, minus infinity for an excluded one."""
    alpha_used: float
    event_counts: tuple[int, ...]
    """Of the history, of the session, left out."""
    item_filter: Ints | None = None
    """``[filter words]``; None from a side that does not write them, as the next two."""
    adjust_item: Ints | None = None
    """``[adjustments]``, as the scoring head takes them."""
    adjust_score: Floats | None = None
    """``[adjustments]``."""


@dataclass(frozen=True)
class Answered:
    """The outputs of `recommend`."""

    ranked: Ranked
    alpha_used: float
    event_counts: tuple[int, ...]


class Side(Protocol):
    """What is held against the in-process pipeline, stage by stage; each call may raise `RefusedError`."""

    name: str

    def tokens(self, texts: tuple[bytes, ...]) -> Tokens:
        """Token ids of texts."""

    def vectors(self, tokens: Tokens) -> Floats:
        """Event vectors of tokens, ``[texts, d]``."""

    def embed(self, texts: tuple[bytes, ...]) -> Floats:
        """Event vectors of texts, ``[texts, d]``."""

    def weights(self, asked: Asked, vectors: Floats | None) -> Weights:
        """The interest, with the given vectors for its texts."""

    def compare_head(self, asked: Asked, weights: Weights, local: Ranked) -> Place:
        """The ranking for given weights against that of the in-process scoring head."""

    def candidate_scores(self, weights: Weights, candidates: Ints) -> npt.NDArray[Any]:
        """Scores of candidates for given weights, ``[candidates]``: minus infinity excluded, NaN unknown."""

    def rank(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """The outputs of `rank` without batch dimension, as far as this side has them."""

    def explain(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """The outputs of `explainer` without batch dimension, as far as this side has them; with the given vectors."""

    def answer_explanation(self, asked: Asked, vectors: Floats | None, candidates: Ints) -> Outputs:
        """The same from the ensemble that a client would call."""

    def compare_answer(
        self, asked: Asked, vectors: Floats | None, local: Answered
    ) -> tuple[Place, float, tuple[int, ...]]:
        """The whole answer against that of the in-process pipeline: ranking, and this side's alpha and events.

        Args:
            asked: The request.
            vectors: For its texts, where the side does not make them itself.
            local: The in-process answer.
        """


def ask(requests: Iterable[RecommendRequest], now_ms: int) -> Iterator[Asked]:
    """The requests in the form of the contract's tensors.

    Args:
        requests: Recorded or random.
        now_ms: The clock of those that carry none, Unix milliseconds; one for all sides.

    Raises:
        RecordedRequestError: A request that no client can send.
    """
    for number, request in enumerate(requests, start=1):
        try:
            encoded = encode(request, now_ms)
        except InvalidArgumentError as error:
            raise RecordedRequestError(f"request {number}: {error}") from error
        batching = contract.MODELS[encoded.model_name].batching
        tensors = {name: array[0] if batching else array for name, array in encoded.tensors.items()}
        texts = tensors.pop(contract.TEXT.name, ())
        yield Asked(number, Request(**tensors), tuple(texts))


def by_item(items: Ints, scores: Floats) -> dict[int, float]:
    """Adjustments by item, zeros left out; of several for one item minus infinity counts."""
    found: dict[int, float] = {}
    for item, score in zip(items.ravel().tolist(), scores.ravel().tolist(), strict=True):
        if score != 0:
            found[item] = min(score, found.get(item, score))
    return found


def without_rows(model: Model, outputs: Outputs) -> Outputs:
    """The outputs of a model for one user, without the leading 1 of those that have a row for the user."""
    single = {tensor.name for tensor in model.outputs if model.batching or tensor.rows == 1}
    return {name: array[0] if name in single else array for name, array in outputs.items()}
