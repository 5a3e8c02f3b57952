"""Measures batch sizes of the exported graphs in this process, with the number of threads in their configs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.export import versions
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.warmup import CommonGround, warmup_samples
from ebbtide.interest import contract, served_models

_LENGTH_QUANTILES = (0.1, 0.5, 0.9)
_SAMPLED_TEXTS = 256
_LEAST_RUNS = 5
_ENOUGH_S = 0.25
_NEAR_BEST = 0.9
"""A batch size is good enough if its rows per second are at least this share of the best."""


@dataclass(frozen=True)
class SweepRow:
    """The measured speed of one batch size of one graph."""

    model: str
    batch: int
    tokens: int | None
    """Tokens of each text; None for the scoring head."""
    median_ms: float
    rows_per_s: float


def sweep(repository: Path, ground: CommonGround, texts: Sequence[str]) -> tuple[SweepRow, ...]:
    """Measures scoring head and encoder over batch sizes; the encoder with short, medium and long texts.

    Args:
        repository: An exported folder.
        ground: What its versions have in common.
        texts: Texts of the catalog.
    """
    in_process = InProcessPipeline(repository)
    samples = {
        name: {sample.name: sample for sample in of_model} for name, of_model in warmup_samples(ground, texts).items()
    }
    rows: list[SweepRow] = []
    head = samples[served_models.SCORING_HEAD.name]["typical"].arrays
    for batch in _sizes(repository, served_models.SCORING_HEAD.name):
        rows.append(_measure(served_models.SCORING_HEAD.name, batch, None, in_process.head.run, _repeated(head, batch)))
    ids = samples[served_models.ENCODER.name]["longest"].arrays[contract.INPUT_IDS.name]
    for tokens in _token_lengths(in_process, texts, ids.size):
        row = {
            contract.INPUT_IDS.name: ids[:tokens],
            contract.ATTENTION_MASK.name: np.ones(tokens, dtype=np.int64),
        }
        for batch in _sizes(repository, served_models.ENCODER.name):
            rows.append(
                _measure(served_models.ENCODER.name, batch, tokens, in_process.encoder.run, _repeated(row, batch))
            )
    return tuple(rows)


def preferred_batch_sizes(rows: Sequence[SweepRow]) -> dict[str, tuple[int, ...]]:
    """For each model, the smallest batch size within 10 percent of the best rows per second, and the largest size.

    The encoder's sizes are those for texts of medium length.
    """
    preferred: dict[str, tuple[int, ...]] = {}
    for name in dict.fromkeys(row.model for row in rows):
        lengths = sorted({row.tokens or 0 for row in rows if row.model == name})
        middling = lengths[len(lengths) // 2]
        found = [row for row in rows if row.model == name and (row.tokens or 0) == middling]
        enough = _NEAR_BEST * max(row.rows_per_s for row in found)
        smallest = min(row.batch for row in found if row.rows_per_s >= enough)
        preferred[name] = tuple(sorted({smallest, max(row.batch for row in found)}))
    return preferred


def prefer(repository: Path, sizes: Mapping[str, Sequence[int]]) -> None:
    """Writes preferred batch sizes into the configs of models with dynamic batching."""
    for name, preferred in sizes.items():

        def change(config: Any, preferred: Sequence[int] = preferred) -> None:  # noqa: ANN401 - no types
            config.dynamic_batching.preferred_batch_size[:] = preferred

        versions.rewrite_configs(repository / name, change)


def _sizes(repository: Path, name: str) -> Iterator[int]:
    """Batch sizes to measure: powers of two, and the model's largest batch."""
    largest = versions.read_model_config(repository, name).max_batch_size
    size = 1
    while size < largest:
        yield size
        size *= 2
    yield largest


def _token_lengths(in_process: InProcessPipeline, texts: Sequence[str], longest: int) -> list[int]:
    step = max(1, len(texts) // _SAMPLED_TEXTS)
    widths = [in_process.tokenizer.encode([text.encode()]).input_ids.shape[1] for text in texts[::step]]
    return sorted({min(int(width), longest) for width in np.quantile(widths, _LENGTH_QUANTILES, method="nearest")})


def _repeated(row: Mapping[str, npt.NDArray[Any]], batch: int) -> dict[str, npt.NDArray[Any]]:
    return {name: np.repeat(array[None], batch, axis=0) for name, array in row.items()}


def _measure(
    model: str, batch: int, tokens: int | None, run: Callable[..., Any], feeds: Mapping[str, npt.NDArray[Any]]
) -> SweepRow:
    run(None, feeds)
    seconds: list[float] = []
    while len(seconds) < _LEAST_RUNS or sum(seconds) < _ENOUGH_S:
        began = time.perf_counter()
        run(None, feeds)
        seconds.append(time.perf_counter() - began)
    median = float(np.median(seconds))
    return SweepRow(model, batch, tokens, round(median * 1_000, 3), round(batch / median, 1))
