"""Reads the inputs, outputs and versions of an ONNX file, and skips the weights.

It walks over the protobuf's bytes: it reads a few kilobytes of a 90 MB graph and does not need the `onnx` package. The
field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA_TYPES = {
    1: "TYPE_FP32",
    2: "TYPE_UINT8",
    3: "TYPE_INT8",
    4: "TYPE_UINT16",
    5: "TYPE_INT16",
    6: "TYPE_INT32",
    7: "TYPE_INT64",
    8: "TYPE_STRING",
    9: "TYPE_BOOL",
    10: "TYPE_FP16",
    11: "TYPE_FP64",
    12: "TYPE_UINT32",
    13: "TYPE_UINT64",
    16: "TYPE_BF16",
}
"""Triton's data type by ONNX element type."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL = 1


class NotOnnxError(ValueError):
    """The file is not an ONNX model."""


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph."""

    name: str
    element_type: int
    """ONNX's number of the element type."""
    shape: tuple[int, ...] | None
    """A symbolic dimension is -1. None if the rank is unknown or the value is not a tensor."""

    @property
    def data_type(self) -> str:
        """``TYPE_FP32``, or ONNX's number if Triton has no such type."""
        return DATA_TYPES.get(self.element_type, f"ONNX element type {self.element_type}")


@dataclass(frozen=True)
class OnnxGraph:
    """The parts of an ONNX file that a config is compared with."""

    ir_version: int
    opset: int
    """Opset version of the standard operators."""
    inputs: dict[str, GraphTensor]
    """Inputs without a default value."""
    defaults: dict[str, GraphTensor]
    """Inputs whose default value is an initializer."""
    outputs: dict[str, GraphTensor]
    external_files: tuple[str, ...]
    """Files that hold weights, relative to the folder of the ONNX file."""
    outputs_inferred: bool = True
    """False if ONNX Runtime may infer sizes for the variable axes of the outputs, and which is not known."""

    @property
    def batches(self) -> bool:
        """Whether every input and output has a variable first axis and at least one more axis."""
        return all(
            tensor.shape is not None and len(tensor.shape) > 1 and tensor.shape[0] == -1
            for tensor in (*self.inputs.values(), *self.outputs.values())
        )


Span = tuple[int, int]
Field = tuple[int, int, Span]
"""Field number, the value of an integer, and the position of the bytes of any other value."""


def read_graph(path: Path) -> OnnxGraph:
    """Reads an ONNX file.

    Raises:
        NotOnnxError: the file is not an ONNX model.
    """
    if path.stat().st_size == 0:
        raise NotOnnxError("the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _model(data)
        except (IndexError, UnicodeDecodeError, RecursionError) as error:
            raise NotOnnxError(f"its bytes are not a protobuf message ({error})") from error


def _model(data: mmap.mmap) -> OnnxGraph:
    ir_version = opset = 0
    graph: Span | None = None
    for number, value, span in _fields(data, (0, len(data))):
        if number == 1:
            ir_version = value
        elif number == 7:
            graph = span
        elif number == 8:
            domain, version = "", 0
            for inner, inner_value, inner_span in _fields(data, span):
                if inner == 1:
                    domain = _text(data, inner_span)
                elif inner == 2:
                    version = inner_value
            if domain in ("", "ai.onnx"):
                opset = version
    if graph is None or not ir_version:
        raise NotOnnxError("the file has no graph")
    inputs: dict[str, GraphTensor] = {}
    outputs: dict[str, GraphTensor] = {}
    initializers: set[str] = set()
    external: set[str] = set()
    for number, _, span in _fields(data, graph):
        if number in (11, 12):
            tensor = _tensor(data, span)
            (inputs if number == 11 else outputs)[tensor.name] = tensor
        elif number == 5:
            name, files = _initializer(data, span)
            initializers.add(name)
            external |= files
    return OnnxGraph(
        ir_version,
        opset,
        {name: tensor for name, tensor in inputs.items() if name not in initializers},
        {name: tensor for name, tensor in inputs.items() if name in initializers},
        outputs,
        tuple(sorted(external)),
    )


def _initializer(data: mmap.mmap, span: Span) -> tuple[str, set[str]]:
    """The name of an initializer, and the files that hold its values."""
    name, location, files = "", 0, set()
    for number, value, inner in _fields(data, span):
        if number == 8:
            name = _text(data, inner)
        elif number == 14:
            location = value
        elif number == 13:
            entry = {key: _text(data, text) for key, _, text in _fields(data, inner)}
            if entry.get(1) == "location":
                files.add(entry.get(2, ""))
    return name, files if location == _EXTERNAL else set()


def _tensor(data: mmap.mmap, span: Span) -> GraphTensor:
    """Reads a ValueInfoProto: name is field 1, type is 2; in type, tensor_type is 1, with elem_type 1 and shape 2."""
    name, element_type, shape = "", 0, None
    for number, _, inner in _fields(data, span):
        if number == 1:
            name = _text(data, inner)
        elif number == 2:
            for kind, _, typed in _fields(data, inner):
                if kind != 1:
                    continue
                for inner_number, value, inner_span in _fields(data, typed):
                    if inner_number == 1:
                        element_type = value
                    elif inner_number == 2:
                        shape = tuple(_dimension(data, dim) for one, _, dim in _fields(data, inner_span) if one == 1)
    return GraphTensor(name, element_type, shape)


def _dimension(data: mmap.mmap, span: Span) -> int:
    for number, value, _ in _fields(data, span):
        if number == 1:
            # A negative size is stored as a 64-bit two's complement.
            return value if value < 2**63 else -1
    return -1


def _fields(data: mmap.mmap, span: Span) -> Iterator[Field]:
    """The fields of a message. The bytes of a value are not read."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        value, start = 0, at
        if kind == _VARINT:
            value, at = _varint(data, at)
        elif kind == _BYTES:
            size, start = _varint(data, at)
            at = start + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise IndexError(f"wire type {kind} at byte {at}")
        if at > end or number == 0:
            raise IndexError(f"a field at byte {start} is longer than its message")
        yield number, value, (start, at)


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError(f"the number before byte {at} is too long")


def _text(data: mmap.mmap, span: Span) -> str:
    return data[span[0] : span[1]].decode()
