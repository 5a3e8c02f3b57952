"""Composes lists from the candidates of the scoring head: the `slate_composer` model without Triton's API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import RequestTensors, RowError
from ebbtide.interest.errors import RequestError
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.new_items import GrownTable, NewItems
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.rules import MOVED, PINNED
from ebbtide.interest.slate import Slate, Wishes, compose
from ebbtide.interest.slate_diversity import unit_rows
from ebbtide.interest.slate_options import (
    CANDIDATES,
    DEFAULT_SIZE,
    MOVED_BY,
    RANK,
    RELAXED,
    RELAXED_VALUE,
    RULES,
    SIZE,
    SlateOptions,
)
from ebbtide.interest.slate_values import ItemValues, wishes_of
from ebbtide.interest.weighed import KnownItems

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Row = dict[str, npt.NDArray[Any]]


_PAIRS = (
    (contract.ITEM_ID.name, contract.SCORE.name),
    (contract.NEW_ITEM_ID.name, contract.NEW_ITEM_SCORE.name),
    (contract.SEEN_ITEM.name, contract.SEEN_WEIGHT.name),
)
"""Tensors with as many entries each; those of the lists first."""


class IdIndex:
    """From item ids to catalog indices, by hashes of this process: 16 bytes an item, and no string is kept."""

    def __init__(self, ids: ItemIds) -> None:
        """Takes the ids of a catalog."""
        content, start = ids.content.tobytes(), ids.start.tolist()
        hashes = np.fromiter(
            (hash(content[begin:end]) for begin, end in pairwise(start)),
            dtype=np.int64,
            count=len(start) - 1,
        )
        self._order = np.argsort(hashes)
        self._hashes = hashes[self._order]

    def find(self, ids: Sequence[bytes]) -> Ints:
        """Catalog indices, ``[ids]``; `UNKNOWN` for other ids."""
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        position = np.minimum(self._hashes.searchsorted(hashes), self._hashes.size - 1)
        return np.where(self._hashes[position] == hashes, self._order[position], UNKNOWN)


@dataclass(frozen=True)
class SlateTables:
    """What the composer needs of an export."""

    factors: Floats
    """``[items, d + p]``, in catalog order; may be memory-mapped."""
    values: ItemValues
    ids: ItemIds


@dataclass(frozen=True)
class _Candidates:
    """The candidates of one user, best first, and the pins of rules of the house."""

    item_id: list[bytes]
    score: Floats
    item: Ints
    """Catalog indices; `UNKNOWN` for a new item that this process has not read yet."""
    pinned: dict[int, int]
    """Candidate by its position, from 0."""
    rules: dict[int, list[str]]
    """Names of the rules that moved a candidate."""


class SlateComposer:
    """Answers batches of requests."""

    def __init__(self, pipeline: InterestPipeline, tables: SlateTables) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Of the export; knows the items.
            tables: Of the export.
        """
        self.pipeline = pipeline
        self._tables = tables
        self._index = IdIndex(tables.ids)
        # A plain view of a memory map: each operation on a `memmap` costs microseconds for its class alone.
        self._factors = np.asarray(tables.factors)
        self._d = pipeline.parameters.vector_width

    def run_requests(self, requests: Sequence[RequestTensors]) -> list[Row | RequestError]:
        """The answers to requests as the server has them.

        Args:
            requests: The inputs of `served_models.SLATE_COMPOSER`, each with a leading dimension of users.

        Returns:
            For each request the lists of its users, padded to the longest, or the error of its first bad one.
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: RequestTensors) -> Row | RequestError:
        users = request[contract.SCORE.name].shape[0]
        for one, other in _PAIRS:
            shapes = [request[name].shape if name in request else None for name in (one, other)]
            if shapes[0] != shapes[1]:
                return RequestError(one, f"shape {shapes[0]}", f"that of {other}, {shapes[1]}")
        # Once: another thread may replace them.
        items = self.pipeline.items
        found: list[tuple[list[bytes], Floats, dict[str, Any]]] = []
        for user in range(users):
            try:
                found.append(self._compose(request, user, items))
            except RequestError as error:
                return error if users == 1 else RowError(error, user)
        width = max(len(ids) for ids, _, _ in found)
        item_id = np.full((users, width), b"", dtype=np.object_)
        score = np.full((users, width), -np.inf, dtype=np.float32)
        notes = np.empty((users, 1), dtype=np.object_)
        for user, (ids, scores, told) in enumerate(found):
            item_id[user, : len(ids)] = ids
            score[user, : len(ids)] = scores
            notes[user, 0] = json.dumps(told, ensure_ascii=False).encode()
        return {
            contract.SLATE_ITEM_ID.name: item_id,
            contract.SLATE_SCORE.name: score,
            contract.SLATE_NOTES.name: notes,
        }

    def _compose(
        self, request: RequestTensors, user: int, items: KnownItems
    ) -> tuple[list[bytes], Floats, dict[str, Any]]:
        given = request.get(contract.SLATE.name)
        options = SlateOptions.parse(b"" if given is None else _bytes(given[user, 0]))
        most = request[contract.SCORE.name].shape[1]
        if options.size > most:
            raise RequestError(
                "top_n", str(options.size), f"at most {most}: the model was exported with --top-n {most}"
            )
        options = replace(options, size=options.size or min(DEFAULT_SIZE, most))
        candidates = self._candidates(request, user, items.new, options.size)
        if not candidates.item_id:
            self._tables.values.check(options)
            return [], np.empty(0, dtype=np.float32), _told(options, candidates, Slate([], [], []))
        wishes = self._wishes(options, candidates, _seen(request, user, items), items.new)
        slate = compose(candidates.score, wishes)
        ids = [candidates.item_id[index] for index in slate.chosen]
        return ids, candidates.score[slate.chosen], _told(options, candidates, slate)

    def _wishes(
        self, options: SlateOptions, candidates: _Candidates, seen: tuple[Ints, Floats], new: NewItems | None
    ) -> Wishes:
        directions = None
        if options.diversity > 0:
            table = self._factors if new is None else GrownTable(self._factors, new, new.factors)
            factors = table.take(np.maximum(candidates.item, 0), axis=0)[:, : self._d]
            directions = unit_rows(np.where((candidates.item != UNKNOWN)[:, None], factors, np.float32(0)))
        return wishes_of(options, self._tables.values, candidates.item, seen, new, directions, candidates.pinned)

    def _candidates(self, request: RequestTensors, user: int, new: NewItems | None, size: int) -> _Candidates:
        """The head's list and that of new items as one, best first."""
        ids: list[bytes] = []
        scores: list[Floats] = []
        for of_ids, of_scores in _PAIRS[:2]:
            if of_scores in request and request[of_scores].size:
                # An item that the user may not get has minus infinity.
                kept = np.flatnonzero(np.isfinite(request[of_scores][user]))
                ids += [_bytes(one) for one in request[of_ids][user][kept].tolist()]
                scores.append(request[of_scores][user][kept])
        score = np.concatenate(scores) if scores else np.empty(0, dtype=np.float32)
        ids, score = _best_first(ids, score)
        told = request.get(contract.APPLIED_RULES.name)
        text = b"" if told is None or not told.size else _bytes(told[user, 0])
        pinned: dict[int, int] = {}
        rules: dict[int, list[str]] = {}
        if text:
            try:
                ids, score, pinned, rules = _ruled(json.loads(text), ids, score, size)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                expected = "what adaptive_weights says"
                raise RequestError(contract.APPLIED_RULES.name, repr(error), expected) from error
        return _Candidates(ids, score, self._items(ids, new), pinned, rules)

    def _items(self, ids: Sequence[bytes], new: NewItems | None) -> Ints:
        item = self._index.find(ids)
        if new is not None:
            unknown = np.flatnonzero(item == UNKNOWN).tolist()
            if unknown:
                index_of = dict(zip(new.item_id.tolist(), new.index.tolist(), strict=True))
                item[unknown] = [index_of.get(ids[one], UNKNOWN) for one in unknown]
        return item


