"""The metadata reader agrees with the onnx package, and refuses files that are cut short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from ebbtide.interest.onnxfile import read_metadata

FILES = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=300), st.text(max_size=300))


def model_bytes(metadata: dict[str, str], weights: int = 1000) -> bytes:
    weight = numpy_helper.from_array(np.zeros(weights, np.float32), "w")
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [weights])
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [output], [weight])
    model = helper.make_model(graph)
    helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


@given(FILES)
def test_metadata_is_what_was_written_when_read_back(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "model.onnx"
    path.write_bytes(model_bytes(metadata))
    assert read_metadata(path) == metadata


def test_metadata_is_found_when_other_fields_follow(tmp_path: Path) -> None:
    model = onnx.load_from_string(model_bytes({"key": "value"}))
    model.functions.add(name="f", domain="d")
    model.doc_string, model.model_version = "text", 2**60
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert read_metadata(path) == {"key": "value"}


@pytest.mark.parametrize("keep", [1, 40, 4000, -1])
def test_file_is_refused_when_it_is_cut_short(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model_bytes({"key": "value"})[:keep])
    with pytest.raises(ValueError, match=r"model\.onnx: got a file that is cut short or damaged"):
        read_metadata(path)


def test_file_is_refused_when_it_is_no_onnx_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="expected an ONNX model"):
        read_metadata(path)
