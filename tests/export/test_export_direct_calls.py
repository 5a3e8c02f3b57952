"""Whoever calls a model of the repository wrongly, a step of an ensemble too, is told which field is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Dtype, Tensor
from ebbtide.interest.served_models import Kind, Model
from ebbtide.serve import ServerConfig
from servers import serving

OK = "StatusCode.OK"
INVALID = "StatusCode.INVALID_ARGUMENT"
NOW_MS = 1_700_000_000_000
NUMPY = {Dtype.INT64: np.int64, Dtype.INT32: np.int32, Dtype.FP32: np.float32, Dtype.BOOL: np.bool_}
NEEDED = [
    (model.name, tensor.name)
    for model in served_models.MODELS.values()
    if model.kind is not Kind.ONNX and len(model.inputs) > 1
    for tensor in model.inputs
    if not tensor.optional
]


def value_of(tensor: Tensor, config: Any) -> np.ndarray[Any, Any]:
    """One entry where the size varies; of the batch's one user where the model batches."""
    dims = [1 if dim < 0 else int(dim) for dim in next(one for one in config.input if one.name == tensor.name).dims]
    shape = [1, *dims] if config.max_batch_size else dims
    if tensor is contract.NOW:
        return np.full(shape, NOW_MS)
    if tensor.dtype is Dtype.BYTES:
        return np.full(shape, b"a quiet film", dtype=np.object_)
    return np.zeros(shape, dtype=NUMPY[tensor.dtype])


def call(client: Any, model: str, tensors: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] = ()) -> None:
    """Asks for some outputs of a model, or for all."""
    inputs = []
    for name, array in tensors.items():
        dtype = next(one.dtype.value for one in served_models.MODELS[model].inputs if one.name == name)
        inputs.append(triton.InferInput(name, list(array.shape), dtype))
        inputs[-1].set_data_from_numpy(array)
    wanted = [triton.InferRequestedOutput(name) for name in outputs] or None
    client.infer(model, inputs, outputs=wanted, client_timeout=60)


def refusal(client: Any, model: str, tensors: Mapping[str, np.ndarray[Any, Any]], outputs: Sequence[str] = ()) -> str:
    """What the server says to a request that it refuses as the caller's fault."""
    with pytest.raises(InferenceServerException) as refused:
        call(client, model, tensors, outputs)
    said = str(refused.value.message())
    assert refused.value.status() == INVALID, said
    assert ".cc:" not in said
    assert "onnxruntime_src" not in said
    return said


def status(client: Any, model: str, tensors: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """How a request ends."""
    try:
        call(client, model, tensors)
    except InferenceServerException as error:
        return str(error.status())
    return OK


@pytest.fixture(scope="module")
def client(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    # With a store, so that no model refuses a request for the lack of one.
    config = ServerConfig(repository, state=f"embedded:{tmp_path_factory.mktemp('states')}")
    with serving(config) as server, triton.InferenceServerClient(server.grpc_url) as made:
        yield made


def given(client: Any, model: Model, *, without: str | None = None, optional: bool = True) -> dict[str, Any]:
    """The tensors that a model takes; those that it needs alone, if not also the optional ones."""
    config = client.get_model_config(model.name).config
    return {
        tensor.name: value_of(tensor, config)
        for tensor in model.inputs
        if tensor.name != without and (optional or not tensor.optional)
    }


@pytest.mark.parametrize(("name", "tensor"), NEEDED)
def test_missing_tensor_is_named_when_a_model_needs_it(client: Any, name: str, tensor: str) -> None:
    model = served_models.MODELS[name]
    meaning = next(one.meaning for one in model.inputs if one.name == tensor)
    # With all others Triton itself does not notice; with none it would count.
    others = given(client, model, without=tensor)
    said = refusal(client, name, others)
    # Triton does not call the tokenizer without its only input, nor does it name it.
    of_triton = tensor == contract.TEXT.name and "request has 0 inputs" in said
    assert of_triton or f"{tensor}: got no tensor; expected {meaning}" in said


@pytest.mark.parametrize("output", [tensor.name for tensor in served_models.STOCK.outputs])
def test_missing_tensor_is_named_when_the_request_asks_for_one_output(client: Any, output: str) -> None:
    # The step that several ensembles share knows by the outputs whose request it is.
    others = given(client, served_models.STOCK, without=contract.IN_STOCK.name)
    assert "in_stock: got no tensor" in refusal(client, served_models.STOCK.name, others, [output])


@pytest.mark.parametrize("name", served_models.MODELS)
def test_request_is_answered_or_the_callers_fault_when_any_tensor_is_missing(client: Any, name: str) -> None:
    model = served_models.MODELS[name]
    for tensor in model.inputs:
        for optional in (True, False):
            others = given(client, model, without=tensor.name, optional=optional)
            assert status(client, name, others) in {OK, INVALID}, tensor.name


@pytest.mark.parametrize("name", [served_models.RECOMMEND.name, served_models.FORGET.name, served_models.EMBED.name])
def test_request_without_any_tensor_is_the_callers_fault(client: Any, name: str) -> None:
    assert "0 inputs" in refusal(client, name, {})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", [served_models.EXPLAIN.name, served_models.ADAPTIVE_WEIGHTS_TEXT.name])
def test_vector_of_a_text_is_refused_when_it_is_not_finite(client: Any, name: str, value: float) -> None:
    model = served_models.MODELS[name]
    needed = given(client, model, optional=False)
    config = client.get_model_config(name).config
    vector = value_of(contract.TEXT_VECTOR, config)
    vector[0, 3] = value
    tensors = {**needed, contract.TEXT_VECTOR.name: vector, contract.EVENT_TIME.name: np.array([NOW_MS - 5])}
    said = refusal(client, name, tensors)
    assert re.search(r"text_vector\[0\]: got \S+; expected finite numbers from -1000 to 1000", said)


@pytest.mark.parametrize("index", [200, 10**6])
def test_adjusted_item_is_named_when_it_is_not_in_the_catalog(client: Any, index: int) -> None:
    tensors = given(client, served_models.SCORING_HEAD)
    tensors[contract.ADJUST_ITEM.name].fill(index)
    said = refusal(client, served_models.SCORING_HEAD.name, tensors)
    assert f"adjust_item: got an index out of range, perhaps {index}; expected" in said

    tensors = given(client, served_models.CANDIDATE_HEAD)
    # Larger ones may belong to items that were added after the export.
    tensors[contract.ADJUST_ITEM.name].fill(-index)
    said = refusal(client, served_models.CANDIDATE_HEAD.name, tensors)
    assert f"adjust_item[0]: got {-index}; expected" in said


def test_encoder_says_what_it_expects_when_there_are_no_tokens(client: Any) -> None:
    empty = np.zeros((1, 0), dtype=np.int64)
    said = refusal(client, served_models.ENCODER.name, {"input_ids": empty, "attention_mask": empty})
    assert said.startswith("encoder: ")
    assert "input_ids" in said


def test_token_is_named_when_the_encoder_does_not_know_it(client: Any) -> None:
    tokens = np.full((1, 8), 10**6)
    said = refusal(client, served_models.ENCODER.name, {"input_ids": tokens, "attention_mask": np.ones_like(tokens)})
    assert "input_ids[0]: got 1000000; expected" in said
