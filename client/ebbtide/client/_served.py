"""Limits and output shapes that a server states for a model, and the check of a request against them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.client._triton import Untyped
from ebbtide.client.codec import EncodedRequest
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.interest.contract import Dtype, Limits, Tensor
from ebbtide.interest.errors import RequestError
from ebbtide.interest.served_models import Model
from ebbtide.v1 import AttributeFilter

_ATTRIBUTE_VALUES = "attribute_values"
_ATTRIBUTE_NUMBERS = "attribute_numbers"
_ALLOWED = re.compile(r"allow\[(?P<condition>\d+)\]\.(?:values\[(?P<value>\d+)\]|range)")
_NEAREST = 5
_LEAST_SIMILARITY = 0.5


@dataclass(frozen=True)
class Served:
    """One model as its configuration describes it."""

    max_users: int | None
    """Largest number of users in one request; None if the server does not state it."""
    limits: Mapping[str, int]
    """Limits of one request by the names of `Limits`, as far as the configuration states them."""
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    """Dims of every output, without its batch dimension; empty if the server does not state them."""
    inputs: frozenset[str] = frozenset()
    """Names of the inputs; empty if the server does not state them."""
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    """The values of each catalog column that requests may filter by; empty if the server does not state them."""
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    """The least and the largest number of each numeric column, which requests may filter by ranges."""


UNKNOWN = Served(None, {})
"""A model whose configuration is not known."""


def served(config: Untyped) -> Served:
    """From a ``ModelConfig``; the server checks limits that cannot be read."""
    stated = {
        limit.name: config.parameters[limit.name].string_value
        for limit in fields(Limits)
        if limit.name in config.parameters
    }
    return Served(
        max_users=max(1, int(config.max_batch_size)),
        limits={name: int(value) for name, value in stated.items() if value.isdecimal()},
        outputs={output.name: tuple(output.dims) for output in config.output},
        inputs=frozenset(str(tensor.name) for tensor in config.input),
        attributes=_stated(config, _ATTRIBUTE_VALUES),
        numbers=_stated(config, _ATTRIBUTE_NUMBERS),
    )


def _stated(config: Untyped, name: str) -> Mapping[str, Any]:
    if name not in config.parameters:
        return {}
    try:
        stated: dict[str, Any] = json.loads(config.parameters[name].string_value)
    except ValueError:
        return {}
    return stated


def nearest_values(error: InvalidArgumentError, filters: Sequence[AttributeFilter], known: Served) -> str | None:
    """What was expected of a value to filter by: the nearest values that items have, or else some of them.

    Args:
        error: The server's error, with the field as the caller wrote it.
        filters: What the caller allows.
        known: What the server states.

    Returns:
        None for an error about another field, or if the server does not state its values.
    """
    place = _ALLOWED.fullmatch(error.field or "")
    if place is None or not (known.attributes or known.numbers):
        return None
    condition = filters[int(place["condition"])]
    if place["value"] is None:
        if condition.column in known.attributes:
            return f"values: {condition.column} was not exported as a numeric column (--numeric-col)"
        return f"a range of a numeric column that requests may filter by: {', '.join(known.numbers) or 'none'}"
    if condition.column in known.numbers:
        least, most = known.numbers[condition.column]
        return f"a range of {condition.column}, a numeric column from {least:g} to {most:g}"
    values = known.attributes.get(condition.column)
    if values is None:
        return f"a value of a column that requests may filter by: {', '.join(known.attributes) or 'none'}"
    value = condition.values[int(place["value"])].casefold()
    folded = {one.casefold(): one for one in values}
    near = [folded[one] for one in get_close_matches(value, folded, _NEAREST, _LEAST_SIMILARITY)]
    some = ", ".join(map(repr, near or sorted(values)[:_NEAREST]))
    return f"one of the {len(values)} values of {condition.column}, {'nearest' if near else 'such as'}: {some}"


def check_limits(request: EncodedRequest, limits: Mapping[str, int]) -> None:
    """Refuses a request that exceeds the limits before it is sent, with the error that the server would give.

    Args:
        request: One user's, or texts to embed; several users are left to the server: refused, they are asked
            for one by one.
        limits: As in `Served`.

    Raises:
        RequestError: A limit is exceeded.
    """
    if contract.EVENT_COUNT.name in request.tensors:
        return
    for limit, tensor, count, noun in _COUNTED:
        most = limits.get(limit)
        found = count(request)
        if most is not None and found > most:
            least = "1 to" if tensor is contract.TEXT else "at most"
            raise RequestError(tensor.name, f"{found} {noun}", f"{least} {most} {noun}")
    most_bytes = limits.get("max_text_bytes")
    if most_bytes is not None and contract.TEXT.name in request.tensors:
        for index, text in enumerate(request.tensors[contract.TEXT.name]):
            if len(text) > most_bytes:
                field = f"{contract.TEXT.name}[{index}]"
                raise RequestError(field, f"{len(text)} bytes", f"at most {most_bytes} bytes")


def output_shapes(known: Served, model: Model, request: EncodedRequest) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs of one call, as far as they are known before the call; empty if not known.

    Args:
        known: The configuration of the model.
        model: The same in the contract.
        request: What is sent.

    Returns:
        A shape for every output that the server states; an empty one for strings, whose size is not known before.
    """
    rows = len(next(iter(request.tensors.values()))) if model.batching else 1
    texts = int(request.tensors[contract.TEXT.name].size) if contract.TEXT.name in request.tensors else 0
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in model.outputs:
        dims = known.outputs.get(tensor.name)
        if dims is None:
            continue
        if tensor is contract.TEXT_VECTOR:
            dims = (texts, *dims[1:])
        elif model.batching:
            dims = (rows, *dims)
        is_known = tensor.dtype in (Dtype.FP32, Dtype.INT32) and min(dims, default=0) > 0
        shapes[tensor.name] = dims if is_known else ()
    return shapes


def _length(tensor: Tensor) -> Callable[[EncodedRequest], int]:
    nothing: npt.NDArray[Any] = np.zeros(0)
    return lambda request: int(request.tensors.get(tensor.name, nothing).size)


_COUNTED: tuple[tuple[str, Tensor, Callable[[EncodedRequest], int], str], ...] = (
    ("max_events", contract.EVENT_ITEM, _length(contract.EVENT_TIME), "events"),
    ("max_exclude_items", contract.EXCLUDE_ITEM, _length(contract.EXCLUDE_ITEM), "items"),
    ("max_candidates", contract.CANDIDATE_ITEM, _length(contract.CANDIDATE_ITEM), "items"),
    ("max_candidates", contract.SHOWN_ITEM, _length(contract.SHOWN_ITEM), "items"),
    ("max_attributes", contract.ALLOW_ATTRIBUTE, _length(contract.ALLOW_ATTRIBUTE), "attribute values"),
    ("max_texts", contract.TEXT, _length(contract.TEXT), "texts"),
)
"""Bound, the tensor that the server names, how many the request has, and of what."""
