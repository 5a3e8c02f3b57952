"""Answers to work with: one of many, as text, as a dict, and as a pandas or polars frame where these are installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from ebbtide.client.errors import EbbtideError
from ebbtide.v1 import RecommendRequest, RecommendResponse

if TYPE_CHECKING:
    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]
    import polars as pl


@dataclass(frozen=True)
class RecommendResult:
    """What became of one request of `InterestClient.recommend_many`: either a response or an error."""

    request: RecommendRequest = field(repr=False)
    """The request."""
    response: RecommendResponse | None = None
    """The answer; None where the call failed."""
    error: EbbtideError | None = None
    """Why the call failed; None where it was answered."""

    def __str__(self) -> str:
        return to_text(self.response) if self.response is not None else f"{type(self.error).__name__}: {self.error}"


Answers = RecommendResponse | Sequence[RecommendResult]
"""One answer, or the results of many requests."""


def to_dict(response: RecommendResponse) -> dict[str, Any]:
    """The answer as plain Python values, with the names of the message's fields; ready for JSON."""
    return MessageToDict(response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def to_text(response: RecommendResponse) -> str:
    """The answer as a small table for people to read."""
    head = (
        f"alpha {response.alpha_used:.2f} (share of history), {response.events_used} events counted, model version "
        f"{response.model_version or 'unknown'}"
    )
    width = max((len(item.item_id) for item in response.items), default=0)
    rows = [f"{rank:3d}  {item.item_id:<{width}}  {item.score: .4f}" for rank, item in enumerate(response.items, 1)]
    return "\n".join([head, *rows])


def to_pandas(answers: Answers) -> pd.DataFrame:
    """One row for each recommended item: ``rank`` (from 1), ``item_id`` and ``score`` (float32).

    Args:
        answers: One answer; or many results, whose rows begin with ``request``, the result's index; failed ones have
            none.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

    columns = _columns(answers)
    return pd.DataFrame({name: pd.Series(values, dtype=_PANDAS_DTYPES[name]) for name, values in columns.items()})


def to_polars(answers: Answers) -> pl.DataFrame:
    """As `to_pandas`, in polars.

    Raises:
        ModuleNotFoundError: polars is not installed.
    """
    import polars as pl

    columns = _columns(answers)
    dtypes = {"request": pl.Int64, "rank": pl.Int64, "item_id": pl.String, "score": pl.Float32}
    return pl.DataFrame(columns, schema={name: dtypes[name] for name in columns})


_PANDAS_DTYPES = {"request": "int64", "rank": "int64", "item_id": "str", "score": "float32"}


def _columns(answers: Answers) -> dict[str, list[Any]]:
    names: tuple[str, ...] = ("rank", "item_id", "score")
    rows: list[tuple[Any, ...]]
    if isinstance(answers, RecommendResponse):
        rows = _rows(answers)
    else:
        names = ("request", *names)
        answered = [(index, result.response) for index, result in enumerate(answers) if result.response is not None]
        rows = [(index, *row) for index, response in answered for row in _rows(response)]
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def _rows(response: RecommendResponse) -> list[tuple[Any, ...]]:
    return [(rank, item.item_id, item.score) for rank, item in enumerate(response.items, start=1)]
