"""Rules about warm-up requests, which Triton runs when it loads a model."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from ebbtide.check.configs import data_type_name
from ebbtide.check.findings import Finding
from ebbtide.check.messages import ModelInput, Warmup, WarmupInput
from ebbtide.check.repository import WARMUP_FOLDER
from ebbtide.check.rules_tensors import fixed_sizes_fit
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
    # An ensemble may not have warm-up samples at all: rules_ensemble reports them.
    if view.is_ensemble:
        return
    for index, sample in enumerate(view.config.model_warmup):
        location: Path = ("model_warmup", index)
        if sample.batch_size == 0:
            yield view.finding(
                "warmup-skipped",
                location,
                f"got batch size 0 for sample {sample.name!r}; expected at least 1: Triton skips the sample",
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
            f"got {sample.batch_size} for sample {sample.name!r}; expected at most {largest} (max_batch_size)",
            "lower `batch_size`, or raise `max_batch_size`",
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
            f"got no {', '.join(map(repr, missing))} in sample {sample.name!r}; expected all required inputs",
            "add the missing inputs",
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
                "rename or remove the input; Triton passes it to the model anyway",
            )


def _input(view: View, location: Path, given: WarmupInput, expected: ModelInput) -> Iterator[Finding]:
    name, dims = expected.name, list(given.dims)
    if given.data_type != expected.data_type:
        yield view.finding(
            "warmup-data-type",
            (*location, "value", "data_type"),
            f"got {data_type_name(given.data_type)} for {name!r}; expected {data_type_name(expected.data_type)}",
            "write the data type of the model's input",
        )
    if not fixed_sizes_fit(dims, expected.dims):
        yield view.finding(
            "warmup-dims",
            (*location, "value", "dims"),
            f"got dims {dims} for {name!r}; expected fixed sizes that fit {list(expected.dims)}",
            "write the sizes of one request, without the batch axis",
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
            "add the file",
        )
    elif data_type in _ELEMENT_BYTES:
        needed = prod(given.dims) * _ELEMENT_BYTES[data_type]
        if path.stat().st_size < needed:
            yield view.finding(
                "warmup-data",
                where,
                f"got {path.stat().st_size} bytes in {given.input_data_file!r} for {name!r}; expected {needed} or more",
                "write the elements as raw bytes, or correct `dims`",
            )
