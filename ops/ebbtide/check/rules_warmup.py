"""Rules about warm-up requests, which Triton builds and runs when it loads a model."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ebbtide.check.configs import data_type_name
from ebbtide.check.findings import Finding
from ebbtide.check.messages import ModelInput, Warmup, WarmupInput
from ebbtide.check.repository import WARMUP_FOLDER
from ebbtide.check.textproto import Key, Path
from ebbtide.check.view import View

_ELEMENT_BYTES = {
    "TYPE_BOOL": 1,
    "TYPE_UINT8": 1,
    "TYPE_UINT16": 2,
    "TYPE_UINT32": 4,
    "TYPE_UINT64": 8,
    "TYPE_INT8": 1,
    "TYPE_INT16": 2,
    "TYPE_INT32": 4,
    "TYPE_INT64": 8,
    "TYPE_FP16": 2,
    "TYPE_FP32": 4,
    "TYPE_FP64": 8,
    "TYPE_BF16": 2,
}


def check(view: View) -> Iterator[Finding]:
    """Checks every warm-up sample of one config."""
    # An ensemble's are refused as a whole.
    if view.is_ensemble:
        return
    for index, sample in enumerate(view.config.model_warmup):
        location: Path = ("model_warmup", index)
        if sample.batch_size == 0:
            yield view.finding(
                "warmup-skipped",
                location,
                f"got batch size 0 for sample {sample.name!r}; expected at least 1: it is skipped",
                "write `batch_size`",
            )
            continue
        yield from _sample(view, location, sample)


def _sample(view: View, location: Path, sample: Warmup) -> Iterator[Finding]:
    config = view.config
    largest = max(config.max_batch_size, 1)
    if config.max_batch_size and sample.batch_size > largest:
        yield view.finding(
            "warmup-batch-size",
            (*location, "batch_size"),
            f"got {sample.batch_size} for sample {sample.name!r}; expected at most max_batch_size, {largest}",
            "lower it: so many requests of one row run at once",
        )
    inputs = {tensor.name: tensor for tensor in config.input}
    controls = {entry.name for entry in config.sequence_batching.control_input}
    controls |= {state.input_name for state in config.sequence_batching.state}
    if not inputs:
        return
    missing = sorted(name for name, tensor in inputs.items() if not tensor.optional and name not in sample.inputs)
    if missing:
        yield view.finding(
            "warmup-input-missing",
            location,
            f"got no {', '.join(map(repr, missing))} in sample {sample.name!r}; expected every required input",
            "add the input",
        )
    for name, given in sample.inputs.items():
        where: Path = (*location, "inputs", Key(name))
        if name in inputs:
            yield from _input(view, where, given, inputs[name])
        elif name not in controls:
            yield view.finding(
                "warmup-input-unknown",
                where,
                f"got {name!r} in sample {sample.name!r}; expected an input of the model: {', '.join(sorted(inputs))}",
                "rename or remove it: Triton passes it on all the same",
            )


def _input(view: View, location: Path, given: WarmupInput, expected: ModelInput) -> Iterator[Finding]:
    name, dims = expected.name, list(given.dims)
    if given.data_type != expected.data_type:
        yield view.finding(
            "warmup-data-type",
            (*location, "value", "data_type"),
            f"got {data_type_name(given.data_type)} for {name!r}; expected {data_type_name(expected.data_type)}",
            "write the input's type",
        )
    fits = len(dims) == len(expected.dims) and all(
        dim == size or size == -1 for dim, size in zip(dims, expected.dims, strict=True)
    )
    if any(dim < 0 for dim in dims) or not fits:
        yield view.finding(
            "warmup-dims",
            (*location, "value", "dims"),
            f"got dims {dims} for {name!r}; expected sizes that fit {list(expected.dims)}, none of them variable",
            "write the sizes of one request, without the batch",
        )
        return
    yield from _data(view, location, given, name)


def _data(view: View, location: Path, given: WarmupInput, name: str) -> Iterator[Finding]:
    chosen = given.WhichOneof("input_data_type")
    if chosen is None:
        yield view.finding(
            "warmup-data",
            location,
            f"got no data for {name!r}; expected `zero_data`, `random_data` or `input_data_file`",
            "write `zero_data: true`",
        )
    if chosen != "input_data_file":
        return
    where = (*location, "value", "input_data_file")
    path = view.model.path / WARMUP_FOLDER / given.input_data_file
    data_type = data_type_name(given.data_type)
    if not path.is_file():
        yield view.finding(
            "warmup-data",
            where,
            f"got {given.input_data_file!r} for {name!r}; expected a file in {view.model.name}/{WARMUP_FOLDER}/",
            "put it there",
        )
    elif data_type in _ELEMENT_BYTES:
        needed = prod(given.dims) * _ELEMENT_BYTES[data_type]
        if path.stat().st_size < needed:
            yield view.finding(
                "warmup-data",
                where,
                f"got {path.stat().st_size} bytes in {given.input_data_file!r} for {name!r}; expected {needed}",
                "write the elements as raw bytes, or correct `dims`",
            )
