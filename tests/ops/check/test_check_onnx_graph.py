"""ONNX files are read as the onnx package reads them, and other files are refused."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ebbtide.check.onnx_graph import DATA_TYPES, NotOnnxError, OnnxGraph, read_graph
from ebbtide.check.onnx_shapes import with_inferred_outputs

TENSORS = st.tuples(
    st.sampled_from(sorted(DATA_TYPES)),
    st.none() | st.lists(st.integers(0, 2**40) | st.sampled_from(["n", "batch", ""]), max_size=4),
)


@st.composite
def models(draw):
    def tensors(prefix):
        drawn = draw(st.lists(TENSORS, max_size=4))
        return [
            helper.make_tensor_value_info(f"{prefix}{index}ä", dtype, shape)
            for index, (dtype, shape) in enumerate(drawn)
        ]

    inputs, outputs = tensors("in"), tensors("out")
    defaults = draw(st.sets(st.sampled_from([value.name for value in inputs]))) if inputs else set()
    weights = [numpy_helper.from_array(np.zeros(draw(st.integers(0, 300)), np.float32), name) for name in defaults]
    weights.append(numpy_helper.from_array(np.arange(1000, dtype=np.int64), "hidden"))
    graph = helper.make_graph([helper.make_node("Identity", ["hidden"], ["x"])], "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("com.other", 99), helper.make_opsetid("", draw(st.integers(1, 30)))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=draw(st.integers(3, 12)))


def shape_of(value):
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)


@settings(max_examples=100, deadline=None)
@given(models())
def test_graph_is_read_as_onnx_reads_it(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(model, path)
    graph = read_graph(path)
    initializers = {tensor.name for tensor in model.graph.initializer}
    assert graph.ir_version == model.ir_version
    assert graph.opset == next(opset.version for opset in model.opset_import if not opset.domain)
    assert list({**graph.inputs, **graph.defaults}) == sorted(
        [value.name for value in model.graph.input], key=lambda name: name in initializers
    )
    assert graph.defaults.keys() == initializers & {value.name for value in model.graph.input}
    for value in (*model.graph.input, *model.graph.output):
        found = {**graph.inputs, **graph.defaults, **graph.outputs}[value.name]
        assert found.element_type == value.type.tensor_type.elem_type
        assert found.shape == shape_of(value)


def test_outside_weights_are_named_when_the_graph_keeps_them_elsewhere(tmp_path):
    weights = numpy_helper.from_array(np.zeros(10_000, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [10_000])],
        [weights],
    )
    model = helper.make_model(graph)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin")
    assert read_graph(tmp_path / "model.onnx").external_files == ("weights.bin",)


def test_graph_is_not_tensors_when_it_takes_a_sequence(tmp_path):
    info = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, ["n"])
    graph = helper.make_graph([], "g", [info], [])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert read_graph(tmp_path / "model.onnx").inputs["s"].shape is None


@settings(max_examples=200, deadline=None)
@given(models(), st.data())
def test_only_the_one_error_is_raised_when_bytes_are_cut_or_changed(tmp_path_factory, model, data):
    content = bytearray(model.SerializeToString())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    path.write_bytes(content)
    with suppress(NotOnnxError):
        assert isinstance(read_graph(path), OnnxGraph)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 100, b"\x08\x08"])
def test_file_is_refused_when_it_is_no_graph(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(NotOnnxError):
        read_graph(path)


VARIABLE = """< ir_version: 8, opset_import: ["" : 13] >
g (float[n, 3] a) => (float[n, m] b)
{
  b = Identity(a)
}
"""


def test_outputs_are_inferred_only_where_onnxruntime_can_load_the_graph(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(VARIABLE).SerializeToString())
    declared = read_graph(path)
    inferred = with_inferred_outputs(path, declared)
    assert (inferred.outputs["b"].shape, inferred.outputs_inferred) == ((-1, 3), True)
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08")
    assert not with_inferred_outputs(tmp_path / "broken.onnx", declared).outputs_inferred
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert not with_inferred_outputs(path, declared).outputs_inferred
