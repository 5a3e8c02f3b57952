"""Rules about the response cache, whose key has only the model, its version, and the names and bytes of the inputs.

Shapes, request parameters and requested outputs are not in the key: if one of them changes the answer, the cache
returns a wrong answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from ebbtide.check import backends
from ebbtide.check.findings import Finding
from ebbtide.check.view import View

_LOCATION = ("response_cache",)


def check(view: View) -> Iterator[Finding]:
    """Checks a model whose config enables the cache."""
    config = view.config
    if not config.response_cache.enable:
        return
    refused = [
        words
        for words, applies in (
            ("sequence_batching", config.HasField("sequence_batching")),
            ("a decoupled transaction policy", config.model_transaction_policy.decoupled),
        )
        if applies
    ]
    if refused:
        yield view.finding(
            "response-cache",
            _LOCATION,
            f"got a response cache with {' and '.join(refused)}; expected one answer for each request",
            "remove `response_cache`",
        )
        return
    yield from _shapes(view)
    if len(config.output) > 1:
        yield view.finding(
            "response-cache-outputs",
            _LOCATION,
            f"got a response cache with {len(config.output)} outputs; expected 1: after a request for some "
            "outputs, later requests with the same inputs get only those outputs",
            "make every client ask for the same outputs, or split the model",
        )
    if view.serving.backend == backends.PYTHON and view.versions:
        yield from _parameters(view)


def _shapes(view: View) -> Iterator[Finding]:
    """Finds inputs whose bytes do not determine their shape.

    The bytes determine the number of elements (strings are stored with their lengths). The batch size is known if a
    required input has no variable dim. An input is safe if at most one of its sizes is then unknown.
    """
    config = view.config
    batching = config.max_batch_size > 0
    known_batch = any(not tensor.optional and -1 not in tensor.dims for tensor in config.input)
    for tensor in config.input:
        unknown = list(tensor.dims).count(-1) + (batching and not known_batch)
        if unknown > 1:
            shown = ["batch" if batching else "", *map(str, tensor.dims)]
            yield view.finding(
                "response-cache-shape",
                _LOCATION,
                f"got a response cache with input {tensor.name!r} of shape [{', '.join(filter(None, shown))}]; "
                "expected a shape that the bytes determine: two shapes with the same bytes get the same answer",
                "remove `response_cache`, or add an input of fixed size that determines the shape",
            )


def _parameters(view: View) -> Iterator[Finding]:
    # Imported here because only Python models need it.
    from ebbtide.check.python_source import read_source

    path = view.model_file(view.versions[-1])
    if path.is_file() and "parameters" in read_source(path).calls:
        yield view.finding(
            "response-cache-parameters",
            _LOCATION,
            f"got a response cache, and {path.name} reads request parameters; expected a model that reads only inputs",
            "turn every parameter that changes the answer into an input",
        )
