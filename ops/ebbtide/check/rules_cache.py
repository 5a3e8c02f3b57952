"""Rules about the response cache, whose key is the model, its version, and the inputs' names and bytes alone.

Shapes, request parameters and the outputs that were asked for are not in the key; what they change is answered wrongly.
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
            f"got a response cache with {len(config.output)} outputs; expected one: a request that asks for some is "
            "answered for all who send the same inputs later",
            "make every client ask for the same outputs, or split the model",
        )
    if view.serving.backend == backends.PYTHON and view.versions:
        yield from _parameters(view)


def _shapes(view: View) -> Iterator[Finding]:
    """Finds an input whose shape its bytes do not tell.

    The bytes tell the number of elements, also of strings, which carry their lengths. The batch is known where some
    input has to be there and has no variable size; what is unknown beside that must be one size at most.
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
                "expected a shape that its bytes tell: two shapes of as many elements get one answer",
                "remove `response_cache`, or add an input of fixed size that tells the shape",
            )


def _parameters(view: View) -> Iterator[Finding]:
    # Imported here: only a Python model needs it.
    from ebbtide.check.python_source import read_source

    path = view.model_file(view.versions[-1])
    if path.is_file() and "parameters" in read_source(path).calls:
        yield view.finding(
            "response-cache-parameters",
            _LOCATION,
            f"got a response cache, and {path.name} reads request parameters; expected inputs alone",
            "make what changes the answer an input",
        )
