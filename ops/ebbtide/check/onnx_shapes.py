"""Asks ONNX Runtime for the output shapes of a graph, which it infers beyond those that the file declares.

Triton compares a config with the inferred shapes. ONNX Runtime runs in a process of its own: a damaged graph can end
the process, and the memory of the weights is free again afterwards. Without onnxruntime the shapes stay unknown.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ebbtide.check.onnx_graph import GraphTensor, OnnxGraph

_VARIABLE = -1
_TIMEOUT_S = 60.0
_MOST_BYTES = 2 * 2**30
"""Larger graphs are not loaded; their variable output axes are not compared."""
_MOST_REMEMBERED_BYTES = 2**16
_REMEMBERED: dict[bytes, Mapping[str, tuple[int, ...]] | None] = {}
"""Answers by content: versions and models of a repository often share a small graph."""


def with_inferred_outputs(path: Path, graph: OnnxGraph) -> OnnxGraph:
    """The graph with the output shapes that ONNX Runtime infers.

    Outputs whose shapes are declared need no inference, except for the first axis, which is the batch.

    Args:
        path: The graph's file.
        graph: As the file declares it.
    """
    if all(tensor.shape is not None and _VARIABLE not in tensor.shape[1:] for tensor in graph.outputs.values()):
        return graph
    shapes = _inferred(path, graph)
    if shapes is None or not graph.outputs.keys() <= shapes.keys():
        return replace(graph, outputs_inferred=False)
    outputs = {name: GraphTensor(name, tensor.element_type, shapes[name]) for name, tensor in graph.outputs.items()}
    return replace(graph, outputs=outputs)


def _inferred(path: Path, graph: OnnxGraph) -> Mapping[str, tuple[int, ...]] | None:
    """Shapes by output; None if ONNX Runtime is not installed or cannot load the graph."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    files = [path, *(path.parent / name for name in graph.external_files)]
    if sum(file.stat().st_size for file in files if file.is_file()) > _MOST_BYTES:
        return None
    if graph.external_files or path.stat().st_size > _MOST_REMEMBERED_BYTES:
        return _asked(path)
    content = path.read_bytes()
    if content not in _REMEMBERED:
        _REMEMBERED[content] = _asked(path)
    return _REMEMBERED[content]


def _asked(path: Path) -> Mapping[str, tuple[int, ...]] | None:
    try:
        asked = subprocess.run(
            [sys.executable, "-m", "ebbtide.check.onnx_shapes", str(path)],
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {name: tuple(shape) for name, shape in found.items()}


def _main(path: str) -> None:
    """Prints the output shapes as JSON; a symbolic axis is -1."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shapes = {
        output.name: [size if isinstance(size, int) and size >= 0 else _VARIABLE for size in output.shape]
        for output in session.get_outputs()
    }
    sys.stdout.write(json.dumps(shapes))


if __name__ == "__main__":
    _main(sys.argv[1])
