"""What a caller is told of a run that failed: the input and the value that are wrong, without the runtime's insides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_INDEX = (
    re.compile(r"idx=(?P<value>-?\d+) must be within the inclusive range \[(?P<least>-?\d+), ?(?P<most>-?\d+)\]"),
    re.compile(r"within bounds \[(?P<least>-?\d+) ?, ?(?P<most>-?\d+)\]\. Actual value is (?P<value>-?\d+)"),
)
"""An index that an operator refuses; each operator has words of its own."""
_SOME_INDEX = re.compile(r"Out of range value in index tensor")
_BEFORE = re.compile(r"^.*?Status Message: ", re.DOTALL)
_SOURCE = re.compile(r"\S*\.(?:cc|cpp|h|cu):\d+ (?:.*?was false\. )?", re.DOTALL)
"""Where in the runtime's source a check failed, and the check."""


def fault_of(error: Exception, feeds: Mapping[str, Array]) -> tuple[str, bool]:
    """The message, and whether the caller is at fault.

    Args:
        error: Of onnxruntime.
        feeds: The inputs of the request, by name.
    """
    text = str(error)
    for match in filter(None, (pattern.search(text) for pattern in _INDEX)):
        value = int(match["value"])
        for name, array in feeds.items():
            if array.dtype.kind == "i" and (places := np.argwhere(array == value)).size:
                return f"{name}[{places[0][-1]}]: got {value}; expected {match['least']} to {match['most']}", True
    if _SOME_INDEX.search(text):
        # The operator does not say which: the input with the value that is farthest out is the likeliest one.
        farthest = {name: _farthest(array) for name, array in feeds.items() if array.dtype.kind == "i" and array.size}
        name = max(farthest, key=lambda one: abs(farthest[one]))
        return f"{name}: got an index out of range, perhaps {farthest[name]}; expected one that the model has", True
    for name, array in feeds.items():
        if not array.size:
            return f"{name}: got shape {list(array.shape)}, no elements; expected at least one", True
    # onnxruntime has one exception class per status, without a common base class.
    is_callers = type(error).__name__ == "InvalidArgument"
    return f"onnx runtime error: {_SOURCE.sub('', _BEFORE.sub('', text))}", is_callers


def _farthest(array: Array) -> int:
    return max(int(array.min()), int(array.max()), key=abs)
