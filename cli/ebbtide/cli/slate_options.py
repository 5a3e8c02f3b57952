"""Options about the slate: what a list shall be like beside having the best scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ebbtide.client import Slate

Diversity = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="How much the items of the list differ, 0 to 1. Default: by score alone."),
]
DiversityMethod = Annotated[
    Literal["mmr", "dpp"],
    typer.Option(help="How difference is measured: to the most similar earlier item (mmr) or to all of them (dpp)."),
]
AtMost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN[=VALUE]=N",
        help="At most N items of each value of a column, or of one value. Repeat the option for more.",
    ),
]
AtLeast = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN=VALUE=N", help="At least N items of a value. Repeat the option for more."),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN[=WEIGHT]",
        help="Bring the shares of a column's values closer to those of the user's events. Weight 0 to 1, default .5.",
    ),
]
Exposure = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=VALUE=SHARE",
        help="Share of a value, 0 to 1, at every position from the top on. Repeat the option for more.",
    ),
]


def slate_of(
    diversity: float | None,
    method: Literal["mmr", "dpp"],
    at_most: Sequence[str],
    at_least: Sequence[str],
    calibrate: str | None,
    exposure: Sequence[str],
) -> Slate | None:
    """The slate that the options ask for; None without any of them.

    Raises:
        BadParameter: An option is not of its form.
    """
    if diversity is None and not (at_most or at_least or calibrate or exposure):
        return None
    from ebbtide.client import slate

    weights = None
    if calibrate is not None:
        column, equals, weight = calibrate.partition("=")
        weights = {column: _number("--calibrate", calibrate, weight)} if equals else column
    return slate(
        diversity=diversity or 0.0,
        method=method,
        at_most={name: _whole("--at-most", text, number) for text, name, number in _split("--at-most", at_most, 1)},
        at_least={name: _whole("--at-least", text, number) for text, name, number in _split("--at-least", at_least, 2)},
        calibrate=weights,
        exposure={name: _number("--exposure", text, part) for text, name, part in _split("--exposure", exposure, 2)},
    )


def _split(option: str, texts: Sequence[str], least: int) -> list[tuple[str, str, str]]:
    """Each text, what stands before its last equals sign, and the number behind it.

    Args:
        option: Named in the error.
        texts: As given.
        least: Equals signs of a text.
    """
    found: list[tuple[str, str, str]] = []
    for text in texts:
        name, _, number = text.rpartition("=")
        if text.count("=") < least or not name:
            form = "COLUMN=N or COLUMN=VALUE=N" if least == 1 else "COLUMN=VALUE=NUMBER"
            raise typer.BadParameter(f"{option}: got {text!r}; expected {form}, as in genres=Drama=2")
        found.append((text, name, number))
    return found


def _whole(option: str, text: str, number: str) -> int:
    if not number.isdecimal():
        raise typer.BadParameter(f"{option}: got {text!r}; expected a number of items at its end, as in genres=Drama=2")
    return int(number)


def _number(option: str, text: str, number: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise typer.BadParameter(f"{option}: got {text!r}; expected a number at its end, as in 0.5") from None
