"""Serves the requests of one batch so that one which cannot be served does no harm to the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import Request
from ebbtide.interest.columns import Part, PartsRefused
from ebbtide.interest.errors import RequestError

A = TypeVar("A")

_REQUEST_FIELDS = frozenset(field.name for field in fields(Request))


def as_part(request: Request) -> Part:
    """The tensors that a request has."""
    return {name: value for name, value in vars(request).items() if value is not None}


def serve_parts(
    parts: Sequence[Part],
    serve: Callable[[Sequence[Part]], Sequence[A]],
    refusal: Callable[[Part], RequestError],
) -> list[A | RequestError]:
    """The answers to a batch, in its order.

    All parts are served together. Only where some are refused, each of those is looked at alone, for the error's text,
    and the others are served again without them.

    Args:
        parts: Of one batch.
        serve: Answers parts, or raises `PartsRefused`.
        refusal: Why a part cannot be served.
    """
    answers: dict[int, A | RequestError] = {}
    left = list(range(len(parts)))
    while left:
        try:
            served = serve([parts[position] for position in left])
        except PartsRefused as refused:
            for position in [left[index] for index in refused.parts]:
                answers[position] = refusal(parts[position])
                left.remove(position)
        else:
            answers.update(zip(left, served, strict=True))
            break
    return [answers[position] for position in range(len(parts))]


def run_guarded(
    parts: Sequence[Part],
    wanted: frozenset[str],
    run: Callable[[Sequence[Part], frozenset[str]], Sequence[A | Exception]],
) -> Sequence[A | Exception]:
    """The answers to a batch; after an error that nobody foresaw each part is run alone: only the culprit fails.

    Args:
        parts: Of one batch.
        wanted: Outputs that any of them wants.
        run: Answers them.
    """
    try:
        return run(parts, wanted)
    except Exception as error:
        if len(parts) == 1:
            return [error]
    return [answer for part in parts for answer in run_guarded([part], wanted, run)]


def rows_of(parts: Sequence[Part], outputs: Mapping[str, npt.NDArray[Any]]) -> list[dict[str, npt.NDArray[Any]]]:
    """Each part's share of outputs that hold one row for each user of a batch, in order; views, not copies."""
    if len(parts) == 1:
        return [dict(outputs)]
    rows: list[dict[str, npt.NDArray[Any]]] = []
    start = 0
    for part in parts:
        stop = start + part[contract.NOW.name].size
        rows.append({name: values[start:stop] for name, values in outputs.items()})
        start = stop
    return rows


def first_refusal(part: Part, refusal: Callable[[Request], RequestError | None]) -> RequestError:
    """Why the first of a part's users who cannot be served cannot be.

    Raises:
        RuntimeError: All of them can.
    """
    users = part[contract.NOW.name].size
    for row, request in enumerate(_users(part)):
        error = refusal(request)
        if error is not None:
            return error if users == 1 else RowError(error, row)
    raise RuntimeError(f"a request was refused for no reason that can be told: {sorted(part)}")


class RowError(RequestError):
    """What is wrong with one of several users of a request."""

    def __init__(self, error: RequestError, row: int) -> None:
        super().__init__(error.field, error.value, error.expected)
        self.row = row

    def __str__(self) -> str:
        return f"row {self.row}: {super().__str__()}"


def _users(part: Part) -> Iterator[Request]:
    batched = part[contract.NOW.name].ndim == 2
    for row in range(part[contract.NOW.name].size):
        yield Request(
            **{name: values[row] if batched else values for name, values in part.items() if name in _REQUEST_FIELDS}
        )
