"""NVIDIA's perf_analyzer on the same requests: its input written, the program found and run, its report read.

It is a closed model in C++. At equal concurrency its throughput and median must agree with those of `Generator`.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import deserialize_bytes_tensor

from ebbtide.interest import served_models
from ebbtide.interest.contract import Dtype
from ebbtide.loadtest._triton import Untyped, read_request
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.run import Run
from ebbtide.loadtest.samples import histogram, percentiles_ms

ENVIRONMENT_VARIABLE = "PERF_ANALYZER"
"""Path of the program, where it is not on PATH."""

HOW_TO_GET = (
    "It is in NVIDIA's image nvcr.io/nvidia/tritonserver:YY.MM-py3-sdk (/usr/local/bin/perf_analyzer), in the wheel "
    "perf-analyzer 2.x (0.1.0 is an empty placeholder), and, as data, in those of tritonclient for Linux up to 2.41: "
    f"see docs/loadtest.md. Give its path, or set {ENVIRONMENT_VARIABLE}"
)

_TIMEOUT_S = 300.0
_NOT_STABLE = 2
"""Exit status of a run whose figures did not become stable; its report holds the last windows."""
_UNTIL_STABLE = ("--measurement-interval", "5000", "--percentile", "50", "--stability-percentage", "20")
"""Windows that differ by less than 20 % count as stable: real requests differ more than copies of one do."""
_NUMPY = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}


@dataclass(frozen=True)
class Measured:
    """What perf_analyzer reports of one concurrency."""

    concurrency: int
    throughput: float
    """Inferences per second."""
    p50_ms: float
    p99_ms: float


def find(path: Path | None) -> Path:
    """The program, checked to be it.

    Args:
        path: The program or a folder with it; None looks at the environment variable and on PATH.

    Raises:
        LoadTestError: It is not there, or does not run; the message says how to get it.
    """
    given = path or (Path(os.environ[ENVIRONMENT_VARIABLE]) if os.environ.get(ENVIRONMENT_VARIABLE) else None)
    if given is not None and given.is_dir():
        given = given / "perf_analyzer"
    found = shutil.which("perf_analyzer" if given is None else str(given))
    if found is None:
        raise LoadTestError(f"perf_analyzer: got none{'' if given is None else f' at {given}'}. {HOW_TO_GET}")
    done = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False)
    said = (done.stdout + done.stderr).strip()
    if "Perf Analyzer" not in said:
        raise LoadTestError(f"perf_analyzer: {found} does not run: {said or f'status {done.returncode}'}. {HOW_TO_GET}")
    return Path(found)


def write_input(folder: Path, workload: Workload) -> dict[str, Path]:
    """Writes ``--input-data`` for every endpoint of a workload.

    Returns:
        The file of each endpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for endpoint, messages in workload.messages.items():
        path = folder / f"{endpoint}.json"
        data = [_entry(read_request(message)) for message in messages]
        path.write_text(json.dumps({"data": data}), encoding="utf-8")
        written[endpoint] = path
    return written


def measure(
    binary: Path,
    target: str,
    endpoint: str,
    input_file: Path,
    concurrency: int,
    *,
    windows: Sequence[str] = _UNTIL_STABLE,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Measured:
    """Runs perf_analyzer, until its figures are stable unless `windows` says otherwise.

    Args:
        binary: The program.
        target: ``host:port`` of a gRPC endpoint that speaks the KServe v2 protocol.
        endpoint: The model to call.
        input_file: Its ``--input-data``.
        concurrency: Requests under way.
        windows: Options for the length of its measurement windows and when it stops.
        environment: Variables to set for it.
        timeout_s: How long it may take.

    Raises:
        LoadTestError: It fails, or takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="ebbtide-perf-") as scratch:
        report = Path(scratch) / "report.csv"
        command = [
            *(str(binary), "-m", endpoint, "-u", target, "-i", "grpc", "--input-data", str(input_file)),
            *("--concurrency-range", str(concurrency), "-f", str(report), *windows),
        ]
        variables = {**os.environ, **(environment or {})}
        try:
            done = subprocess.run(
                command, env=variables, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LoadTestError(f"perf_analyzer: no result after {timeout_s:g} s") from error
        if done.returncode not in (0, _NOT_STABLE) or not report.is_file():
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
            raise LoadTestError(
                f"perf_analyzer: status {done.returncode} for {endpoint}; expected 0 and a report:\n{last}"
            )
        return read_report(report.read_text(encoding="utf-8"))


def read_report(text: str) -> Measured:
    """Reads the first level of a report that ``-f`` wrote.

    Raises:
        LoadTestError: It is no such report.
    """
    rows = list(csv.DictReader(text.splitlines()))
    try:
        row = rows[0]
        return Measured(
            concurrency=int(row["Concurrency"]),
            throughput=float(row["Inferences/Second"]),
            p50_ms=float(row["p50 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
        )
    except (IndexError, KeyError, ValueError) as error:
        raise LoadTestError(
            f"perf_analyzer: its report has no {error}; expected its CSV of a concurrency range"
        ) from error


def measure_beside(binary: Path, target: str, workload: Workload, runs: Sequence[Run]) -> dict[str, Any]:
    """Runs perf_analyzer at the concurrency of each closed run, and puts the figures side by side.

    Raises:
        LoadTestError: There is no closed run, or more than one endpoint: it sends to one model.
    """
    closed = [run for run in runs if run.load.concurrency is not None]
    if not closed or len(workload.endpoints) != 1:
        raise LoadTestError("perf_analyzer: expected --concurrency, and a --mix of one endpoint: it calls one model")
    (endpoint,) = workload.endpoints
    levels = []
    with tempfile.TemporaryDirectory(prefix="ebbtide-perf-") as folder:
        input_file = write_input(Path(folder), workload)[endpoint]
        for run in closed:
            theirs = measure(binary, target, endpoint, input_file, run.load.concurrency or 1)
            ours_p50 = percentiles_ms(histogram(run.phase.records))["p50"]
            levels.append(
                {
                    "concurrency": theirs.concurrency,
                    "theirs": {"throughput": theirs.throughput, "p50_ms": theirs.p50_ms, "p99_ms": theirs.p99_ms},
                    "ours": {"throughput": run.phase.throughput, "p50_ms": ours_p50},
                    "throughput_ratio": run.phase.throughput / theirs.throughput,
                    "p50_ratio": ours_p50 / theirs.p50_ms,
                }
            )
    return {"endpoint": endpoint, "program": _version(binary), "levels": levels}


def _entry(request: Untyped) -> dict[str, Any]:
    """One request as perf_analyzer reads it; shapes without the batch dimension."""
    batching = served_models.MODELS[request.model_name].batching
    entry = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        shape = list(tensor.shape)[1:] if batching else list(tensor.shape)
        if tensor.datatype == Dtype.BYTES.value:
            content = [text.decode() for text in deserialize_bytes_tensor(raw)]
        else:
            content = np.frombuffer(raw, dtype=_NUMPY[tensor.datatype]).tolist()
        entry[tensor.name] = {"content": content, "shape": shape}
    return entry


def _version(binary: Path) -> str:
    done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r"Version\s+(\S+)", done.stdout + done.stderr)
    return f"perf_analyzer {match[1]}" if match else "perf_analyzer"
