"""The checker and a real server on configurations that differ in one place from sound ones.

A server loads many of them at once. Where the two disagree, either the checker is wrong, or the disagreement is of a
kind that docs/check.md names under "What it cannot see".
"""

from __future__ import annotations

import queue
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from config_mutations import Base, Mutant, mutants
from ebbtide.check import Finding, Severity, check_repository
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.serve.startup import LogFollower
from triton_kinds import kinds

LOADS = 4
"""Models that are loaded at the same time."""
TIMEOUT_S = 120
BATCH = 60
"""Models of one server: each that loads is a process of its own."""
UNSAFE = {
    "model-file-missing",
    "version-misread",
    "instance-group-passive",
    "warmup-batch-size",
    "repository-agents-empty",
    "sequence-state-name",
}
"""Rules whose findings may stop or block a server: `alone.txt` gives each such case a server of its own."""


@dataclass(frozen=True)
class Judgement:
    """What the server and the checker say about one mutant."""

    mutant: Mutant
    server: str
    """The server's error, for the load or for a request; empty if the model loads and answers."""
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> list[Finding]:
        return [one for one in self.findings if one.severity is Severity.ERROR]

    @property
    def agrees(self) -> bool:
        return bool(self.server) == bool(self.errors)

    def __str__(self) -> str:
        found = "; ".join(f"{one.rule} {one.field}: {one.message}" for one in self.findings)
        return f"{self.mutant.line}\n    server: {self.server or 'loads and answers'}\n    check: {found or 'nothing'}"


class JudgingServer(TritonServer):
    """A server that is there when it has tried every model, also those that it refuses."""

    def _wait_until_ready(self, log: LogFollower) -> None:  # noqa: ARG002 - a model's refusal is no failure here
        client = triton.InferenceServerClient(self.grpc_url)
        while self.is_running():
            try:
                if client.is_server_live(client_timeout=1):
                    break
            except InferenceServerException:
                time.sleep(0.05)
        client.close()


def write(mutant: Mutant, folder: Path) -> None:
    for path, content in mutant.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            target.mkdir(exist_ok=True)
        elif isinstance(content, bytes):
            target.write_bytes(content)
        elif path.endswith(".onnx") and content.startswith("<"):
            target.write_bytes(onnx.parser.parse_model(content).SerializeToString())
        else:
            target.write_bytes(content.encode())


def judged(
    found: Sequence[Mutant], write_shared: Callable[[Path], object], folder: Path, batch: int = BATCH
) -> Iterator[Judgement]:
    """Gives the mutants to the checker, and to servers that have the shared models as well."""
    for start in range(0, len(found), batch):
        yield from _judged(found[start : start + batch], write_shared, folder / f"{start}")


def _judged(found: Sequence[Mutant], write_shared: Callable[[Path], object], folder: Path) -> Iterator[Judgement]:
    repository = folder / "repository"
    write_shared(repository)
    names = {f"m{index:04}": mutant for index, mutant in enumerate(found)}
    for name, mutant in names.items():
        write(mutant, repository / name)
    by_model: dict[str, list[Finding]] = defaultdict(list)
    for finding in check_repository(repository).findings:
        by_model[finding.file.split("/")[0]].append(finding)
    for name in [name for name in names if UNSAFE & {finding.rule for finding in by_model[name]}]:
        (repository / name).rename(folder / name)
        del names[name]
    config = ServerConfig(
        repository,
        stop_timeout_s=2,
        log_file=folder / "server.log",
        extra_args=(
            "--cache-config=local,size=1048576",
            "--strict-readiness=false",
            f"--model-load-thread-count={LOADS}",
        ),
    )
    with JudgingServer(config) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        states: dict[str, str] = {}
        versions: dict[str, list[str]] = defaultdict(list)
        for model in client.get_model_repository_index().models:
            ready = model.state == "READY"
            states[model.name] = "" if ready else states.get(model.name) or model.reason or "refused"
            if ready:
                versions[model.name].append(model.version)
        for name, mutant in names.items():
            # A model that cannot be polled is not in the index.
            said = states.get(name, "not in the server's index")
            yield Judgement(mutant, said or _called_in_turn(client, name, versions[name]), tuple(by_model[name]))
        client.close()


def _called_in_turn(client: triton.InferenceServerClient, model: str, versions: Sequence[str]) -> str:
    """The first error that a version of the model answers with; empty if every version answers."""
    return next(filter(None, (_called(client, model, version) for version in versions)), "")


def _called(client: triton.InferenceServerClient, model: str, version: str) -> str:
    """The server's error for a request of ones; empty if there was none."""
    config = json_format.MessageToDict(client.get_model_config(model, version).config, preserving_proto_field_name=True)
    # A request of a sequence has batch size 1.
    largest = 1 if "sequence_batching" in config else 2
    batch = [min(largest, config["max_batch_size"])] if config.get("max_batch_size") else []
    tensors = []
    entries = config.get("input", [])
    required = [one for one in entries if not one.get("optional")]
    # A request to a model has one input at least; of an ensemble the judge asks whether its steps do without.
    for entry in required if "ensemble_scheduling" in config else required or entries:
        kind = str(entry["data_type"]).removeprefix("TYPE_").replace("STRING", "BYTES")
        shape = batch + [max(int(dim), 1) for dim in entry["dims"]]
        dtype = triton_to_np_dtype(kind)
        if dtype is None:
            return f"a request with {kind} cannot be made"
        tensor = triton.InferInput(entry["name"], shape, kind)
        tensor.set_data_from_numpy(np.full(shape, b"1" if kind == "BYTES" else 1, dtype=dtype))
        tensors.append(tensor)
    wanted = {entry["name"] for entry in config.get("output", [])}
    in_sequence = {"sequence_id": 7, "sequence_start": True} if "sequence_batching" in config else {}
    if config.get("model_transaction_policy", {}).get("decoupled"):
        return _streamed(client, model, version, tensors, wanted)
    try:
        answer = client.infer(model, tensors, version, client_timeout=TIMEOUT_S, **in_sequence)
    except InferenceServerException as error:
        return str(error.message())
    missing = wanted - {output.name for output in answer.get_response().outputs}
    return f"no output {sorted(missing)}" if missing else ""


