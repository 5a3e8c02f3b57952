"""Keys, look-up, tensor files, error messages, and the contract itself."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_key, item_keys
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.served_models import MODELS, Kind
from ebbtide.interest.tensorfile import read_tensors


@pytest.mark.parametrize(("item_id", "key"), [("", -1205034819632174695), ("a", -3292477735350538661)])
def test_item_key_is_the_published_xxhash64_read_as_a_signed_integer(item_id, key):
    assert item_key(item_id) == key
    assert item_keys([item_id]).tolist() == [item_key(item_id)]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=40), st.integers(-(2**63), 2**63 - 1))
def test_index_finds_every_key_and_no_other(keys, other):
    index = KeyIndex.build(np.array(keys, np.int64))
    assert index.find(np.array(keys, np.int64)).tolist() == list(range(len(keys)))
    expected = keys.index(other) if other in keys else UNKNOWN
    assert index.find(np.array([other], np.int64)).tolist() == [expected]


@pytest.mark.parametrize("spread", ["hashed", "counted", "clustered"])
@pytest.mark.parametrize("items", [300, 9_066, 65_537, 65_599, 70_000])
def test_index_finds_every_key_when_many_are_asked_for(items, spread):
    random = np.random.default_rng(items)
    keys = {
        "hashed": lambda: random.choice(2**62, items, replace=False) * 2 - 2**62,
        "counted": lambda: np.arange(items) * 2 + 10,
        "clustered": lambda: np.r_[np.arange(items // 2) * 2, 2**61 + np.arange(items - items // 2) * 2],
    }[spread]().astype(np.int64)
    random.shuffle(keys)
    index = KeyIndex.build(keys)
    assert np.array_equal(index.find(keys), np.arange(items))
    absent = np.r_[keys + 1, np.iinfo(np.int64).min, np.iinfo(np.int64).max]
    assert (index.find(absent) == UNKNOWN).all()


def test_index_is_refused_when_two_items_share_a_key():
    with pytest.raises(ValueError, match=r"items 0 and 2 .* share the key 7"):
        KeyIndex.build(np.array([7, 1, 7], np.int64))


def test_tensor_file_reads_back_what_safetensors_wrote(tmp_path):
    arrays = {
        "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
        "keys": np.array([-5, 2**62], np.int64),
        "none": np.empty((0, 4), np.float32),
    }
    save_file(arrays, str(tmp_path / "t.safetensors"), metadata={"fingerprint": "abc"})
    tensors, metadata = read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"fingerprint": "abc"}
    for name, value in arrays.items():
        np.testing.assert_array_equal(tensors[name], value)
    assert isinstance(tensors["floats"], np.memmap)
    assert not tensors["floats"].flags.writeable


@pytest.mark.parametrize("kept", [4, 40, -8])
def test_tensor_file_is_refused_when_it_is_cut_short(tmp_path, kept):
    path = tmp_path / "t.safetensors"
    save_file({"floats": np.arange(6, dtype=np.float32)}, str(path))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"t\.safetensors"):
        read_tensors(path)


@given(
    st.sampled_from(["alpha", "event_time[12]"]),
    st.text(min_size=1).filter(lambda text: "; expected " not in text),
    st.text(min_size=1),
)
def test_request_error_is_read_back_from_a_servers_message(field, value, expected):
    error = RequestError(field, value, expected)
    read = RequestError.parse(f"in ensemble 'recommend', adaptive_weights: {error}")
    assert read is not None
    assert (read.field, read.value, read.expected) == (field, value, expected)


def test_request_error_is_none_when_the_message_is_of_another_kind():
    assert RequestError.parse("Request for unknown model: 'x' is not found") is None


def test_contract_steps_pass_every_tensor_that_a_later_step_needs():
    for ensemble in (model for model in MODELS.values() if model.kind is Kind.ENSEMBLE):
        available = {tensor.name: tensor for tensor in ensemble.inputs}
        for step in (MODELS[name] for name in ensemble.steps):
            for tensor in step.inputs:
                given = available.get(tensor.name)
                assert given or tensor.optional, f"{ensemble.name}: {step.name} lacks {tensor.name}"
                # A later step may combine requests of different lengths, of which the output before it says nothing.
                ragged = given is not None and (given.ragged or (tensor.ragged and given not in ensemble.inputs))
                assert given is None or replace(given, ragged=ragged) == replace(tensor, optional=given.optional)
            available |= {tensor.name: tensor for tensor in step.outputs}
        for tensor in ensemble.outputs:
            assert available[tensor.name] is tensor


def test_contract_names_every_tensor_once():
    tensors = [value for value in vars(contract).values() if isinstance(value, contract.Tensor)]
    names = [tensor.name for tensor in tensors]
    assert len(names) == len(set(names))
