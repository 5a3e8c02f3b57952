"""The stand-in ONNX Runtime backend, on the real server."""

from __future__ import annotations

import numpy as np
from tritonclient.utils import InferenceServerException


def rows(seed: int, count: int = 1) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=(count, 3)).astype(np.float32) for name in ("a", "b")}


def texts(*values: str | bytes) -> np.ndarray:
    return np.array([[value if isinstance(value, bytes) else value.encode() for value in values]], dtype=np.object_)


def indices(*values: int) -> dict[str, np.ndarray]:
    return {"index": np.array([values], dtype=np.int64)}


def test_model_answers_when_asked_for_every_output(client):
    inputs = rows(0, count=4)
    answer = client.infer("add", inputs)
    np.testing.assert_array_equal(answer["sum"], inputs["a"] + inputs["b"])
    np.testing.assert_array_equal(answer["product"], inputs["a"] * inputs["b"])


def test_requests_are_run_together_when_they_wait_in_the_queue(client):
    inferences, executions = client.counts("add")
    waiting = [client.start("add", rows(seed, count=1 + seed % 3)) for seed in range(24)]
    answers = [wait() for wait in waiting]
    total, runs = client.counts("add")
    assert total - inferences == sum(1 + seed % 3 for seed in range(24))
    assert runs - executions < 24
    for seed, answer in enumerate(answers):
        inputs = rows(seed, count=1 + seed % 3)
        np.testing.assert_array_equal(answer["sum"], inputs["a"] + inputs["b"])


def test_answer_is_identical_when_batched_and_when_single(client):
    waiting = [client.start("add", rows(seed)) for seed in range(8)]
    batched = [wait() for wait in waiting]
    single = [client.infer("add_single", rows(seed)) for seed in range(8)]
    for one, other in zip(batched, single, strict=True):
        np.testing.assert_array_equal(one["sum"], other["sum"])
        np.testing.assert_array_equal(one["product"], other["product"])


def test_answer_has_only_the_outputs_asked_for_when_requests_of_a_batch_differ(client):
    _, executions = client.counts("add")
    asked = [["sum"], ["product"], ["product", "sum"], ["sum"]]
    waiting = [client.start("add", rows(seed), outputs) for seed, outputs in enumerate(asked)]
    answers = [wait() for wait in waiting]
    assert client.counts("add")[1] - executions < 4
    for seed, (outputs, answer) in enumerate(zip(asked, answers, strict=True)):
        inputs = rows(seed)
        expected = {"sum": inputs["a"] + inputs["b"], "product": inputs["a"] * inputs["b"]}
        assert set(answer) == set(outputs)
        for name in outputs:
            np.testing.assert_array_equal(answer[name], expected[name])


def test_strings_are_gathered_when_the_graph_holds_them(client):
    assert client.infer("gather", indices(1, 0))["name"].tolist() == [["één".encode(), b"zero"]]


def test_strings_come_back_unchanged_when_empty_or_beyond_ascii(client):
    sent = texts("", "naïve", "日本語", "a\0b", "long " * 20_000)
    assert client.infer("echo", {"text_in": sent})["text_out"].tolist() == sent.tolist()


def test_string_output_is_empty_when_the_input_has_no_elements(client):
    answer = client.infer("echo", {"text_in": np.empty((1, 0), dtype=np.object_)})["text_out"]
    assert answer.shape == (1, 0)


def test_other_requests_are_answered_when_one_of_their_batch_fails_in_the_graph(client):
    _, executions = client.counts("gather")
    waiting = [client.start("gather", indices(*pair)) for pair in ((0, 1), (7, 0), (1, 1), (0, 0))]
    answers = [wait() for wait in waiting]
    assert client.counts("gather")[1] - executions < 4
    assert answers[0]["name"].tolist() == [[b"zero", "één".encode()]]
    assert answers[2]["name"].tolist() == [["één".encode(), "één".encode()]]
    assert answers[3]["name"].tolist() == [[b"zero", b"zero"]]
    assert isinstance(answers[1], InferenceServerException)
    assert answers[1].message() == "gather: index[0]: got 7; expected -3 to 2"
    assert answers[1].status() == "StatusCode.INVALID_ARGUMENT"


