"""Rules about the inputs and outputs of a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from math import prod
from pathlib import PurePosixPath

from tritonclient.grpc import model_config_pb2

from ebbtide.check import backends
from ebbtide.check.configs import has_data_type
from ebbtide.check.findings import Finding
from ebbtide.check.messages import Tensor
from ebbtide.check.textproto import Path
from ebbtide.check.view import View

_VARIABLE = -1
_IMAGE_DIMS = 3
_IMAGE_FORMATS = (model_config_pb2.ModelInput.FORMAT_NHWC, model_config_pb2.ModelInput.FORMAT_NCHW)
"""Triton accepts numbers without a name, and ignores them."""


def check(view: View) -> Iterator[Finding]:
    """Checks every input and output of one config."""
    config = view.config
    for index, tensor in enumerate(config.input):
        yield from _tensor(view, ("input", index), tensor)
        if tensor.format in _IMAGE_FORMATS and len(tensor.dims) != _IMAGE_DIMS:
            yield view.finding(
                "tensor-format",
                ("input", index, "format"),
                f"got {len(tensor.dims)} dims for {tensor.name!r}; expected {_IMAGE_DIMS}: height, width and channels",
                "remove `format`, or correct `dims`",
            )
    for index, output in enumerate(config.output):
        yield from _tensor(view, ("output", index), output)
        yield from _labels(view, ("output", index), output.label_filename)
    yield from _duplicates(view, "input", [tensor.name for tensor in config.input])
    yield from _duplicates(view, "output", [tensor.name for tensor in config.output])
    if view.serving.backend == backends.PYTHON and not config.input and not config.output:
        yield from _unfilled(view)


def _unfilled(view: View) -> Iterator[Finding]:
    # Imported here because only Python models need it.
    from ebbtide.check.python_source import read_source

    version = view.versions[-1] if view.versions else None
    if version is None or not view.model_file(version).is_file():
        return
    source = read_source(view.model_file(version))
    if source.model_class is not None and not source.is_opaque and "auto_complete_config" not in source.methods:
        yield view.finding(
            "tensors-missing",
            (),
            "got neither inputs nor outputs, and model.py has no `auto_complete_config`; expected one of them",
            "write `input` and `output`; without them, every request is refused",
        )


def _is_filled(view: View, section: str, name: str) -> bool:
    """Whether Triton fills in what a tensor lacks: from the graph, or from what the Python model says."""
    if view.serving.backend == backends.ONNX:
        graph = view.newest_graph
        return graph is not None and name in (graph.inputs if section == "input" else graph.outputs)
    if view.serving.backend != backends.PYTHON or not view.versions:
        return False
    # Imported here because only Python models need it.
    from ebbtide.check.python_source import read_source

    path = view.model_file(view.versions[-1])
    if not path.is_file():
        return False
    source = read_source(path)
    return source.is_opaque or (source.completion is not None and source.completion.adds(section, name))


def _tensor(view: View, path: Path, tensor: Tensor) -> Iterator[Finding]:
    shown = repr(tensor.name) if tensor.name else "this tensor"
    if not tensor.name:
        yield view.finding("tensor-name-missing", path, "got no `name`; expected a name", "write `name`")
    is_filled = bool(tensor.name) and _is_filled(view, str(path[0]), tensor.name)
    if not tensor.data_type and not is_filled:
        yield view.finding(
            "tensor-data-type-missing",
            path,
            f"got no `data_type` for {shown}; expected a type",
            "write `data_type`",
        )
    # Triton compares the data type of a request's input with the config's, and passes outputs on as they are.
    elif path[0] == "input" and tensor.data_type and not has_data_type(tensor.data_type):
        yield view.finding(
            "config-unknown-value",
            (*path, "data_type"),
            f"got {tensor.data_type} for {shown}; expected a value of DataType",
            "write the data type by its name, such as TYPE_FP32",
        )
    if not tensor.dims and not is_filled:
        yield view.finding(
            "tensor-dims-missing",
            path,
            f"got no `dims` for {shown}; expected at least one dim",
            "write `dims`; for a scalar write `dims: [ 1 ]`, and `reshape { }` if the model batches",
        )
    for index, dim in enumerate(tensor.dims):
        if dim < 1 and dim != _VARIABLE:
            yield view.finding(
                "tensor-dims",
                (*path, "dims", index),
                f"got {dim} for {shown}; expected a size of at least 1, or -1 for a variable size",
                "write the size, or -1",
            )
    if tensor.HasField("reshape"):
        yield from _reshape(view, path, tensor, shown)
    if view.serving.platform != backends.TENSORRT_PLATFORM:
        for field in ("is_shape_tensor", "is_non_linear_format_io"):
            if getattr(tensor, field):
                yield view.finding(
                    "tensor-tensorrt-only",
                    (*path, field),
                    f"got `{field}` for {shown} on {view.serving.backend or 'an ensemble'}; expected TensorRT",
                    "remove the field",
                )


def _reshape(view: View, path: Path, tensor: Tensor, shown: str) -> Iterator[Finding]:
    dims, shape = list(tensor.dims), list(tensor.reshape.shape)
    location = (*path, "reshape")
    if not shape and view.config.max_batch_size == 0:
        yield view.finding(
            "tensor-reshape",
            location,
            f"got an empty reshape for {shown} on a model without batching; expected a shape",
            "write `dims: [ 1 ]` without `reshape`",
        )
    elif any(dim < 1 and dim != _VARIABLE for dim in shape):
        yield view.finding(
            "tensor-reshape",
            location,
            f"got shape {shape} for {shown}; expected sizes of at least 1, or -1",
            "write the sizes",
        )
    elif dims.count(_VARIABLE) != shape.count(_VARIABLE):
        yield view.finding(
            "tensor-reshape",
            location,
            f"got {shape.count(_VARIABLE)} variable sizes in shape {shape} for {shown}; expected as many as in dims "
            f"{dims}, {dims.count(_VARIABLE)}",
            "write every -1 of `dims` in `shape` too, in the same order",
        )
    elif _between_variables(dims) != _between_variables(shape):
        yield view.finding(
            "tensor-reshape",
            location,
            f"got shape {shape} for {shown}; expected the same number of elements as dims {dims}",
            "make the products of the sizes equal, also between two -1",
        )


def _between_variables(dims: Sequence[int]) -> list[int]:
    """The products of the fixed sizes before, between and after the variable sizes."""
    counts = [1]
    for variable, sizes in groupby(dims, key=lambda dim: dim == _VARIABLE):
        if variable:
            counts.extend([1] * len(list(sizes)))
        else:
            counts[-1] = prod(sizes)
    return counts


def fixed_sizes_fit(sizes: Sequence[int], dims: Sequence[int]) -> bool:
    """Whether sizes without a variable one fit the dims of a tensor."""
    return len(sizes) == len(dims) and all(
        size >= 0 and dim in (size, _VARIABLE) for size, dim in zip(sizes, dims, strict=True)
    )


def _labels(view: View, path: Path, name: str) -> Iterator[Finding]:
    if not name:
        return
    outside = PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts
    if outside or not (view.model.path / name).is_file():
        yield view.finding(
            "label-file",
            (*path, "label_filename"),
            f"got {name!r}; expected a file inside the model's folder",
            f"put the file at {view.model.name}/{PurePosixPath(name).name}",
        )


def _duplicates(view: View, section: str, names: Sequence[str]) -> Iterator[Finding]:
    for index, name in enumerate(names):
        if name and name in names[:index]:
            yield view.finding(
                "input-name-duplicate" if section == "input" else "tensor-name-duplicate",
                (section, index),
                f"got {name!r} a second time; expected every {section} once",
                "rename or remove one of them",
            )
