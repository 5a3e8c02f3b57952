"""Walks requests through every stage of two sides and notes where they differ.

Each stage is given the same inputs on both sides, those that the in-process pipeline gives it, so that a difference is
seen at the stage where it arises and at no later one; whole requests are compared as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.interest import contract
from ebbtide.interest.keys import item_keys
from ebbtide.v1 import RecommendRequest
from ebbtide.verify.asked import Answered, Asked, Floats, Ints, Outputs, RefusedError, Side, Tokens, Weights, ask
from ebbtide.verify.differences import (
    Differences,
    Place,
    StageDifference,
    compare_arrays,
    compare_sparse,
    compare_with_unknown,
)
from ebbtide.verify.errors import UnlikeCatalogError, VerifyError
from ebbtide.verify.filters import Filters
from ebbtide.verify.local_side import LocalSide
from ebbtide.verify.recorded import catalog_ids
from ebbtide.verify.server_side import ServerSide
from ebbtide.verify.tolerances import Tolerances

if TYPE_CHECKING:
    from ebbtide.train.bundle import InterestBundle

Progress = Callable[[int], None]
"""Called with the number of requests just compared."""

_REFUSAL = "refusal"
_BEST, _SEEN = 8, 4
_NOBODYS_KEY = 5
_Value = TypeVar("_Value")


def compare_bundle(
    bundle: InterestBundle,
    pipeline: InProcessPipeline,
    requests: Iterable[RecommendRequest],
    *,
    tolerances: Tolerances | None = None,
    progress: Progress = lambda _done: None,
) -> list[StageDifference]:
    """The in-process pipeline against torch and the formulas in double precision.

    Args:
        bundle: That the export was made from.
        pipeline: One version of the repository.
        requests: Recorded or random. One that the export refuses, such as for an item that the catalog lacks, is not
            compared: torch knows no limits.
        tolerances: None takes those that the repository's manifest states of this version.
        progress: See `Progress`.

    Returns:
        The largest difference of every field, in the pipeline's order.

    Raises:
        UnlikeCatalogError: The bundle has other items, or they stand in another order.
        VerifyError: No request could be compared.
    """
    # Here, so that a server is compared where no torch is installed.
    from ebbtide.verify.torch_side import TorchSide

    item_ids = _require_same_catalog(bundle, pipeline)
    walk = _Walk(
        pipeline,
        TorchSide(bundle, Filters.read(pipeline.repository, pipeline.version)),
        item_ids,
        tolerances,
        other_is_yardstick=True,
    )
    return walk.all(requests, progress)


def compare_server(
    pipeline: InProcessPipeline,
    address: str,
    requests: Iterable[RecommendRequest],
    *,
    models: Mapping[str, str] | None = None,
    tolerances: Tolerances | None = None,
    progress: Progress = lambda _done: None,
) -> list[StageDifference]:
    """A running Triton against the in-process pipeline of the same files.

    Args:
        pipeline: One version of the repository that the server reads; this version is asked for.
        address: Host and gRPC port of the server.
        requests: Recorded or random. Both sides must refuse the same ones, in the same words.
        models: Names under which models of the contract are loaded there, where they differ: those of the candidate
            ensembles of a deployment, say.
        tolerances: None takes those that the repository's manifest states of this version.
        progress: See `Progress`.

    Returns:
        The largest difference of every field, in the pipeline's order.

    Raises:
        ServerMismatchError: The server cannot be reached, or does not serve this export.
        VerifyError: No request could be compared.
    """
    with ServerSide(address, pipeline.version, models) as server:
        server.require_export(pipeline.fingerprint)
        item_ids = catalog_ids(pipeline.repository, pipeline.version)
        walk = _Walk(pipeline, server, item_ids, tolerances, other_is_yardstick=False)
        return walk.all(requests, progress)


def _require_same_catalog(bundle: InterestBundle, pipeline: InProcessPipeline) -> list[str]:
    item_ids = catalog_ids(pipeline.repository, pipeline.version)
    if item_ids != bundle.catalog.item_id:
        own = bundle.catalog.item_id
        first = next(
            (position for position, pair in enumerate(zip(item_ids, own, strict=False)) if pair[0] != pair[1]),
            min(len(own), len(item_ids)),
        )
        raise UnlikeCatalogError(
            f"bundle {bundle.fingerprint}: got a catalog of {len(own):,} items; expected the {len(item_ids):,} of the "
            f"repository, in their order (they differ from item {first} on): give the bundle that version "
            f"{pipeline.version} was exported from"
        )
    return item_ids


class _Walk:
    """The in-process pipeline and another side, request by request."""

    def __init__(
        self,
        pipeline: InProcessPipeline,
        other: Side,
        item_ids: list[str],
        tolerances: Tolerances | None,
        *,
        other_is_yardstick: bool,
    ) -> None:
        if tolerances is None:
            tolerances = Tolerances.read(pipeline.repository, pipeline.version)
        self._local = local = LocalSide(pipeline)
        self._other = other
        self._item_ids = item_ids
        self._rounded = tolerances.encoder_is_rounded
        self._other_is_yardstick = other_is_yardstick
        sides = (other.name, local.name) if other_is_yardstick else (local.name, other.name)
        self._found = Differences(", ".join(sides), tolerances.by_field())
        self._asked: Asked

    def all(self, requests: Iterable[RecommendRequest], progress: Progress) -> list[StageDifference]:
        compared, refusal = 0, ""
        for asked in ask(requests, time.time_ns() // 1_000_000):
            self._asked = asked
            try:
                self._compare(asked)
                compared += 1
            except RefusedError as error:
                refusal = refusal or f"request {asked.number}: {error}"
                self._compare_refusal(asked, error)
            progress(1)
        if not compared:
            raise VerifyError(f"requests: got none that the export serves; expected at least one. {refusal}")
        return self._found.all()

    def _compare(self, asked: Asked) -> None:
        """All stages of one request.

        Raises:
            RefusedError: The in-process pipeline refuses it.
        """
        local, other = self._local, self._other
        vectors, others = self._compare_texts(asked.texts) if asked.texts else (None, None)
        weights = local.weights(asked, vectors)
        self._compare_weights(asked.weights_model.name, weights, asked, vectors)
        ranked = local.head(weights)
        self._note(contract.SCORING_HEAD.name, contract.SCORE.name, lambda: other.compare_head(asked, weights, ranked))
        # What a rounded encoder changes is judged at the encoder, by its own tolerance. Whole requests then go by the
        # vectors of the side that is looked at, so that their scores are compared as strictly as any.
        if self._rounded:
            vectors, others = self._oriented(vectors, others)[:1] * 2
        answer = local.recommend(asked, vectors)
        self._compare_answer(asked, answer, others)
        self._compare_candidates(asked, weights, vectors, others, self._candidates(asked, answer))

    def _compare_texts(self, texts: tuple[bytes, ...]) -> tuple[Floats, Floats]:
        """Tokenizer, encoder and both together; the vectors of the in-process pipeline and of the other side."""
        local, other = self._local, self._other
        tokens = local.tokens(texts)
        vector = contract.TEXT_VECTOR.name
        self._note(
            contract.TOKENIZER.name,
            contract.INPUT_IDS.name,
            lambda: _compare_tokens(*self._oriented(tokens, other.tokens(texts))),
        )
        vectors = local.vectors(tokens)
        self._note(
            contract.ENCODER.name, vector, lambda: compare_arrays(*self._oriented(vectors, other.vectors(tokens)))
        )
        try:
            others = other.embed(texts)
        except RefusedError as error:
            self._add(contract.EMBED.name, vector, self._refused(error))
            return vectors, vectors
        self._add(contract.EMBED.name, vector, compare_arrays(*self._oriented(vectors, others)))
        return vectors, others

    def _compare_weights(self, stage: str, weights: Weights, asked: Asked, vectors: Floats | None) -> None:
        try:
            got, expected = self._oriented(weights, self._other.weights(asked, vectors))
        except RefusedError as error:
            self._add(stage, contract.INTEREST.name, self._refused(error))
            return
        self._add(stage, contract.INTEREST.name, compare_arrays(got.interest, expected.interest))
        adjustments = compare_sparse(got.adjustments, expected.adjustments, self._item_ids)
        self._add(stage, contract.ADJUST_SCORE.name, adjustments)
        self._add(stage, contract.ALPHA_USED.name, _compare_numbers(got.alpha_used, expected.alpha_used))
        self._add(stage, contract.EVENT_COUNTS.name, _compare_counts(got.event_counts, expected.event_counts))

    def _compare_answer(self, asked: Asked, answer: Answered, vectors: Floats | None) -> None:
        stage = asked.ensemble.name
        try:
            ranking, alpha, events = self._other.compare_answer(asked, vectors, answer)
        except RefusedError as error:
            self._add(stage, contract.SCORE.name, self._refused(error))
            return
        self._add(stage, contract.SCORE.name, ranking)
        alphas, counts = self._oriented(answer.alpha_used, alpha), self._oriented(answer.event_counts, events)
        self._add(stage, contract.ALPHA_USED.name, _compare_numbers(*alphas))
        self._add(stage, contract.EVENT_COUNTS.name, _compare_counts(counts[0], counts[1]))

    def _candidates(self, asked: Asked, answer: Answered) -> Ints:
        """Items to score: the best and the last of the answer, those of the events, and one that nobody has."""
        ranked = item_keys([*answer.ranked.item_id[:_BEST], answer.ranked.item_id[-1]])
        some = np.concatenate([ranked, asked.request.event_item[:_SEEN], [_NOBODYS_KEY]])
        return some[: self._local.pipeline.limits.max_candidates]

    def _compare_candidates(
        self, asked: Asked, weights: Weights, vectors: Floats | None, others: Floats | None, candidates: Ints
    ) -> None:
        """The scores of candidates, by themselves and explained."""
        local, other = self._local, self._other
        score = contract.CANDIDATE_SCORE.name
        head = local.candidate_scores(weights, candidates)
        self._note(
            contract.CANDIDATE_HEAD.name,
            score,
            lambda: compare_with_unknown(*self._oriented(head, other.candidate_scores(weights, candidates))),
        )
        self._compare_outputs(
            asked.rank_model.name,
            local.rank(asked, vectors, candidates),
            lambda: other.rank(asked, others, candidates),
        )
        explained = local.explain(asked, vectors, candidates)
        self._compare_outputs(contract.EXPLAINER.name, explained, lambda: other.explain(asked, vectors, candidates))
        self._compare_outputs(
            asked.explain_model.name, explained, lambda: other.answer_explanation(asked, others, candidates)
        )

    def _compare_outputs(self, stage: str, local: Outputs, ask_other: Callable[[], Outputs]) -> None:
        """All outputs that the other side has too."""
        try:
            others = ask_other()
        except RefusedError as error:
            self._add(stage, contract.CANDIDATE_SCORE.name, self._refused(error))
            return
        for name, array in others.items():
            self._add(stage, name, compare_with_unknown(*self._oriented(local[name], array)))

    def _compare_refusal(self, asked: Asked, local: RefusedError) -> None:
        """A request that the in-process pipeline refuses: a server must refuse it in the same words."""
        if not isinstance(self._other, ServerSide):
            return
        try:
            self._other.recommend(asked)
            position = Place(np.inf, detail=f"{self._other.name} serves it; {self._local.name}: {local}")
        except RefusedError as error:
            alike = str(error) == str(local)
            position = Place(0.0) if alike else Place(np.inf, detail=f"got {error}; expected {local}")
        self._add(asked.ensemble.name, _REFUSAL, position)

    def _note(self, stage: str, field: str, compare: Callable[[], Place]) -> None:
        try:
            position = compare()
        except RefusedError as error:
            position = self._refused(error)
        self._add(stage, field, position)

    def _add(self, stage: str, field: str, position: Place) -> None:
        self._found.add(stage, field, position, self._asked.number, self._asked.ensemble.name)

    def _refused(self, error: RefusedError) -> Place:
        return Place(np.inf, detail=f"{self._other.name} refuses what {self._local.name} serves: {error}")

    def _oriented(self, local: _Value, other: _Value) -> tuple[_Value, _Value]:
        """What is looked at, and the yardstick."""
        return (local, other) if self._other_is_yardstick else (other, local)


def _compare_tokens(got: Tokens, expected: Tokens) -> Place:
    """Equal ids, text by text; padding does not count. Ids have no distance: any difference is infinite."""
    if len(got.input_ids) != len(expected.input_ids):
        return Place(np.inf, detail=f"got {len(got.input_ids)} texts; expected {len(expected.input_ids)}")
    for number, (one, other) in enumerate(zip(got.rows(), expected.rows(), strict=True)):
        if len(one) != len(other):
            return Place(np.inf, detail=f"text {number}: got {len(one)} tokens; expected {len(other)}")
        if one != other:
            position = next(index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
            return Place(
                np.inf, detail=f"text {number}, token {position}: got id {one[position]}; expected {other[position]}"
            )
    return Place(0.0)


def _compare_numbers(got: float, expected: float) -> Place:
    return compare_arrays(np.array([got]), np.array([expected]))


def _compare_counts(got: tuple[int, ...], expected: tuple[int, ...]) -> Place:
    return compare_arrays(np.array(got, dtype=np.float64), np.array(expected, dtype=np.float64))