def test_other_requests_are_answered_when_one_of_their_batch_is_not_utf8(client):
    waiting = [client.start("echo", {"text_in": texts(text)}) for text in (b"fine", b"\xff\xfe", b"also fine")]
    answers = [wait() for wait in waiting]
    assert [answers[0]["text_out"].tolist(), answers[2]["text_out"].tolist()] == [[[b"fine"]], [[b"also fine"]]]
    assert isinstance(answers[1], InferenceServerException)
    assert answers[1].message() == "echo: input 'text_in', element 0 is b'\\xff\\xfe', expected UTF-8"
    assert answers[1].status() == "StatusCode.INVALID_ARGUMENT"


def test_request_is_not_run_when_it_is_cancelled_in_the_queue(client):
    inferences, _ = client.counts("gather_patient")
    cancelled = client.start("gather_patient", indices(0, 0))
    client.wait_until_queued("gather_patient", 1)
    cancelled.cancel()
    assert "Locally cancelled" in str(cancelled())
    # The queue is in order, so this answer comes after the other was dropped.
    assert client.infer("gather_patient", indices(1, 1))["name"].tolist() == [["één".encode()] * 2]
    assert client.counts("gather_patient")[0] - inferences == 1


def test_model_answers_when_it_does_not_batch_and_its_dims_are_fixed(client):
    inputs = rows(3, count=2)
    np.testing.assert_array_equal(client.infer("add_fixed", inputs)["sum"], inputs["a"] + inputs["b"])


def test_scalar_output_has_the_dims_of_the_config_when_the_graph_gives_none(client):
    answer = client.infer("total", {"values": np.arange(5, dtype=np.float32)})
    assert answer["total"].tolist() == [10.0]


def test_config_is_filled_in_when_it_names_no_tensors(client):
    config = client.stub.get_model_config("add_bare").config
    assert {entry.name: list(entry.dims) for entry in config.input} == {"a": [3], "b": [3]}
    assert {entry.name: list(entry.dims) for entry in config.output} == {"sum": [3], "product": [3]}
    assert config.max_batch_size == 4
    inputs = rows(5, count=2)
    np.testing.assert_array_equal(client.infer("add_bare", inputs)["sum"], inputs["a"] + inputs["b"])


def test_repository_gains_no_file_when_it_is_served(client, good_repository):
    client.infer("add", rows(0))
    client.infer("python", {"x": np.ones(1, dtype=np.float32)})
    files = {path.name for path in good_repository.rglob("*") if path.is_file()}
    assert files == {"config.pbtxt", "model.onnx", "model.py"}


def test_large_tensors_are_answered_when_they_exceed_the_initial_shared_memory(client):
    values = np.ones(4 * 1024 * 1024, dtype=np.float32)
    assert client.infer("total", {"values": values})["total"].tolist() == [float(values.size)]


def masked(lengths: list[int], width: int) -> dict[str, np.ndarray]:
    values = np.random.default_rng(len(lengths)).normal(size=(len(lengths), width)).astype(np.float32)
    return {"values": values, "mask": (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)}


def test_rows_run_with_others_of_their_length_when_the_config_names_a_mask(client):
    lengths = [5, 200, 6, 7, 199, 5, 0]
    inputs = masked(lengths, 220)
    answer = client.infer("masked", inputs)
    # A row without a token could have any, so it is not cut.
    assert answer["seen"].ravel().tolist() == [7, 200, 7, 7, 200, 7, 220]
    np.testing.assert_allclose(answer["total"], (inputs["values"] * inputs["mask"]).sum(1, keepdims=True), rtol=1e-5)
    assert client.infer("masked", masked([3, 3, 4], 6))["seen"].ravel().tolist() == [4, 4, 4]
    assert client.infer("masked", inputs, ["total"]).keys() == {"total"}


def test_rows_of_several_requests_run_together_when_their_lengths_are_alike(client):
    lengths = [[3, 60], [61, 4], [5, 59]]
    _, executions = client.counts("masked")
    waiting = [client.start("masked", masked(one, 64)) for one in lengths]
    answers = [wait() for wait in waiting]
    assert client.counts("masked")[1] - executions < 3
    for one, answer in zip(lengths, answers, strict=True):
        assert (np.sign(answer["seen"].ravel() - 32) == np.sign(np.array(one) - 32)).all()
        assert (answer["seen"].ravel() >= one).all()
        inputs = masked(one, 64)
        expected = (inputs["values"] * inputs["mask"]).sum(1, keepdims=True)
        np.testing.assert_allclose(answer["total"], expected, rtol=1e-4)
