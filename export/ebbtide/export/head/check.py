"""Compares an exported scoring head with torch: the top N items and their scores must be the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.export.choices import Precision
from ebbtide.export.errors import ParityError
from ebbtide.export.head.adjusting import adjust, random_adjustments
from ebbtide.export.head.attributes import ItemAttributes, allowed_items
from ebbtide.export.head.int8 import candidate_count
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.parity import TOLERANCE, Case, check_graph, ranking_difference, require_tolerance
from ebbtide.export.samples import random_samples
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Size
from ebbtide.interest.keys import item_keys
from ebbtide.interest.pipeline import AdaptiveWeights
from ebbtide.train.bundle import InterestBundle

_RANDOM_BATCHES = (1, 3, 32)
_REQUESTS = 64
_REQUESTS_PER_BATCH = 32
_SEED = 0
_ROUNDING = 1e-3
"""Largest change of scores by rounding factors to half precision (each by at most 2^-11), over the largest score."""
_TOLERANCE_MARGIN = 2.0
"""Factor on the largest difference on realistic requests, since other requests may differ somewhat more."""

Feeds = dict[str, npt.NDArray[Any]]
_INPUTS = tuple(tensor.name for tensor in served_models.SCORING_HEAD.inputs)


@dataclass(frozen=True)
class HeadCheck:
    """The difference of a scoring head from torch, and the tolerance."""

    difference: float
    """Largest absolute difference of scores."""
    tolerance: float
    """Largest difference allowed: `TOLERANCE`; with rounded factors, twice the difference on realistic requests."""


def check_head(
    in_process: InProcessPipeline,
    bundle: InterestBundle,
    sizes: Mapping[Size, int],
    precision: Precision = "fp32",
    attributes: ItemAttributes | None = None,
) -> HeadCheck:
    """Compares the exported head with torch on random interests and on interests of realistic requests.

    Random interests have random adjustments, with items that are excluded twice, and random filters.

    Args:
        in_process: The export.
        bundle: The exported bundle.
        sizes: Sizes of the export.
        precision: Precision of the head.
        attributes: Attributes of the head.

    Raises:
        ParityError: See `check_graph`; or the ids do not match the scores; or an item of the true top N is missing.
    """
    with torch.inference_mode():
        factors = torch.cat([bundle.model.item_factors(), torch.from_numpy(bundle.prior_columns)], dim=1)
    known = _KnownScores(factors, attributes)
    on_random = _largest(
        in_process, bundle, sizes, precision, known, _random_feeds(in_process, factors, sizes, attributes)
    )
    on_requests = _largest(in_process, bundle, sizes, precision, known, _request_feeds(in_process, bundle))
    if precision == "fp16":
        return HeadCheck(max(on_random, on_requests), max(TOLERANCE, _TOLERANCE_MARGIN * on_requests))
    return HeadCheck(max(on_random, on_requests), TOLERANCE)


@dataclass(frozen=True)
class _KnownScores:
    factors: Tensor
    attributes: ItemAttributes | None

    def of(self, feeds: Feeds) -> Tensor:
        """The scores of the whole catalog in torch, ``[requests, items]``."""
        interest, adjust_item, adjust_score, item_filter = (feeds[name] for name in _INPUTS)
        scores = torch.from_numpy(interest) @ self.factors.T
        adjust(scores.numpy(), adjust_item, adjust_score)
        if self.attributes is not None:
            scores[torch.from_numpy(~allowed_items(self.attributes, item_filter))] = -torch.inf
        return scores


def _largest(
    in_process: InProcessPipeline,
    bundle: InterestBundle,
    sizes: Mapping[Size, int],
    precision: Precision,
    known_scores: _KnownScores,
    batches: Iterator[Feeds],
) -> float:
    """The largest difference over batches; one batch at a time, to limit the memory for scores."""
    outputs = [tensor.name for tensor in served_models.SCORING_HEAD.outputs]
    index = bundle.catalog.index
    largest = 0.0
    for feeds in batches:
        scores = known_scores.of(feeds)
        known = scores.numpy()
        tolerance = TOLERANCE
        if precision == "fp16":
            tolerance = max(TOLERANCE, _ROUNDING * float(np.abs(known[np.isfinite(known)]).max(initial=0.0)))
        item_id, score, item_index = in_process.head.run(outputs, feeds)
        require_index(item_id, item_index, bundle.catalog.item_id)
        if precision == "int8":
            _require_all(item_id, known, index)
        best = torch.topk(scores, sizes[Size.TOP_N]).values.numpy()
        case = Case(feeds, {contract.SCORE.name: best})
        largest = max(largest, check_graph(in_process.head, served_models.SCORING_HEAD, sizes, [case], tolerance))
        for row in range(len(score)):
            difference = ranking_difference(item_id[row].tolist(), score[row], known[row], index)
            subject = f"ranking of {served_models.SCORING_HEAD.name} in ONNX against torch"
            largest = max(largest, require_tolerance(subject, difference, tolerance))
    return largest


def _require_all(item_id: npt.NDArray[np.object_], known: npt.NDArray[np.float32], index: Mapping[str, int]) -> None:
    """Accepts answers that hold the true top N, or items with equal scores within the tolerance.

    Raises:
        ParityError: Items are missing; the message states how many were found.
    """
    top_n = item_id.shape[1]
    for ids, scores in zip(item_id, known, strict=True):
        own = np.sort(scores[[index[item] for item in ids.tolist()]])[::-1]
        best = np.sort(scores)[::-1][:top_n]
        found = int(np.count_nonzero(own >= best - TOLERANCE))
        if found < top_n:
            raise ParityError(
                f"{served_models.SCORING_HEAD.name} in int8: got {found} of the {top_n} best items of a request among "
                f"its {candidate_count(len(scores), top_n)} candidates; expected all: export with --head-precision fp32"
            )


def _random_feeds(
    in_process: InProcessPipeline, factors: Tensor, sizes: Mapping[Size, int], attributes: ItemAttributes | None
) -> Iterator[Feeds]:
    random = np.random.default_rng(_SEED)
    scale = float(factors.abs().max()) or 1.0
    interest, _, _, item_filter = _INPUTS
    width = in_process.limits.adjustments
    for batch in _RANDOM_BATCHES:
        feeds: Feeds = {
            interest: (random.standard_normal((batch, factors.shape[1])) / scale).astype(np.float32),
            **random_adjustments(random, batch, width, len(factors)),
            item_filter: _random_filters(random, batch, sizes[Size.FILTER], attributes),
        }
        yield feeds


def require_index(item_id: npt.NDArray[Any], item_index: npt.NDArray[Any], catalog_ids: Sequence[str]) -> None:
    """Accepts rankings in which each catalog index belongs to the item id.

    Raises:
        ParityError: An index does not match; the message names the first.
    """
    for item, index in zip(item_id.ravel().tolist(), item_index.ravel().tolist(), strict=True):
        if catalog_ids[index] != item:
            raise ParityError(
                f"{served_models.SCORING_HEAD.name}: {contract.ITEM_INDEX.name}: got {index}, which is "
                f"{catalog_ids[index]!r}; expected the index of {item!r}"
            )


def _random_filters(
    random: np.random.Generator, batch: int, words: int, attributes: ItemAttributes | None
) -> npt.NDArray[np.int64]:
    """Random filters: every second request has none, the others allow the values of a random item in one column.

    Of a numeric column they allow the range between two random items.
    """
    if attributes is None:
        return np.ones((batch, words), dtype=np.int64)
    found = np.zeros((batch, words), dtype=np.int64)
    found[:, [first for first, _ in attributes.columns]] = 1
    for row in range(1, batch, 2):
        column = int(random.integers(len(attributes.columns)))
        first, end = attributes.columns[column]
        if column in attributes.numeric:
            of_items = attributes.words[random.integers(len(attributes.words), size=2), first + 1]
            found[row, first], found[row, first + 1 : end] = 0, np.sort(of_items)
            continue
        found[row, first:end] = attributes.words[random.integers(len(attributes.words)), first:end]
        found[row, first] &= ~1
    return found


def _request_feeds(in_process: InProcessPipeline, bundle: InterestBundle) -> Iterator[Feeds]:
    """Inputs of the head that `adaptive_weights` computes from random requests, edge cases included."""
    keys = item_keys(bundle.catalog.item_id)
    with torch.inference_mode():
        vectors = (bundle.model.text_vectors @ bundle.model.event_projection).numpy()
    samples = random_samples(len(bundle.catalog), _REQUESTS, in_process.limits, _SEED)
    weights = in_process.weights.run([sample.request(keys, vectors) for sample in samples])
    sound = [answer for answer in weights if isinstance(answer, AdaptiveWeights)]
    for start in range(0, len(sound), _REQUESTS_PER_BATCH):
        batch = sound[start : start + _REQUESTS_PER_BATCH]
        yield {
            tensor.name: np.stack([getattr(answer, tensor.name) for answer in batch])
            for tensor in served_models.SCORING_HEAD.inputs
        }
