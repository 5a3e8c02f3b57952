"""Refuses an empty path, which the system takes for the current folder: a variable of the shell was empty."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer


def refuse_empty_paths(parameters: Iterable[Any], callback: Callable[..., Any]) -> None:
    """Makes every path among the parameters of a command refuse an empty text, from wherever it comes.

    Args:
        parameters: The parser's, which are changed.
        callback: The function of the command, whose annotations say what is a path.
    """
    hints = get_type_hints(callback)
    for parameter in parameters:
        if _is_path(hints.get(parameter.name)):
            parameter.process_value = _checked(parameter, parameter.process_value)


def _is_path(annotation: Any) -> bool:  # noqa: ANN401 - any annotation
    return annotation is Path or any(_is_path(one) for one in get_args(annotation))


def _checked(parameter: Any, process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:  # noqa: ANN401
    def process_value(context: Any, value: Any) -> Any:  # noqa: ANN401 - as the parser passes them
        if "" in (value if isinstance(value, (list, tuple)) else [value]):
            raise typer.BadParameter(
                "got an empty path; expected a path, or . for the current folder", ctx=context, param=parameter
            )
        return process(context, value)

    return process_value
