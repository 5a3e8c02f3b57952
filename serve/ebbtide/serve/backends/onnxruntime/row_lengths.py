"""Rows of like lengths run together, so that little of what a run computes is padding.

Texts of one request differ in length: padded to the longest of 8 titles, three tokens in ten are padding, and with one
long text among them six. `docs/benchmarks-serving.md` has what this spares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], Sequence[Array]]

_RUN_TOKENS = 24
"""What one more run costs, as a number of tokens (the packaged encoder on one core: 19 in fp32, 5 in int8)."""


def check_split(value: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *, batching: bool) -> None:
    """Refuses a parameter ``split_rows_by_length`` that the graph is not made for.

    Args:
        value: Of the parameter.
        inputs: Of the graph, by name; each has a ``shape``, -1 for a dimension that varies.
        outputs: The same.
        batching: Whether the model batches, so that the first dimension of every tensor is the row.

    Raises:
        ValueError: Saying what is expected.
    """
    if value not in inputs or tuple(inputs[value].shape) != (-1, -1):
        raise ValueError(f"parameter split_rows_by_length is '{value}', expected an input of shape [-1,-1]: a mask")
    if not batching:
        raise ValueError(f"parameter split_rows_by_length is '{value}', expected none while max_batch_size is 0")
    for name, output in outputs.items():
        if -1 in output.shape[1:]:
            raise ValueError(
                f"parameter split_rows_by_length is '{value}', expected none: the rows of output '{name}' vary in size"
            )


def run_by_length(run: Run, feeds: Mapping[str, Array], mask: str) -> list[Array]:
    """The outputs for all rows, in their order.

    Args:
        run: Gives the outputs for some rows.
        feeds: Inputs by name, each ``[rows, ...]``; those with the shape of the mask are cut to what the rows of a run
            need.
        mask: The name of one, ``[rows, tokens]``, that is zero behind the last token of a row.
    """
    shape = feeds[mask].shape
    lengths = row_lengths(feeds[mask])
    results: list[Array] = []
    for indices in split_rows(lengths):
        width = int(lengths[indices].max())
        part = {
            name: array[indices, :width] if array.shape == shape else array[indices] for name, array in feeds.items()
        }
        outputs = run(part)
        if not results:
            results = [np.empty((shape[0], *output.shape[1:]), output.dtype) for output in outputs]
        for result, output in zip(results, outputs, strict=True):
            result[indices] = output
    return results


def row_lengths(mask: Array) -> Array:
    """Tokens of each row up to the last that counts, ``[rows]``; all of a row in which none does."""
    lengths: Array = mask.shape[1] - (mask[:, ::-1] != 0).argmax(axis=1)
    return lengths


def split_rows(lengths: Array) -> list[Array]:
    """The places of each run's rows, shorter ones first; a run of its own must spare more than it costs."""
    order = lengths.argsort(kind="stable")
    return np.split(order, _cuts(lengths[order], 0))


def _cuts(ordered: Array, start: int) -> list[int]:
    rows = ordered.size
    if rows < 2:
        return []
    spared = np.arange(1, rows) * (ordered[-1] - ordered[:-1])
    best = int(spared.argmax())
    if spared[best] <= _RUN_TOKENS:
        return []
    cut = best + 1
    return [*_cuts(ordered[:cut], start), start + cut, *_cuts(ordered[cut:], start + cut)]
