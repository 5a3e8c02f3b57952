"""The exported encoder and tokenizer give the same results as torch and the training tokenizer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ebbtide.data.catalog import Catalog
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.repository import ExportReport
from ebbtide.interest import served_models
from ebbtide.interest.errors import RequestError
from ebbtide.interest.modelfile import read_fingerprint
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import PACKAGED, embed_texts, encoder_folder

ODD_TEXTS = ["a", "Ünïcødé – 東京物語 🎬", "word " * 400, "  spaces around  ", "[MASK] [PAD]"]


def test_report_gives_differences_below_the_tolerance_when_exported(export_report: ExportReport) -> None:
    for difference in (
        export_report.encoder_difference,
        export_report.head_difference,
        export_report.pipeline_difference,
    ):
        assert 0 <= difference <= export_report.tolerance == TOLERANCE


@pytest.mark.parametrize("count", [1, 3, 16])
def test_embed_equals_torch_when_texts_are_of_the_catalog(
    in_process: InProcessPipeline, bundle: InterestBundle, catalog: Catalog, count: int
) -> None:
    vectors = in_process.embed(catalog.text[:count])
    expected = (bundle.model.text_vectors[:count] @ bundle.model.event_projection).detach()
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=TOLERANCE, rtol=0)


def test_embed_equals_torch_when_texts_are_odd(in_process: InProcessPipeline, bundle: InterestBundle) -> None:
    raw = torch.from_numpy(embed_texts(encoder_folder(PACKAGED), ODD_TEXTS))
    expected = (raw @ bundle.model.event_projection).detach()
    np.testing.assert_allclose(in_process.embed(ODD_TEXTS), expected, atol=TOLERANCE, rtol=0)


def test_embed_gives_one_vector_when_its_neighbours_differ(in_process: InProcessPipeline) -> None:
    alone, beside = in_process.embed(["a short text"]), in_process.embed(["a short text", "word " * 100])
    np.testing.assert_allclose(alone[0], beside[0], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("words", "width"), [(1, 8), (14, 16), (15, 24), (200, 208), (400, 256)])
def test_tokens_of_few_texts_fill_a_multiple_of_eight_when_padded(
    in_process: InProcessPipeline, words: int, width: int
) -> None:
    batch = in_process.tokenizer.encode([("word " * words).encode(), b"a"])
    assert batch.input_ids.shape == batch.attention_mask.shape == (2, width)
    assert batch.attention_mask.sum(1).tolist() == [min(words + 2, 256), 3]
    assert not batch.input_ids[batch.attention_mask == 0].any()


@pytest.mark.parametrize(
    ("texts", "field", "value"),
    [
        ([], "text", "0 texts"),
        ([b"a"] * 65, "text", "65 texts"),
        ([b"a", b"b", b""], "text[2]", "''"),
        ([b" \n\t"], "text[0]", r"' \n\t'"),
        ([b"a", b"\xff\xfe"], "text[1]", r"b'\xff\xfe'"),
        ([b"x" * 4097], "text[0]", "4097 bytes"),
    ],
)
def test_tokens_are_refused_when_a_text_is_bad(
    in_process: InProcessPipeline, texts: list[bytes], field: str, value: str
) -> None:
    with pytest.raises(RequestError) as caught:
        in_process.tokenizer.encode(texts)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert RequestError.parse(f"tokenizer: {caught.value}") is not None


def test_graph_has_the_fingerprint_beside_it_and_no_trace_when_written(
    repository: Path, export_report: ExportReport
) -> None:
    for name in (served_models.ENCODER.name, served_models.SCORING_HEAD.name):
        assert read_fingerprint(repository / name / "1") == export_report.fingerprint
        model = onnx.load(repository / name / "1" / "model.onnx")
        assert not model.metadata_props
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
        fused = {"com.microsoft": 1} if name == served_models.ENCODER.name else {}
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18, **fused}
        assert model.ir_version == 8
