"""Small edits of ONNX graphs: find constants and producers, extract and run subgraphs, remove unused nodes."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

CONTRIB = "com.microsoft"
"""ONNX Runtime's own operators."""
MAX_MESSAGE_BYTES = 2**31 - 2**24
"""Largest size of the weights in one protobuf message, whose limit is 2 GiB in total."""
Array = npt.NDArray[Any]


class GraphEditor:
    """Edits one graph; call `finish` at the end."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Copies the graph; the argument is not changed."""
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._weights = {weight.name: weight for weight in self.model.graph.initializer}
        self.nodes = list(self.model.graph.node)

    def constant(self, name: str) -> Array | None:
        """The value of a weight; None for a computed value or an input."""
        weight = self._weights.get(name)
        return None if weight is None else numpy_helper.to_array(weight)

    def add_constant(self, name: str, value: Array) -> str:
        """Adds a weight and returns its name, which gets a number if the name is taken."""
        unique, number = name, 1
        while unique in self._weights:
            unique, number = f"{name}_{number}", number + 1
        self._weights[unique] = numpy_helper.from_array(np.ascontiguousarray(value), unique)
        return unique

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value."""
        return next((node for node in self.nodes if name in node.output), None)

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a value."""
        return [node for node in self.nodes if name in node.input]

    def replace(self, node: onnx.NodeProto, by: Sequence[onnx.NodeProto]) -> None:
        """Replaces a node by others, which must keep the name of its output."""
        position = next(index for index, other in enumerate(self.nodes) if other is node)
        self.nodes[position : position + 1] = by

    def take_over(self, part: onnx.ModelProto, outputs: Sequence[str]) -> None:
        """Replaces nodes by a changed version of the subgraph that `part` made from them.

        Weights with a changed type get a new name, since the rest of the graph may read them too.
        """
        replaced = {id(node) for node in self.needed_by(outputs)}
        types = {name: weight.data_type for name, weight in self._weights.items()}
        for weight in part.graph.initializer:
            old = weight.name
            if types.get(old, weight.data_type) != weight.data_type:
                weight.name = f"{old}.retyped"
                for node in part.graph.node:
                    node.input[:] = [weight.name if name == old else name for name in node.input]
        self.nodes = [*part.graph.node, *(node for node in self.nodes if id(node) not in replaced)]
        self._weights |= {weight.name: weight for weight in part.graph.initializer}

    def prepend(self, node: onnx.NodeProto) -> None:
        """Adds a node that reads only inputs and weights of the graph."""
        self.nodes.insert(0, node)

    def needed_by(self, outputs: Sequence[str]) -> list[onnx.NodeProto]:
        """The nodes that are needed to compute some values."""
        return _needed(self.nodes, outputs)[0]

    def part(self, outputs: Sequence[str]) -> onnx.ModelProto:
        """The subgraph that computes some values; it does not state their types."""
        part = onnx.ModelProto()
        part.CopyFrom(self.model)
        nodes, needed = _needed(self.nodes, outputs)
        _set(part.graph.node, nodes)
        _set(part.graph.initializer, [weight for name, weight in self._weights.items() if name in needed])
        _set(part.graph.input, [value for value in self.model.graph.input if value.name in needed])
        _set(part.graph.output, [onnx.ValueInfoProto(name=name) for name in outputs])
        del part.graph.value_info[:]
        return part

    def run_part(self, outputs: Sequence[str], feeds: Iterable[Mapping[str, Array]]) -> Iterator[list[Array]]:
        """Inner values of the graph, for each set of inputs."""
        part = self.part(outputs)
        session = session_of(part)
        names = {value.name for value in part.graph.input}
        for feed in feeds:
            yield session.run(list(outputs), {name: feed[name] for name in names})

    def finish(self) -> onnx.ModelProto:
        """The graph without unused nodes and weights."""
        graph = self.model.graph
        nodes, needed = _needed(self.nodes, [value.name for value in graph.output])
        _set(graph.node, nodes)
        _set(graph.initializer, [weight for name, weight in self._weights.items() if name in needed])
        # Types and shapes of inner values may have changed, and they are not needed.
        del graph.value_info[:]
        domains = {node.domain for node in nodes}
        kept = [entry for entry in self.model.opset_import if entry.domain in domains | {""}]
        missing = domains - {entry.domain for entry in kept}
        kept.extend(helper.make_opsetid(domain, 1) for domain in sorted(missing))
        _set(self.model.opset_import, kept)
        return self.model


def operator_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Count of each operator in a graph."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def session_of(model: onnx.ModelProto, threads: int = 0) -> Any:  # noqa: ANN401 - onnxruntime carries no types
    """ONNX Runtime's CPU session of a graph in memory.

    Args:
        model: A graph of any size.
        threads: Threads of one run; 0 for ONNX Runtime's default.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Idle threads that spin slow everything else down on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if weight_bytes(model) < MAX_MESSAGE_BYTES:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        # Saving with external weights removes the weights from the message, so a copy is saved.
        onnx.save_model(copy, path, save_as_external_data=True)
        return ort.InferenceSession(path, options, providers=providers)


def weight_bytes(model: onnx.ModelProto) -> int:
    """Size of all weights in bytes."""
    return sum(len(weight.raw_data) for weight in model.graph.initializer)


def _needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    producer = {name: position for position, node in enumerate(nodes) for name in node.output}
    needed, kept = set[str](), set[int]()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        position = producer.get(name)
        if position is not None and position not in kept:
            kept.add(position)
            waiting.extend(_reads(nodes[position]))
    return [nodes[position] for position in sorted(kept)], needed


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, including those that its branches read from the outer graph."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)
            yield from (value.name for value in attribute.g.output)


def _set(field: Any, values: Iterable[Any]) -> None:  # noqa: ANN401 - protobuf's repeated fields carry no types
    values = list(values)
    del field[:]
    field.extend(values)
