"""The response cache of a real server returns wrong answers in the cases that the checker warns about."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc as triton


@pytest.fixture
def loaded(judge, every_wrong_case):
    """Loads a case of the corpus, and removes it after the test."""
    given = []

    def load(name):
        case = next(case for case in every_wrong_case if case.name == name)
        given.append(case)
        assert judge.load(case) == ""
        return judge.client

    yield load
    for case in given:
        judge.clear(case)


def infer(client, inputs, outputs=None, parameters=None):
    tensors = []
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), "FP32")
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    requested = None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]
    answer = client.infer("bad", tensors, outputs=requested, parameters=parameters, client_timeout=30)
    return {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}


def test_cached_answer_has_the_wrong_shape_when_another_shape_has_the_same_bytes(loaded):
    client = loaded("cached-shapes-collide")
    numbers = np.arange(6, dtype=np.float32)
    assert infer(client, {"x": numbers.reshape(1, 6)})["y"].shape == (1, 6)
    assert infer(client, {"x": numbers.reshape(2, 3)})["y"].shape == (1, 6)


def test_cached_answer_lacks_an_output_when_an_earlier_request_did_not_ask_for_it(loaded):
    client = loaded("cached-outputs-missing")
    inputs = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32)}
    assert infer(client, inputs, ["sum"]).keys() == {"sum"}
    assert infer(client, inputs, ["sum", "product"]).keys() == {"sum"}


def test_cached_answer_has_the_first_requests_parameters_when_the_model_reads_them(loaded):
    client = loaded("cached-parameters")
    inputs = {"x": np.ones(2, np.float32)}
    assert infer(client, inputs, parameters={"factor": 3})["y"].tolist() == [3, 3]
    assert infer(client, inputs, parameters={"factor": 5})["y"].tolist() == [3, 3]
