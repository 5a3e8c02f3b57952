"""Rules that compare an ONNX graph with its config, as the ONNX Runtime backend does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ebbtide.check import backends
from ebbtide.check.configs import data_type_name
from ebbtide.check.findings import Finding
from ebbtide.check.messages import Tensor
from ebbtide.check.onnx_graph import GraphTensor, NotOnnxError, OnnxGraph
from ebbtide.check.textproto import Key, Path
from ebbtide.check.view import View

NEWEST_OPSET = 21
NEWEST_IR_VERSION = 10
"""The newest versions that ONNX Runtime 1.19 supports, the one in Triton 24.10."""
_INTEGERS = ("intra_op_thread_count", "inter_op_thread_count", "execution_mode")
_BOOLEANS = ("enable_mem_arena", "enable_mem_pattern")


def check(view: View) -> Iterator[Finding]:
    """Checks the graph of each loaded version."""
    if view.serving.backend != backends.ONNX:
        return
    yield from _parameters(view)
    yield from _stand_in(view)
    for version, graph in view.graphs.items():
        file = view.model_file(version).relative_to(view.model.path).as_posix()
        if isinstance(graph, NotOnnxError):
            yield view.file_finding(
                "onnx-unreadable",
                file,
                f"got a file that is not an ONNX graph: {graph}; expected an ONNX graph",
                "export the model again; if the file is a Git LFS pointer, run `git lfs pull`",
            )
            continue
        yield from _file(view, file, graph)
        yield from _tensors(view, graph)


def _file(view: View, file: str, graph: OnnxGraph) -> Iterator[Finding]:
    folder = (view.model.path / file).parent
    for name in graph.external_files:
        if not (folder / name).is_file():
            yield view.file_finding(
                "onnx-external-data",
                file,
                f"got weights in {name!r}, which does not exist; expected this file beside {file}",
                "copy it into the version's folder",
            )
    if graph.opset > NEWEST_OPSET or graph.ir_version > NEWEST_IR_VERSION:
        yield view.file_finding(
            "onnx-opset",
            file,
            f"got opset {graph.opset} and IR version {graph.ir_version}; expected at most {NEWEST_OPSET} and "
            f"{NEWEST_IR_VERSION}, which ONNX Runtime 1.19 (Triton 24.10) supports",
            "use a Triton with a newer ONNX Runtime, or export the graph for an older opset",
        )


def _tensors(view: View, graph: OnnxGraph) -> Iterator[Finding]:
    config = view.config
    accepted = {**graph.inputs, **graph.defaults}
    if not (config.input and config.output) and config.max_batch_size > 0 and not graph.batches:
        yield view.finding(
            "onnx-batch-dimension",
            ("max_batch_size",),
            f"got max_batch_size {config.max_batch_size} on a graph with a fixed first axis; expected 0",
            "export the graph with a variable first axis, or write `max_batch_size: 0`",
        )
    for index, tensor in enumerate(config.input):
        if tensor.optional and config.max_batch_size > 0:
            yield view.finding(
                "onnx-optional-input",
                ("input", index, "optional"),
                f"got `optional` for {tensor.name!r} with max_batch_size {config.max_batch_size}; expected 0: all "
                "requests of a batch must have the same inputs",
                "remove `optional`, or write `max_batch_size: 0`",
            )
        yield from _tensor(view, ("input", index), tensor, accepted, may_be_narrower=True)
        if tensor.allow_ragged_batch and tensor.name in accepted:
            yield from _ragged(view, ("input", index), accepted[tensor.name])
    for index, output in enumerate(config.output):
        # An output must have exactly the dims of the graph, as far as these are known.
        yield from _tensor(view, ("output", index), output, graph.outputs, may_be_narrower=not graph.outputs_inferred)
    missing = sorted(graph.inputs.keys() - {tensor.name for tensor in config.input})
    filled = _filled_by_triton(view)
    if config.input and (missing := [name for name in missing if name not in filled]):
        yield view.finding(
            "onnx-input-missing",
            ("input",),
            f"got no {', '.join(map(repr, missing))}; expected all inputs of the graph",
            "add the input to the config",
        )


def _filled_by_triton(view: View) -> set[str]:
    """Inputs of the graph that Triton fills in and requests never contain."""
    batching = view.config.sequence_batching
    names = {entry.name for entry in batching.control_input} | {state.input_name for state in batching.state}
    return names | {name for entry in view.config.batch_input for name in entry.target_name}


def _tensor(
    view: View, path: Path, tensor: Tensor, found: Mapping[str, GraphTensor], *, may_be_narrower: bool
) -> Iterator[Finding]:
    section = str(path[0])
    if not tensor.name:
        return
    if tensor.name not in found:
        yield view.finding(
            f"onnx-{section}-unknown",
            (*path, "name"),
            f"got {section} {tensor.name!r}; expected one of the graph's: {', '.join(sorted(found)) or 'it has none'}",
            "correct the name, or export a graph that has this tensor",
        )
        return
    node = found[tensor.name]
    if tensor.data_type and data_type_name(tensor.data_type) != node.data_type:
        yield view.finding(
            "onnx-data-type",
            (*path, "data_type"),
            f"got {data_type_name(tensor.data_type)} for {tensor.name!r}; expected the graph's {node.data_type}",
            f"write `data_type: {node.data_type}`"
            if node.data_type.startswith("TYPE_")
            else "cast the tensor in the graph; Triton does not have this data type",
        )
    if node.shape is not None and tensor.dims:
        yield from _dims(view, path, tensor, node.shape, may_be_narrower=may_be_narrower)


def _dims(view: View, path: Path, tensor: Tensor, shape: Sequence[int], *, may_be_narrower: bool) -> Iterator[Finding]:
    batching = view.config.max_batch_size > 0
    reshaped = tensor.HasField("reshape")
    location: Path = (*path, "reshape") if reshaped else (*path, "dims")
    dims = list(tensor.reshape.shape if reshaped else tensor.dims)
    if not shape and not batching:
        if any(dim != 1 for dim in dims):
            yield view.finding(
                "onnx-dims",
                location,
                f"got dims {dims} for the scalar {tensor.name!r}; expected [1]",
                "write `dims: [ 1 ]`",
            )
        return
    if batching and (not shape or shape[0] != -1):
        yield view.finding(
            "onnx-batch-dimension",
            ("max_batch_size",),
            f"got max_batch_size {view.config.max_batch_size}, and {tensor.name!r} has shape {list(shape)} in the "
            "graph; expected a variable first axis",
            "export the graph with a variable first axis, or write `max_batch_size: 0`",
        )
        return
    full = [-1, *dims] if batching else dims
    fits = len(full) == len(shape) and all(
        dim == size or (may_be_narrower and size == -1) for dim, size in zip(full, shape, strict=True)
    )
    if not fits:
        expected = list(shape[1:]) if batching else list(shape)
        hint = f"write `dims: {expected}`"
        if not batching and len(full) == len(shape) - 1:
            hint = "write `max_batch_size`, or add the first axis to `dims`"
        elif batching and dims and dims[0] == -1 and len(dims) == len(shape):
            hint += "; `dims` do not include the batch axis"
        yield view.finding(
            "onnx-dims",
            location,
            f"got dims {dims} for {tensor.name!r}; expected {expected}"
            + (", without the batch axis" if batching else ", because max_batch_size is 0"),
            hint,
        )


def _ragged(view: View, path: Path, node: GraphTensor) -> Iterator[Finding]:
    if node.shape is not None and len(node.shape) != 1:
        yield view.finding(
            "ragged-graph",
            (*path, "allow_ragged_batch"),
            f"got `allow_ragged_batch` for {node.name!r} with shape {list(node.shape)} in the graph; expected a "
            "single axis: Triton concatenates the requests of a batch",
            "remove `allow_ragged_batch`, or export a graph with a flat input and pass the sizes as `batch_input`",
        )


def _parameters(view: View) -> Iterator[Finding]:
    for name, parameter in view.config.parameters.items():
        value, expected = parameter.string_value, ""
        if name in _INTEGERS:
            number = _integer(value)
            if number is None:
                expected = "a whole number"
            elif name == "execution_mode" and number not in (0, 1):
                expected = "0 for sequential or 1 for parallel"
        elif name in _BOOLEANS and value.lower() not in ("0", "1", "false", "true"):
            expected = "0, 1, false or true"
        if expected:
            yield view.finding(
                "onnx-parameter",
                ("parameters", Key(name), "value", "string_value"),
                f"got {value!r} for {name}; expected {expected}",
                "correct the value",
            )


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _stand_in(view: View) -> Iterator[Finding]:
    """Finds fields that only NVIDIA's own backend supports."""
    config = view.config
    written: list[tuple[str, bool]] = [
        ("sequence_batching", config.HasField("sequence_batching")),
        ("batch_input", bool(config.batch_input)),
        ("batch_output", bool(config.batch_output)),
    ]
    for field, is_written in written:
        if is_written:
            yield view.finding(
                "stand-in-backend",
                (field,),
                f"got `{field}` on an ONNX model; expected no `{field}` if `ebbtide serve` loads the model",
                "serve the model with NVIDIA's ONNX Runtime backend",
            )
