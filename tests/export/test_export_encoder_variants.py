"""Every variant of the packaged encoder: fused operators, fidelity, input shapes, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ebbtide.data.catalog import Catalog
from ebbtide.export import onnx_files
from ebbtide.export.encoder import fusion, int8
from ebbtide.export.encoder.build import BuiltEncoder, EncoderSource, build_encoder
from ebbtide.export.encoder.fidelity import cosines, measure_fidelity, require_fidelity
from ebbtide.export.encoder.fp16 import to_fp16
from ebbtide.export.encoder.fusion import fuse
from ebbtide.export.encoder.graph import EventEncoder, encoder_graph
from ebbtide.export.encoder.graph_edits import GraphEditor, operator_counts, session_of, weight_bytes
from ebbtide.export.encoder.int8 import to_int8
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.encoder.texts import embed
from ebbtide.export.errors import FidelityError
from ebbtide.export.onnx_files import write_graph
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.repository import export_repository
from ebbtide.interest import served_models
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import PACKAGED, EncoderSettings, TextEncoder, encoder_folder

INPUT_IDS, MASK = (tensor.name for tensor in served_models.ENCODER.inputs)
SHAPES = [(1, 1), (1, 16), (3, 7), (16, 32), (2, 256)]
VARIANTS = {
    "fp32": EncoderOptions(),
    "fp16": EncoderOptions(precision="fp16"),
    "int8": EncoderOptions(precision="int8"),
}
Build = Callable[[str], BuiltEncoder]
Feeds = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def source(bundle: InterestBundle) -> EncoderSource:
    return EncoderSource.read(bundle, encoder_folder(PACKAGED))


@pytest.fixture(scope="module")
def build(source: EncoderSource, int8_encoder: BuiltEncoder) -> Build:
    return cache(lambda name: int8_encoder if name == "int8" else build_encoder(source, VARIANTS[name]))


def feeds(texts: int, tokens: int, *, holes: bool = False) -> Feeds:
    random = np.random.default_rng(texts * 1000 + tokens)
    mask = (np.arange(tokens) < random.integers(1, tokens + 1, (texts, 1))).astype(np.int64)
    if holes:
        mask = random.integers(0, 2, (texts, tokens))
        mask[:, 0] = 1
    return {INPUT_IDS: random.integers(1000, 30000, (texts, tokens)), MASK: mask}


def run(session: Any, batch: Feeds) -> np.ndarray:
    return session.run(None, batch)[0]


def changed_trace(editor: GraphEditor, source: EncoderSource, changed: str) -> onnx.ModelProto:
    """A changed trace with the shapes that the rules look at, but for a value that came new."""
    graph = editor.finish()
    graph.graph.value_info.extend(value for value in source.plain.graph.value_info if value.name != changed)
    return graph


def counts(graph: onnx.ModelProto) -> dict[str, int]:
    return operator_counts(graph)


def test_graph_is_fused_for_the_cpu_when_exported(source: EncoderSource, build: Build) -> None:
    built = build("fp32")
    assert (built.operators, built.kept_plain) == ({"Attention": 6, "BiasGelu": 6}, None)
    found = counts(built.graph)
    assert (found["LayerNormalization"], found["Sum"]) == (13, 13)
    # The mask of [texts, 1, tokens, tokens] and the joining of weights at each run are gone.
    assert not found.keys() & {"GatherND", "Where", "Softmax", "Erf", "Range"}
    assert found["Concat"] == 1
    assert weight_bytes(built.graph) <= weight_bytes(source.plain)
    for node in built.graph.graph.node:
        if node.op_type == "Attention":
            assert len(node.input) == 4
            assert node.input[3] == "attention_mask_int32"


def test_graph_is_fused_for_gpus_when_in_half_precision(build: Build) -> None:
    built = build("fp16")
    assert built.operators == {
        "Attention": 6,
        "BiasGelu": 6,
        "EmbedLayerNormalization": 1,
        "SkipLayerNormalization": 12,
    }
    # Tokens to int32, mask to int32 and float, and back to float32 once, after the last layer.
    assert counts(built.graph)["Cast"] == 4


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_fused_graph_equals_the_plain_one_when_shapes_vary(
    sessions: Callable[[str], Any], device: str, shape: tuple[int, int], holes: bool
) -> None:
    batch = feeds(*shape, holes=holes)
    np.testing.assert_allclose(run(sessions(device), batch), run(sessions("plain"), batch), atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def sessions(source: EncoderSource) -> Callable[[str], Any]:
    graphs = {
        "plain": lambda: source.plain,
        "cpu": lambda: source.fused.graph,
        "gpu": lambda: fuse(source.plain, "gpu").graph,
    }
    return cache(lambda name: session_of(graphs[name]()))


def test_trace_is_left_alone_when_it_is_fused(source: EncoderSource) -> None:
    before = source.plain.SerializeToString(deterministic=True)
    fuse(source.plain, "gpu")
    assert source.plain.SerializeToString(deterministic=True) == before


def test_attention_keeps_its_added_scores_when_they_are_no_mask(source: EncoderSource) -> None:
    """Relative positions, say: what is added says more than which tokens are there."""
    editor = GraphEditor(source.plain)
    added = next(node for node in editor.nodes if node.op_type == "Where" and MASK not in node.input)
    bias = editor.add_constant("bias", np.random.default_rng(0).standard_normal((1, 12, 1, 1)).astype(np.float32))
    renamed = f"{added.output[0]}.mask"
    changed = onnx.NodeProto()
    changed.CopyFrom(added)
    changed.output[0] = renamed
    editor.replace(added, [changed, helper.make_node("Add", [renamed, bias], [added.output[0]])])
    graph = changed_trace(editor, source, added.output[0])
    fused = fuse(graph)
    assert fused.operators["Attention"] == 6
    assert all(len(node.input) == 6 for node in fused.graph.graph.node if node.op_type == "Attention")
    batch = feeds(3, 16)
    np.testing.assert_allclose(run(session_of(fused.graph), batch), run(session_of(graph), batch), atol=TOLERANCE)


def test_graph_stays_plain_when_an_attention_block_has_another_form(source: EncoderSource) -> None:
    editor = GraphEditor(source.plain)
    softmax = next(node for node in editor.nodes if node.op_type == "Softmax")
    half = editor.add_constant("half", np.array(0.5, np.float32))
    changed = onnx.NodeProto()
    changed.CopyFrom(softmax)
    changed.output[0] = "halved"
    editor.replace(softmax, [changed, helper.make_node("Mul", ["halved", half], [softmax.output[0]])])
    graph = changed_trace(editor, source, softmax.output[0])
    fused = fuse(graph)
    assert fused.graph is graph
    assert fused.kept_plain == "only 5 of its 6 attention blocks have a form that can be fused"


def test_graph_stays_plain_when_the_fused_one_answers_otherwise(
    source: EncoderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = fusion._pack_projections

    def pack_wrongly(editor: GraphEditor, attention: list[onnx.NodeProto]) -> None:
        pack(editor, attention)
        attention[0].input[1] = attention[1].input[1]

    monkeypatch.setattr(fusion, "_pack_projections", pack_wrongly)
    fused = fuse(source.plain)
    assert fused.graph is source.plain
    assert fused.kept_plain is not None
    assert "on random tokens" in fused.kept_plain


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_keeps_names_types_and_axes_when_built(build: Build, name: str) -> None:
    graph = build(name).graph.graph
    for values, tensors, element in (
        (graph.input, served_models.ENCODER.inputs, TensorProto.INT64),
        (graph.output, served_models.ENCODER.outputs, TensorProto.FLOAT),
    ):
        assert [value.name for value in values] == [tensor.name for tensor in tensors]
        assert {value.type.tensor_type.elem_type for value in values} == {element}
    session = session_of(build(name).graph)
    for shape in SHAPES:
        vectors = run(session, feeds(*shape))
        assert vectors.shape == (shape[0], 16)
        assert np.isfinite(vectors).all()


# On a catalog of 200 texts; bounds are below what was measured by about as much as it lies below 1.
@pytest.mark.parametrize(
    ("name", "cosine_mean", "cosine_min", "size"),
    [
        ("fp16", 0.99999, 0.9999, 0.51),
        ("int8", 0.995, 0.98, 0.27),
    ],
)
def test_variant_comes_near_the_full_encoder_when_texts_are_unseen(
    build: Build, source: EncoderSource, name: str, cosine_mean: float, cosine_min: float, size: float
) -> None:
    built = build(name)
    session, full = session_of(built.graph), session_of(source.fused.graph)
    batches = source.tokens.batches(source.texts.kept_back)
    found = cosines(*(embed(batches, lambda batch, one=one: run(one, batch)) for one in (session, full)))
    assert found.mean() >= cosine_mean
    assert found.min() >= cosine_min
    assert weight_bytes(built.graph) <= size * weight_bytes(source.plain)


def test_integers_are_in_the_products_when_quantised(build: Build) -> None:
    found = counts(build("int8").graph)
    assert (found["QAttention"], found["MatMulIntegerToFloat"], found["QuantizeLinear"]) == (6, 18, 24)
    # What follows pooling alone; scales are not measured at run time.
    assert found["MatMul"] == 1
    assert not found.keys() & {"DynamicQuantizeLinear", "Attention"}


def products_of(graph: onnx.ModelProto) -> dict[str, tuple[str, np.ndarray]]:
    """The name of the activations, and the weight, of each integer product by its output."""
    editor, found = GraphEditor(graph), {}
    for node in editor.nodes:
        if node.op_type in ("QAttention", "MatMulIntegerToFloat"):
            weight = editor.constant(node.input[1])
            assert weight is not None
            assert weight.dtype == np.int8
            found[node.output[0]] = (node.input[0], weight)
    assert len(found) == 24
    return found


def product_in_16_bits(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """As x86 CPUs without VNNI compute it (``vpmaddubsw``): the products of two channels are added in 16 bits."""
    # [pairs, rows, 2] by [pairs, 2, columns]; float32 is exact up to 2 ** 24, and twice as fast as integers.
    pairs = rows.astype(np.float32).reshape(len(rows), -1, 2).swapaxes(0, 1)
    both = pairs @ weight.astype(np.float32).reshape(-1, 2, weight.shape[1])
    total: np.ndarray = both.clip(-(2**15), 2**15 - 1).sum(0, dtype=np.float64)
    return total.astype(np.int32)


def differing_products(graph: onnx.ModelProto, source: EncoderSource) -> int:
    """How many of the products differ in 16 bits from the exact ones, on real texts."""
    products = products_of(graph)
    (batch, *_) = source.tokens.batches(source.texts.kept_back)
    (activations,) = GraphEditor(graph).run_part([name for name, _ in products.values()], [batch.feeds])
    differing = 0
    for rows, (_, weight) in zip(activations, products.values(), strict=True):
        some = rows.reshape(-1, rows.shape[-1])[::16]
        exact = (some.astype(np.float64) @ weight.astype(np.float64)).astype(np.int32)
        differing += not np.array_equal(product_in_16_bits(some, weight), exact)
    return differing


def test_no_pair_of_products_can_saturate_16_bits_when_quantised(build: Build) -> None:
    for _, weight in products_of(build("int8").graph).values():
        pairs = weight.astype(np.int32).reshape(-1, 2, weight.shape[1])
        assert 255 * np.maximum(pairs, 0).sum(1).max() < 2**15
        assert 255 * np.minimum(pairs, 0).sum(1).min() >= -(2**15)
        # And no more room is left than rounding needs.
        assert np.abs(pairs).sum(1).max() >= 127


def test_integer_products_are_the_same_when_the_processor_adds_in_16_bits(
    build: Build, source: EncoderSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differing_products(build("int8").graph, source) == 0
    # Weights that fill all 8 bits, on the other hand, saturate, whatever their smoothing and ranges.
    monkeypatch.setattr(int8, "_largest_sums", lambda weight: np.abs(weight).max(0))
    monkeypatch.setattr(int8, "_STRENGTHS", int8._STRENGTHS[:1])
    monkeypatch.setattr(int8, "_CUTS", int8._CUTS[:1])
    (batch, *_) = source.tokens.batches(source.texts.calibration)
    assert differing_products(to_int8(source.fused.graph, [batch.feeds]), source) > 12


def test_integer_product_equals_the_emulated_one_when_run(build: Build, source: EncoderSource) -> None:
    """So the emulation computes what the operator means, with zero points and scales around it."""
    graph = build("int8").graph
    editor = GraphEditor(graph)
    node = next(node for node in editor.nodes if node.op_type == "MatMulIntegerToFloat")
    _, _, scale, weight_scale, zero = (editor.constant(name) for name in node.input[:5])
    bias = editor.constant(node.input[6]) if len(node.input) > 6 else np.zeros(1, np.float32)
    weight = products_of(graph)[node.output[0]][1]
    (batch, *_) = source.tokens.batches(source.texts.kept_back)
    ((rows, got),) = GraphEditor(graph).run_part([node.input[0], node.output[0]], [batch.feeds])
    flat = rows.reshape(-1, rows.shape[-1])
    integers = product_in_16_bits(flat, weight) - zero.astype(np.int32) * weight.astype(np.int32).sum(0)
    np.testing.assert_allclose(got.reshape(len(flat), -1), integers * (scale * weight_scale) + bias, atol=1e-4, rtol=0)


def test_int8_vector_is_the_same_when_its_neighbours_differ(build: Build, catalog: Catalog) -> None:
    session, tokens = session_of(build("int8").graph), build("int8").source.tokens
    (batch,) = tokens.batches(catalog.text[:40])
    together = run(session, batch.feeds)
    np.testing.assert_array_equal(together, run(session, batch.feeds))
    for row in (0, 17, 39):
        alone = run(session, {name: feed[row : row + 1] for name, feed in batch.feeds.items()})
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5, rtol=0)


def test_fidelity_of_int8_is_below_one_and_passes(build: Build) -> None:
    built = build("int8")
    fidelity = measure_fidelity(built, session_of(built.graph, 2))
    require_fidelity(fidelity, built.options)
    assert fidelity.texts == 40
    assert fidelity.cosine_min <= fidelity.cosine_mean < 1
    assert 0.98 < fidelity.fragment_cosine_mean < 1
    assert 0 < fidelity.largest_difference < 1
    assert fidelity.ndcg_at_10 is None
    assert fidelity.ndcg_not_measured == "ratings.parquet does not exist any more"
    assert fidelity.speedup > 0


def test_export_is_refused_when_an_encoder_answers_too_differently(
    tiny_bundle: InterestBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights of three values: -1, 0 and 1.
    monkeypatch.setattr(int8, "_LEVELS", 1)
    options = EncoderOptions("int8")
    with pytest.raises(
        FidelityError, match=r"encoder int8: mean cosine .* got -?0\.\d+; expected at least 0\.99"
    ) as caught:
        export_repository(tiny_bundle, tmp_path / "repository", ExportOptions(encoder=options))
    assert "--allow-fidelity-loss" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_graph_answers_the_same_when_its_weights_lie_beside_it(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with weights above 2 GiB."""
    import onnxruntime as ort

    graph = onnx.ModelProto()
    graph.CopyFrom(build("int8").graph)
    expected = run(session_of(graph), feeds(2, 16))
    monkeypatch.setattr(onnx_files, "MAX_MESSAGE_BYTES", 1 << 20)
    write_graph(graph, "0123456789abcdef", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data", "fingerprint.json"}
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(run(session, feeds(2, 16)), expected)


TINY = {
    "vocab_size": 1200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 80,
}


@pytest.mark.parametrize(
    ("architecture", "settings", "operators"),
    [
        # Positions that depend on the tokens are looked up as traced; all else is fused.
        ("Roberta", {"type_vocab_size": 1}, {"Attention": 2, "BiasGelu": 2}),
        # Relative positions, and rotary ones: plain, and still compressed.
        pytest.param("MPNet", {}, {}, marks=pytest.mark.slow),
        pytest.param(
            "ModernBert", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}, {}, marks=pytest.mark.slow
        ),
    ],
)
def test_other_architectures_answer_as_torch_when_compressed(
    architecture: str, settings: dict[str, int], operators: dict[str, int]
) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{architecture}Config")(**TINY, **settings)
    transformer = getattr(transformers, f"{architecture}Model")(config).eval()
    module = EventEncoder(TextEncoder(transformer, EncoderSettings("mean", True, 80)).eval(), torch.randn(64, 16))
    plain = encoder_graph(module)
    fused = fuse(plain)
    assert fused.operators == operators
    assert (fused.kept_plain is None) == bool(operators)
    batches = [
        {INPUT_IDS: batch[INPUT_IDS] % 1200, MASK: batch[MASK]} for batch in (feeds(1, 1), feeds(3, 7), feeds(5, 48))
    ]
    for graph, tolerance in ((fused.graph, TOLERANCE), (to_fp16(plain), 0.02), (to_int8(fused.graph, batches), 0.1)):
        onnx.checker.check_model(graph)
        session = session_of(graph)
        for batch in batches:
            with torch.inference_mode():
                expected = module(*(torch.from_numpy(feed) for feed in batch.values()))[0].numpy()
            np.testing.assert_allclose(run(session, batch), expected, atol=tolerance, rtol=0)