def _streamed(
    client: triton.InferenceServerClient, model: str, version: str, tensors: Sequence[Any], wanted: set[str]
) -> str:
    """The same for a decoupled model: its first response."""
    responses: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: responses.put(error or result))
    try:
        client.async_stream_infer(model, tensors, version)
        answer = responses.get(timeout=TIMEOUT_S)
    except queue.Empty:
        return "no response"
    finally:
        client.stop_stream(cancel_requests=True)
    if isinstance(answer, InferenceServerException):
        return str(answer.message())
    missing = wanted - {output.name for output in answer.get_response().outputs}
    return f"no output {sorted(missing)}" if missing else ""


def bases(cases: Sequence[Any], shared: Mapping[str, str]) -> list[Base]:
    """The shared models and the models of the sound corpus that have a config of their own."""
    files: dict[str, dict[str, str]] = defaultdict(dict)
    for path, text in [*shared.items(), *(pair for case in cases for pair in case.files.items())]:
        model, _, rest = path.partition("/")
        files[model][rest] = text
    return [Base(name, found) for name, found in files.items() if found.get("config.pbtxt")]


OUT_OF_REACH: dict[str, Callable[[Judgement], bool]] = {
    "a backend that the server may have": lambda one: "unable to find backend library" in one.server,
    "the server's GPUs": lambda one: "gpu" in one.server.lower(),
    "what a warning says that depends on the server": lambda one: bool(
        {"runtime-field", "repository-agent", "stand-in-backend", "config-newer-field"}
        & {found.rule for found in one.findings}
    ),
    "what runs in model.py": lambda one: re.search(r"\b(Attribute|Name)Error: ", one.server) is not None,
    "an execute that is assigned or looked up": lambda one: one.mutant.base.startswith("execute-"),
    "names of tensors that are computed or come from another model": lambda one: one.server.startswith("no output"),
}
"""What docs/check.md says it cannot see, and whether a refusal that the checker misses is of this kind."""


def disagreements(found: Iterator[Judgement]) -> list[str]:
    """The judgements on which checker and server differ, but for those out of reach."""
    wrong = []
    for one in found:
        if one.agrees or (one.server and any(test(one) for test in OUT_OF_REACH.values())):
            continue
        wrong.append(str(one))
    return wrong


@pytest.fixture(scope="module")
def sound_bases(request: pytest.FixtureRequest) -> dict[str, Base]:
    """The sound models by name."""
    plugin = request.config.pluginmanager.getplugin(str(Path(__file__).parent / "conftest.py"))
    return {base.name: base for base in bases(plugin.corpus(["sound"]), plugin.SHARED)}


@pytest.fixture
def write_shared(request: pytest.FixtureRequest, sound_bases: dict[str, Base]) -> Callable[[Path], None]:
    """Writes the models that ensembles of the tested ones use; the argument of the test says which."""
    names = request.param

    def write_all(folder: Path) -> None:
        for name in names:
            write(Mutant(name, "sound", "", sound_bases[name].files), folder / name)

    return write_all


FEW = ("double", "add", "pair")


@pytest.mark.parametrize("write_shared", [("double",)], indirect=True)
def test_checker_and_server_agree_when_a_sample_of_sound_models_is_changed(
    sound_bases: dict[str, Base], write_shared: Callable[[Path], None], tmp_path: Path
) -> None:
    found = mutants([sound_bases[name] for name in FEW], each=2)
    assert disagreements(judged(found, write_shared, tmp_path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("write_shared", [("double", "add", "pair")], indirect=True)
def test_checker_and_server_agree_on_every_kind_that_triton_tests(
    sound_bases: dict[str, Base], write_shared: Callable[[Path], None], tmp_path: Path
) -> None:
    assert disagreements(judged(list(kinds(sound_bases)), write_shared, tmp_path)) == []


SHARES = 4
"""Tests that the hundreds of mutants are dealt out to, so that one share can be judged again by itself."""
SHARED = ("double", "optional", "single", "stream", "add", "pair", "add-up", "by-row", "bare")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("write_shared", [SHARED], indirect=True)
@pytest.mark.parametrize("share", range(SHARES))
def test_checker_and_server_agree_when_sound_models_are_changed_in_hundreds_of_ways(
    sound_bases: dict[str, Base], write_shared: Callable[[Path], None], share: int, tmp_path: Path
) -> None:
    found = mutants(list(sound_bases.values()), each=3)
    assert len(found) >= 300
    assert disagreements(judged(found[share::SHARES], write_shared, tmp_path)) == []
