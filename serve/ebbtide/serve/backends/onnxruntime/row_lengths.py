"""Runs rows of similar length together, so that a run computes little padding.

Texts of one request differ in length. If 8 titles are padded to the longest, three of ten tokens are padding; with one
long text among them, six of ten. `docs/benchmarks-serving.md` says how much time this saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], Sequence[Array]]

_RUN_TOKENS = 24
"""Cost of an additional run, in tokens (measured with the packaged encoder on one core: 19 in fp32, 5 in int8)."""


def check_split(value: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *, batching: bool) -> None:
    """Refuses a parameter ``split_rows_by_length`` that does not fit the graph.

    Args:
        value: Value of the parameter.
        inputs: Inputs of the graph by name; each has a ``shape``, with -1 for a variable dimension.
        outputs: Outputs of the graph, in the same form.
        batching: Whether the model batches, so that the first dimension of every tensor is the row.

    Raises:
        ValueError: The parameter does not fit; the message says what is expected.
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
    """The outputs for all rows, in the order of the rows.

    Args:
        run: Computes the outputs for some rows.
        feeds: Inputs by name, each ``[rows, ...]``; inputs with the shape of the mask are cut to the longest row of
            each run.
        mask: Name of the input ``[rows, tokens]`` that is zero after the last token of a row.
    """
    shape = feeds[mask].shape
    lengths = row_lengths(feeds[mask])
    results: list[Array] = []
    for rows in split_rows(lengths):
        width = int(lengths[rows].max())
        run_feeds = {
            name: array[rows, :width] if array.shape == shape else array[rows] for name, array in feeds.items()
        }
        outputs = run(run_feeds)
        if not results:
            results = [np.empty((shape[0], *output.shape[1:]), output.dtype) for output in outputs]
        for result, output in zip(results, outputs, strict=True):
            result[rows] = output
    return results


def row_lengths(mask: Array) -> Array:
    """Length of each row up to its last token that is not masked, ``[rows]``; the full length if all are masked."""
    lengths: Array = mask.shape[1] - (mask[:, ::-1] != 0).argmax(axis=1)
    return lengths


def split_rows(lengths: Array) -> list[Array]:
    """The row indices of each run, shorter rows first; an additional run must save more than it costs."""
    order = lengths.argsort(kind="stable")
    return np.split(order, _cuts(lengths[order], 0))


def _cuts(ordered: Array, start: int) -> list[int]:
    rows = ordered.size
    if rows < 2:
        return []
    saved = np.arange(1, rows) * (ordered[-1] - ordered[:-1])
    best = int(saved.argmax())
    if saved[best] <= _RUN_TOKENS:
        return []
    cut = best + 1
    return [*_cuts(ordered[:cut], start), start + cut, *_cuts(ordered[cut:], start + cut)]
