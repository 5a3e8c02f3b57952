"""Writes and checks a scoring head that answers from an approximate index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import save_file

from ebbtide.export.errors import ParityError, RetrievalError
from ebbtide.export.head.adjusting import adjust, random_adjustments
from ebbtide.export.head.check import require_index
from ebbtide.export.head.graph import item_factors
from ebbtide.export.head.options import RetrievalOptions
from ebbtide.export.parity import ranking_difference, require_tolerance
from ebbtide.export.samples import random_samples
from ebbtide.export.tables import share_file
from ebbtide.interest import exported, served_models
from ebbtide.interest.contract import Limits, Size
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.keys import item_keys
from ebbtide.interest.parameters import CONFIG_FILE
from ebbtide.interest.pipeline import AdaptiveWeights, InterestPipeline
from ebbtide.interest.retrieval import RETRIEVAL_FILE, RetrievalSettings, RetrievalTables
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.files import default_mode

if TYPE_CHECKING:
    from ebbtide.export.head.index import Index
    from ebbtide.export.inprocess import InProcessPipeline

Floats = npt.NDArray[np.float32]

INTERESTS = 128
"""Number of requests for the search parameters: half of them choose the parameters, half measure the recall."""
_NEAR_ITEMS = 200
_SEED = 7


@dataclass(frozen=True)
class RetrievalReport:
    """Build settings, recall and speed of an index."""

    method: str
    parameters: dict[str, int]
    candidates: int
    recall_at_100: float
    """Recall at 100 on requests that were not used to choose the parameters."""
    search_ms: float
    """Median time of one search with one thread, without scoring the candidates."""


def write_approximate_head(
    bundle: InterestBundle,
    repository: Path,
    version: int,
    sizes: Mapping[Size, int],
    options: RetrievalOptions,
    report: Callable[[str], None] = lambda _part: None,
) -> RetrievalReport:
    """Builds an index and writes it with its tables into the scoring head's version folder.

    Args:
        bundle: The bundle to export.
        repository: Repository that already has the tables of `adaptive_weights`; both models share files on the disk.
        version: Version of the export.
        sizes: Sizes of the export.
        options: Retrieval options other than ``exact``.
        report: Called with the progress.

    Raises:
        RetrievalError: See `build_index`; or faiss is not installed.
    """
    try:
        from ebbtide.export.head.index import build_index
    except ImportError as error:
        raise RetrievalError(
            f"retrieval {options.method}: faiss is not installed ({error}); install it: pip install faiss-cpu"
        ) from error
    weights_folder, folder = (
        repository / model.name / str(version) for model in (served_models.ADAPTIVE_WEIGHTS, served_models.SCORING_HEAD)
    )
    config = exported.read_interest_config(weights_folder)
    factors = item_factors(bundle)
    interests = request_interests(bundle, exported.read_pipeline(weights_folder), config.limits)
    index = build_index(factors, interests, sizes[Size.TOP_N], options, report)
    write_index(index, bundle.catalog.item_id, sizes[Size.TOP_N], config.fingerprint, folder)
    for file in (CONFIG_FILE, exported.ATTRIBUTES_FILE):
        share_file(weights_folder / file, folder / file)
    factors_file = repository / served_models.CANDIDATE_HEAD.name / str(version) / exported.FACTORS_FILE
    if factors_file.is_file():
        share_file(factors_file, folder / exported.FACTORS_FILE)
    else:
        _save({exported.ITEM_FACTORS: factors}, folder / exported.FACTORS_FILE, {"fingerprint": config.fingerprint})
    return RetrievalReport(options.method, index.parameters, index.candidates, index.recall, index.query_ms)


def request_interests(bundle: InterestBundle, pipeline: InterestPipeline, limits: Limits) -> Floats:
    """Interests of realistic requests, ``[requests, d + p]``: users with varied items and users with similar items."""
    random = np.random.default_rng(_SEED)
    keys = item_keys(bundle.catalog.item_id)
    vectors = bundle.model.event_vectors().detach().numpy()
    requests = []
    for index, sample in enumerate(random_samples(len(keys), INTERESTS, limits, _SEED, texts=False)):
        # In pairs, since every second interest chooses the parameters and the others measure the recall.
        if index % 4 >= 2 and sample.item.size:
            similarity = vectors @ vectors[random.integers(len(keys))]
            count = min(_NEAR_ITEMS, len(keys))
            near = np.argpartition(-similarity, count - 1)[:count]
            sample = replace(sample, item=random.choice(near, sample.item.size))
        requests.append(sample.request(keys, vectors))
    answers = pipeline.run(requests)
    return np.stack([answer.interest for answer in answers if isinstance(answer, AdaptiveWeights)])


def check_retrieval(in_process: InProcessPipeline, bundle: InterestBundle, sizes: Mapping[Size, int]) -> float:
    """Compares the written head with torch: items have their exact scores, sorted best first.

    Returns:
        The largest absolute difference of scores.

    Raises:
        ParityError: An item occurs twice, or a score is wrong.
    """
    random = np.random.default_rng(_SEED)
    interests = request_interests(bundle, in_process.weights, in_process.limits)
    rows, width = len(interests), in_process.limits.adjustments
    adjust_item, adjust_score = random_adjustments(random, rows, width, len(bundle.catalog)).values()
    # The first bit of a column turns its filter off; setting it in every word covers all columns.
    item_filter = np.ones((rows, sizes[Size.FILTER]), dtype=np.int64)
    inputs = (interests, adjust_item, adjust_score, item_filter)
    feeds = dict(zip((tensor.name for tensor in served_models.SCORING_HEAD.inputs), inputs, strict=True))
    outputs = [tensor.name for tensor in served_models.SCORING_HEAD.outputs]
    item_id, score, item_index = in_process.head.run(outputs, feeds)
    require_index(item_id, item_index, bundle.catalog.item_id)
    scores = (torch.from_numpy(interests) @ torch.from_numpy(item_factors(bundle)).T).numpy()
    adjust(scores, adjust_item, adjust_score)
    index, largest = bundle.catalog.index, 0.0
    for row in range(rows):
        known = scores[row]
        difference = ranking_difference(item_id[row].tolist(), score[row], known, index, complete=False)
        if np.any(score[row][:-1] < score[row][1:]):
            raise ParityError(f"{served_models.SCORING_HEAD.name}: got scores {score[row]}; expected the best first")
        largest = max(largest, difference)
    return require_tolerance(f"{served_models.SCORING_HEAD.name} with an index against torch", largest)


def write_index(index: Index, item_id: Sequence[str], top_n: int, fingerprint: str, folder: Path) -> None:
    """Writes the index and the catalog's ids as one file."""
    import faiss

    tables = RetrievalTables(
        RetrievalSettings(top_n, index.candidates), faiss.serialize_index(index.faiss_index), ItemIds.of(item_id)
    )
    tensors, metadata = tables.to_tensors()
    _save(tensors, folder / RETRIEVAL_FILE, {"fingerprint": fingerprint, **metadata})


def _save(tables: dict[str, npt.NDArray[Any]], path: Path, metadata: dict[str, str]) -> None:
    # safetensors writes the memory of an array without regard to its strides.
    with default_mode(path):
        save_file({name: np.ascontiguousarray(table) for name, table in tables.items()}, str(path), metadata=metadata)
