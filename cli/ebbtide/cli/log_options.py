"""Options that say how an event log is read, which several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from ebbtide.interest.time_units import TimeUnit

UnitOfTimes = Annotated[
    TimeUnit | None,
    typer.Option(
        "--time-unit", help="Unit of numeric times. Default: found by magnitude for times between 1995 and 2200."
    ),
]
FormatOfTimes = Annotated[
    str | None,
    typer.Option("--time-format", help="strptime format of times that are not ISO 8601, such as '%d/%m/%Y %H:%M'."),
]
EncodingOfTexts = Annotated[
    str | None,
    typer.Option(
        "--encoding", help="Encoding of text files that are not UTF-8 and have no byte order mark, such as cp1252."
    ),
]
