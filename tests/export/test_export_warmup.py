"""Warm-up requests have the right types and sizes, and every version of a folder can answer them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tokenizers import Tokenizer

from ebbtide.data.catalog import Catalog
from ebbtide.export import versions
from ebbtide.export.errors import RepositoryError, VersionError
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.export.tokenizer import TOKENIZER_FILE
from ebbtide.export.warmup import WARMUP_FOLDER, CommonGround, common_ground, warmup_samples
from ebbtide.interest import contract, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Dtype, Limits
from ebbtide.interest.keys import item_keys
from ebbtide.interest.modelfile import read_fingerprint, write_fingerprint
from ebbtide.interest.pipeline import AdaptiveWeights
from ebbtide.interest.served_models import Kind
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.model import InterestModel
from ebbtide.train.related import Related

from .conftest import Export

MakeBundle = Callable[..., InterestBundle]
NUMPY_TYPES = {Dtype.BOOL: "?", Dtype.INT64: "<i8", Dtype.FP32: "<f4", Dtype.BYTES: "O"}


@pytest.fixture(scope="module")
def ground(repository: Path) -> CommonGround:
    return common_ground({1: repository})


def part_of(bundle: InterestBundle, first: int, last: int) -> InterestBundle:
    """The same training with only some items of its catalog."""
    whole, catalog = bundle.model, bundle.catalog
    texts = whole.text_vectors[first:last]
    model = InterestModel(whole.config, texts).eval()
    parts = {"event_residual", "item_residual", "item_bias", "text_vectors", "related_item", "related_score"}
    state = {name: value for name, value in whole.state_dict().items() if name.split(".")[0] not in parts}
    model.load_state_dict(state, strict=False)
    related = Related.of(texts)
    assert related is not None
    model.relate(related)
    items = slice(first, last)
    part = Catalog(catalog.item_id[items], catalog.text[items], catalog.title[items])
    config = bundle.config.model_copy(update={"fingerprint": f"{first:08d}{last:08d}"})
    return InterestBundle(config, part, model, bundle.prior_columns[items])


def test_every_computing_model_is_warmed_up_when_exported(repository: Path) -> None:
    for name, model in served_models.MODELS.items():
        config, folder = versions.read_model_config(repository, name), repository / name / WARMUP_FOLDER
        if model.kind is Kind.ENSEMBLE or model.needs_store:
            # Triton refuses warm-up of ensembles; warm-up of `observer` would write to the store.
            assert not config.model_warmup
            assert not folder.exists()
            continue
        files = {value.input_data_file for entry in config.model_warmup for value in entry.inputs.values()}
        assert {path.name for path in folder.iterdir()} == files
        assert len(config.model_warmup) == 3
        for entry in config.model_warmup:
            required = {tensor.name for tensor in model.inputs if not tensor.optional}
            assert required <= set(entry.inputs) <= {tensor.name for tensor in model.inputs}
            for value in entry.inputs.values():
                assert all(size >= 0 for size in value.dims), "a variable dimension is not given"
        batches = [entry.batch_size for entry in config.model_warmup]
        assert sorted(batches) == ([1, 1, config.max_batch_size] if model.batching else [1, 1, 1])


def test_warmup_samples_have_the_contracts_types_and_ranks(ground: CommonGround, bundle: InterestBundle) -> None:
    for name, samples in warmup_samples(ground, bundle.catalog.text).items():
        model = served_models.MODELS[name]
        for tensor in model.inputs:
            for sample in samples:
                if tensor.name in sample.arrays:
                    array = sample.arrays[tensor.name]
                    assert array.dtype == np.dtype(NUMPY_TYPES[tensor.dtype])
                    dims = tensor.config_dims(dict.fromkeys(contract.Size, 1), batching=model.batching)
                    assert array.ndim == len(dims)


def test_warmup_samples_reach_from_no_event_to_the_longest(ground: CommonGround, bundle: InterestBundle) -> None:
    limits, samples = ground.limits, warmup_samples(ground, bundle.catalog.text)
    events = {sample.name: sample.arrays["event_item"].size for sample in samples[served_models.ADAPTIVE_WEIGHTS.name]}
    assert events == {"no_events": 0, "typical": 60, "longest": limits.max_events}
    with_text = samples[served_models.ADAPTIVE_WEIGHTS_TEXT.name]
    assert [sample.arrays["text_vector"].shape[0] for sample in with_text] == [1, 8, limits.max_texts]
    tokens = {sample.name: sample.arrays["input_ids"].size for sample in samples[served_models.ENCODER.name]}
    assert tokens["shortest"] == 8 <= tokens["typical"] < tokens["longest"] == ground.max_tokens
    assert samples[served_models.ENCODER.name][2].arrays["attention_mask"].all()


def test_every_sample_is_answered_when_asked_in_process(
    ground: CommonGround, bundle: InterestBundle, in_process: InProcessPipeline
) -> None:
    samples = warmup_samples(ground, bundle.catalog.text)
    for name in (served_models.ADAPTIVE_WEIGHTS.name, served_models.ADAPTIVE_WEIGHTS_TEXT.name):
        answers = in_process.weights.run([Request(**sample.arrays) for sample in samples[name]])
        assert all(isinstance(answer, AdaptiveWeights) for answer in answers), answers
    for sample in samples[served_models.TOKENIZER.name]:
        in_process.tokenizer.encode(sample.arrays["text"])


def test_samples_fit_when_limits_are_as_small_as_they_can_be(tiny_bundle: InterestBundle, tmp_path: Path) -> None:
    limits = Limits(max_events=1, max_exclude_items=0, max_texts=1, max_text_bytes=8)
    export_repository(tiny_bundle, tmp_path / "out", ExportOptions(limits=limits))
    ground = common_ground({1: tmp_path / "out"})
    samples = warmup_samples(ground, tiny_bundle.catalog.text)
    for name in (served_models.ADAPTIVE_WEIGHTS.name, served_models.ADAPTIVE_WEIGHTS_TEXT.name):
        answers = ground.in_process.weights.run([Request(**sample.arrays) for sample in samples[name]])
        assert all(isinstance(answer, AdaptiveWeights) for answer in answers), answers
    assert max(len(text) for sample in samples[served_models.TOKENIZER.name] for text in sample.arrays["text"]) <= 8


def test_warmup_holds_what_all_versions_know_when_one_is_added(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(part_of(tiny_bundle, 0, 120), out)
    smaller = part_of(tiny_bundle, 90, 150)
    export(smaller, out, ExportOptions(limits=Limits(max_events=500, max_exclude_items=524)), version=2)
    ground = common_ground({1: out, 2: out})
    assert sorted(ground.keys) == sorted(item_keys(tiny_bundle.catalog.item_id[90:120]))
    assert (ground.limits.max_events, ground.limits.max_exclude_items) == (500, 512)
    assert ground.event_vectors.shape[0] == 60
    folder = out / served_models.ADAPTIVE_WEIGHTS.name / WARMUP_FOLDER
    assert set(np.fromfile(folder / "longest.event_item.bin", "<i8")) <= set(ground.keys)
    indices = np.fromfile(out / served_models.SCORING_HEAD.name / WARMUP_FOLDER / "longest.adjust_item.bin", "<i8")
    assert indices.max() < 60


def test_all_versions_are_ready_on_the_server_when_their_catalogs_differ(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(part_of(tiny_bundle, 0, 120), out)
    export(part_of(tiny_bundle, 90, 150), out, version=2)
    versions.load_only(out, [1, 2])
    config = ServerConfig(out, model_control="explicit", load_models=(served_models.RECOMMEND.name,))
    with TritonServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        for name in served_models.RECOMMEND.steps:
            assert client.is_model_ready(name, "1")
            assert client.is_model_ready(name, "2")


def test_version_is_refused_when_it_shares_no_item_with_the_others(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(part_of(tiny_bundle, 0, 100), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(
        VersionError, match=r"versions \[1, 2\]: got no item that is in all .* export to another folder"
    ):
        export(part_of(tiny_bundle, 100, 200), out, version=2)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_version_that_is_replaced_does_not_count_when_its_items_were_others(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(part_of(tiny_bundle, 0, 100), out)
    export(part_of(tiny_bundle, 99, 200), out, version=2)
    export(part_of(tiny_bundle, 0, 50), out, version=2)
    assert common_ground({1: out, 2: out}).keys.size == 50


def test_token_ids_are_the_smallest_vocabularys_when_tokenizers_differ(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(tiny_bundle, out)
    export(tiny_bundle, out, ExportOptions(top_n=50), version=2)
    path = out / served_models.TOKENIZER.name / "1" / TOKENIZER_FILE
    wider = Tokenizer.from_file(str(path))
    wider.add_tokens(["lighthouse keeper"])
    wider.enable_truncation(128)
    # Both versions share one file on the disk.
    path.unlink()
    wider.save(str(path))
    write_fingerprint(path.parent, read_fingerprint(path.parent, hash_files=False))
    ground = common_ground({1: out, 2: out})
    assert (ground.tokenizer.name, ground.max_tokens) == ("2", 128)
    longest = warmup_samples(ground, tiny_bundle.catalog.text)[served_models.ENCODER.name][2]
    assert longest.arrays["input_ids"].size == 128


def test_folder_is_refused_when_a_version_is_damaged(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(tiny_bundle, out)
    shutil.rmtree(out / served_models.TOKENIZER.name / "1")
    with pytest.raises(RepositoryError, match=r"versions \[1\]: got no .*tokenizer.json; expected undamaged exports"):
        common_ground({1: out})
