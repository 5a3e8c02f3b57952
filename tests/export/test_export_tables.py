"""The served tables equal the trained parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from ebbtide.export import tables
from ebbtide.export.errors import KeyCollisionError, LimitError
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import ExportReport
from ebbtide.interest import exported, served_models
from ebbtide.interest.contract import Limits
from ebbtide.interest.keys import item_key
from ebbtide.interest.parameters import InterestConfig
from ebbtide.interest.tensorfile import read_tensors
from ebbtide.train.bundle import InterestBundle

MakeBundle = Callable[..., InterestBundle]


def test_parameters_equal_the_torch_models_when_read_back(
    repository: Path, bundle: InterestBundle, export_report: ExportReport
) -> None:
    folder = repository / served_models.ADAPTIVE_WEIGHTS.name / "1"
    served = exported.read_interest_parameters(folder)
    model = bundle.model
    with torch.no_grad():
        np.testing.assert_array_equal(served.decay_rate_per_day, model.decay_rate_per_day.numpy())
        np.testing.assert_array_equal(served.rank_decay_rate, model.rank_decay_rate.numpy())
        np.testing.assert_array_equal(served.prior_weight, model.prior_weight.numpy())
        assert served.gate is not None
        features = torch.randn(5, model.gate_hidden.in_features)
        expected = model.gate_output(torch.tanh(model.gate_hidden(features)))
        hidden = np.tanh(features.numpy() @ served.gate.hidden_weight + served.gate.hidden_bias)
        np.testing.assert_allclose(hidden @ served.gate.output_weight + served.gate.output_bias, expected, atol=1e-6)
    assert served.config.fingerprint == export_report.fingerprint
    assert served.config.session_gap_ms == bundle.model.config.session_gap_ms
    assert served.config.exclude_seen == bundle.model.config.exclude_seen


def test_catalog_equals_the_bundles_when_read_as_memory_map(
    repository: Path, bundle: InterestBundle, export_report: ExportReport
) -> None:
    arrays, metadata = read_tensors(repository / served_models.ADAPTIVE_WEIGHTS.name / "1" / exported.CATALOG_FILE)
    assert metadata["fingerprint"] == export_report.fingerprint
    np.testing.assert_array_equal(arrays[exported.EVENT_VECTORS], bundle.model.event_vectors().detach().numpy())
    keys = arrays[exported.SORTED_KEY]
    assert np.all(np.diff(keys.astype(object)) > 0)
    for key, index in zip(keys.tolist(), arrays[exported.CATALOG_INDEX].tolist(), strict=True):
        assert item_key(bundle.catalog.item_id[index]) == key


def test_models_share_one_file_when_they_read_the_same_table(repository: Path, export_report: ExportReport) -> None:
    names = {name for names in exported.MODEL_FILES.values() for name in names}
    for name in names:
        files = [path.stat() for path in repository.glob(f"*/1/{name}")]
        assert len({status.st_ino for status in files}) == 1
        assert len(files) == sum(name in names for names in exported.MODEL_FILES.values())
    once = {path.stat().st_ino: path.stat().st_size for path in repository.glob("*/**/*") if path.is_file()}
    assert export_report.size_bytes == sum(once.values())


def test_tables_are_copied_when_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("Operation not permitted")

    monkeypatch.setattr(tables.os, "link", refuse)
    (tmp_path / "one").write_bytes(b"table")
    tables.share_file(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == b"table"
    assert (tmp_path / "one").stat().st_nlink == 1


def test_tables_equal_the_librarys_reading_when_read_by_numpy_alone(repository: Path) -> None:
    path = repository / served_models.ADAPTIVE_WEIGHTS_TEXT.name / "1" / "interest.safetensors"
    ours, theirs = read_tensors(path)[0], load_file(path)
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)


@pytest.mark.parametrize(
    ("settings", "gate_width"),
    [({"alpha": "learned"}, 1), ({"alpha": "per-dimension"}, 16), ({"alpha": "fixed:0.3"}, None)],
)
def test_gate_has_the_width_of_alpha_when_exported(
    make_bundle: MakeBundle, settings: dict[str, str], gate_width: int | None
) -> None:
    served = tables.interest_parameters(make_bundle(**settings), "id", Limits())
    assert (served.gate.output_bias.shape[0] if served.gate else None) == gate_width
    assert served.config.fixed_alpha == (0.3 if gate_width is None else None)


def test_decay_is_zero_when_the_model_has_none(make_bundle: MakeBundle) -> None:
    served = tables.interest_parameters(make_bundle(decay="none"), "id", Limits())
    assert not served.decay_rate_per_day.any()
    assert not served.rank_decay_rate.any()


def test_key_index_names_both_items_when_keys_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    # No two short ids with one 64-bit key are known, so the keys are given here.
    monkeypatch.setattr(tables, "item_keys", lambda ids: np.array([3, 9, 1, 9][: len(ids)]))
    with pytest.raises(KeyCollisionError, match=r"'soap' and 'rope'.*9"):
        tables.key_index(["bread", "soap", "milk", "rope"])


def test_states_and_fingerprint_are_as_before_when_nothing_is_learned_online(
    tiny_bundle: InterestBundle, make_bundle: MakeBundle
) -> None:
    plain, learning = ExportOptions(), ExportOptions(online_learning_rate=0.5)
    assert learning.fingerprint(tiny_bundle) != plain.fingerprint(tiny_bundle)
    content = asdict(plain)
    del content["serving"], content["encoder"]["allow_fidelity_loss"], content["online_learning_rate"]
    text = json.dumps([tiny_bundle.fingerprint, content, None], sort_keys=True)
    assert plain.fingerprint(tiny_bundle) == hashlib.sha256(text.encode()).hexdigest()[:16]
    values = tables.interest_parameters(tiny_bundle, "f", Limits(), online_learning_rate=0.5)
    assert values.config.online_learning_rate == 0.5
    assert values.config.states == tables.interest_parameters(tiny_bundle, "g", Limits(max_events=9)).config.states
    # What was exported before there were states of their own goes by its own id.
    noted = json.loads(values.config.to_json())
    del noted["state_fingerprint"], noted["online_learning_rate"]
    earlier = InterestConfig.from_json(json.dumps(noted))
    assert (earlier.states, earlier.online_learning_rate) == ("f", 0)
    with pytest.raises(LimitError, match=r"online_learning_rate: got -1"):
        ExportOptions(online_learning_rate=-1)
    fixed = make_bundle(alpha="fixed:0.5")
    with pytest.raises(LimitError, match=r"online_learning_rate: got 0.5 and a bundle with alpha fixed at"):
        tables.interest_parameters(fixed, "f", Limits(), online_learning_rate=0.5)
