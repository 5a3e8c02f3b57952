"""NVIDIA's perf_analyzer: its input, its report, and what is said where it is missing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ebbtide.loadtest import Generator, Load, LoadTestError, Options, build_workload, load_test
from ebbtide.loadtest._triton import read_request
from ebbtide.loadtest.perf_analyzer import ENVIRONMENT_VARIABLE, find, measure_beside, read_report, write_input

# As perf_analyzer 2.41 wrote it.
REPORT = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
4,1405.79,4,1269,1,42,1218,299,1,2706,3635,4067,6978
"""


def test_report_is_read_when_it_is_one():
    found = read_report(REPORT)
    assert (found.concurrency, found.throughput) == (4, 1405.79)
    assert (found.p50_ms, found.p99_ms) == pytest.approx((2.706, 6.978))


@pytest.mark.parametrize("text", ["", "Concurrency\n4\n", "error: failed to connect"])
def test_report_is_refused_when_it_is_another_file(text):
    with pytest.raises(LoadTestError, match="expected its CSV"):
        read_report(text)


def test_input_holds_the_same_requests_when_written(sessions, tmp_path):
    workload = build_workload(sessions, {"recommend": 0.5, "recommend_text": 0.5}, requests=30)
    files = write_input(tmp_path, workload)
    batching, plain = (json.loads(files[name].read_text())["data"] for name in ("recommend", "recommend_text"))
    assert len(batching) == len(plain) == 30
    request = read_request(workload.messages["recommend"][7])
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        # Without the batch dimension, which perf_analyzer adds.
        assert batching[7][tensor.name]["shape"] == list(tensor.shape)[1:]
        assert batching[7][tensor.name]["content"] == np.frombuffer(raw, np.int64).tolist()
    assert len(plain[7]["text"]["content"]) == 1
    assert len(plain[7]["event_time"]["content"]) == len(plain[7]["event_item"]["content"]) + 1


def test_missing_program_is_explained_when_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadTestError, match=r"perf_analyzer: got none\. It is in NVIDIA's image"):
        find(None)


def test_other_program_is_refused_when_it_has_the_name(tmp_path):
    impostor = tmp_path / "perf_analyzer"
    impostor.write_text("#!/bin/sh\necho something else\n")
    impostor.chmod(0o755)
    with pytest.raises(LoadTestError, match="does not run: something else"):
        find(tmp_path)


def test_program_sends_our_requests_when_it_is_here(server, workload):
    path = os.environ.get(ENVIRONMENT_VARIABLE)
    if path is None:
        pytest.skip(f"perf_analyzer is not a package: set {ENVIRONMENT_VARIABLE} to its path")
    binary = find(Path(path))
    with Generator(server.grpc_url, workload, timeout_s=60) as generator:
        result = load_test(
            server.grpc_url,
            workload,
            generator,
            Options([Load(4.0, concurrency=2)], warm_up_s=0.5),
            compare_with=lambda runs: measure_beside(binary, server.grpc_url, workload, runs),
        )
    (level,) = result["perf_analyzer"]["levels"]
    assert level["concurrency"] == 2
    assert level["theirs"]["throughput"] > 0
    assert level["theirs"]["p50_ms"] >= 10
