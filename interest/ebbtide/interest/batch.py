"""Serves the requests of one batch so that one which cannot be served does no harm to the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import RequestsRefused, RequestTensors
from ebbtide.interest.errors import RequestError

A = TypeVar("A")
R = TypeVar("R")


def serve_requests(requests: Sequence[R], serve: Callable[[Sequence[R]], Sequence[A]]) -> list[A | RequestError]:
    """The answers to a batch, in its order.

    All requests are served together. Only where some are refused, the others are served again without them.

    Args:
        requests: Of one batch.
        serve: Answers requests, or raises `RequestsRefused`.
    """
    answers: dict[int, A | RequestError] = {}
    left = list(range(len(requests)))
    while left:
        try:
            served = serve([requests[index] for index in left])
        except RequestsRefused as refused:
            answers.update({left[index]: error for index, error in refused.errors.items()})
            left = [index for index in left if index not in answers]
        else:
            answers.update(zip(left, served, strict=True))
            break
    return [answers[index] for index in range(len(requests))]


def run_guarded(
    requests: Sequence[RequestTensors],
    wanted: frozenset[str],
    run: Callable[[Sequence[RequestTensors], frozenset[str]], Sequence[A | Exception]],
) -> Sequence[A | Exception]:
    """The answers to a batch; after an unexpected error each request is run alone, so that only the culprit fails.

    Args:
        requests: Of one batch.
        wanted: Outputs that any of them wants.
        run: Answers them.
    """
    try:
        return run(requests, wanted)
    except Exception as error:
        if len(requests) == 1:
            return [error]
    return [answer for request in requests for answer in run_guarded([request], wanted, run)]


def rows_of(
    requests: Sequence[RequestTensors], outputs: Mapping[str, npt.NDArray[Any]]
) -> list[dict[str, npt.NDArray[Any]]]:
    """Each request's rows of outputs that hold one row for each user of a batch, in order; views, not copies."""
    if len(requests) == 1:
        return [dict(outputs)]
    rows: list[dict[str, npt.NDArray[Any]]] = []
    start = 0
    for request in requests:
        stop = start + request[contract.NOW.name].size
        rows.append({name: values[start:stop] for name, values in outputs.items()})
        start = stop
    return rows