def _ruled(
    told: dict[str, Any], ids: list[bytes], score: Floats, size: int
) -> tuple[list[bytes], Floats, dict[int, int], dict[int, list[str]]]:
    """Candidates with those that rules pin, their positions, and the rules that moved any."""
    pins = [(int(position) - 1, item_id.encode(), value, name) for position, item_id, value, name in told[PINNED]]
    pins = [pin for pin in pins if pin[0] < size]
    missing = [(item_id, value) for _, item_id, value, _ in pins if item_id not in set(ids)]
    if missing:
        more = np.array([value for _, value in missing], dtype=np.float32)
        ids, score = _best_first([*ids, *(item_id for item_id, _ in missing)], np.concatenate([score, more]))
    index_of = {item_id: index for index, item_id in enumerate(ids)}
    rules = {index_of[key.encode()]: names for key, names in told[MOVED].items() if key.encode() in index_of}
    rules |= {index_of[item_id]: [name] for _, item_id, _, name in pins}
    return ids, score, {position: index_of[item_id] for position, item_id, _, _ in pins}, rules


def _best_first(ids: list[bytes], score: Floats) -> tuple[list[bytes], Floats]:
    if not (np.diff(score) > 0).any():
        return ids, score
    order = np.argsort(-score, kind="stable")
    return [ids[index] for index in order.tolist()], score[order]


def _seen(request: RequestTensors, user: int, items: KnownItems) -> tuple[Ints, Floats]:
    """Catalog index and weight of the items of a user's events; texts and items that are gone are left out."""
    item, weight = request.get(contract.SEEN_ITEM.name), request.get(contract.SEEN_WEIGHT.name)
    if item is None or weight is None:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    known = (item[user] != UNKNOWN) & items.index.is_known(item[user]) & np.isfinite(weight[user])
    return item[user][known], weight[user][known]


def _told(options: SlateOptions, candidates: _Candidates, slate: Slate) -> dict[str, Any]:
    return {
        SIZE: options.size,
        CANDIDATES: len(candidates.item_id),
        RANK: [index + 1 for index in slate.chosen],
        MOVED_BY: [_bits(moved) for moved in slate.moved_by],
        RULES: [candidates.rules.get(index, []) for index in slate.chosen],
        RELAXED: [[one.cause, one.wanted, one.got, one.position] for one in slate.relaxed],
        RELAXED_VALUE: [one.value for one in slate.relaxed],
    }


def _bits(number: int) -> list[int]:
    return [bit for bit in range(number.bit_length()) if number >> bit & 1]


def _bytes(text: Any) -> bytes:  # noqa: ANN401 - bytes from Triton, text from ONNX Runtime
    return text if isinstance(text, bytes) else str(text).encode()
