"""Refuses nan and inf for options that are numbers: bounds let nan pass, and no option has a use for either."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import typer


def refuse_infinite_numbers(parameters: Iterable[Any]) -> None:
    """Makes every parameter of a command refuse a number that is not finite, from wherever it comes.

    Args:
        parameters: The parser's, which are changed.
    """
    for parameter in parameters:
        parameter.process_value = _checked(parameter, parameter.process_value)


def _checked(parameter: Any, process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:  # noqa: ANN401
    def process_value(context: Any, value: Any) -> Any:  # noqa: ANN401 - as the parser passes them
        found = process(context, value)
        if isinstance(found, float) and not math.isfinite(found):
            raise typer.BadParameter(f"got {found}; expected a finite number", ctx=context, param=parameter)
        return found

    return process_value
