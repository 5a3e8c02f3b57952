"""Reads the corpus of repositories, which are written as text, and loads each one on a real server."""

from __future__ import annotations

import json
import queue
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pytest
import tritonclient.grpc as triton
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from ebbtide.serve import ServerConfig, TritonServer
from servers import serving

CORPUS = Path(__file__).parent / "corpus"
JUDGES = 6
VERDICTS = ("refused", "fails", "died", "hangs", "loads", "refused-here", "fails-here")
"""What the server does with a repository; "-here" if it depends on the server or on the code of a model.py."""


@dataclass
class Case:
    """A repository of the corpus, and what the checker and the server must do with it."""

    name: str
    subject: str
    """Name of the corpus file."""
    headers: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    """File contents by path; a path that ends with a slash is an empty folder."""
    shared: dict[str, str] = field(default_factory=dict)
    """Files of the shared models that are part of this repository."""

    def one(self, key: str, default: str | None = None) -> str | None:
        values = self.headers.get(key, [])
        assert len(values) < 2, f"{self.name}: {key} is given {len(values)} times"
        return values[0] if values else default

    @property
    def key(self) -> str:
        return f"{self.subject}-{self.name}"

    @property
    def model(self) -> str:
        """The model to load."""
        named = self.one("model")
        return named or next(iter(self.files)).split("/")[0]

    @property
    def folders(self) -> list[str]:
        """Names of the models that are not shared."""
        return list(dict.fromkeys(path.split("/")[0] for path in self.files if "/" in path))

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return next(key for key in VERDICTS if key in self.headers)

    def write(self, folder: Path) -> Path:
        """Writes the whole repository."""
        write_files({**self.shared, **self.files}, folder)
        return folder


def write_files(files: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            target.mkdir(exist_ok=True)
        elif path.endswith(".onnx") and text.startswith("<"):
            target.write_bytes(onnx.parser.parse_model(text).SerializeToString())
        else:
            target.write_text(text)


def read_corpus(path: Path, files: dict[str, str] | None = None) -> list[Case]:
    """The cases of one corpus file (see README.md for the format); their files are also added to `files`."""
    cases: list[Case] = []
    for block in ("\n" + path.read_text()).split("\n=== ")[1:]:
        head, *sections = block.split("\n--- ")
        name, *lines = head.splitlines()
        case = Case(name.strip(), path.stem)
        for line in filter(str.strip, lines):
            key, _, value = line.partition(":")
            case.headers.setdefault(key.strip(), []).append(value.strip())
        for section in sections:
            title, _, text = section.partition("\n")
            target, _, template = title.partition(" < ")
            case.files[target.strip()] = _filled(template.strip(), text) if template else text.strip("\n") + "\n"
            if files is not None:
                files.update(case.files)
        cases.append(case)
    return cases


def _filled(template: str, replacements: str) -> str:
    """A shared file with the replacements `old => new`, one on each line."""
    text = SHARED[template]
    for line in filter(str.strip, replacements.splitlines()):
        old, _, new = line.partition(" => ")
        old, new = old.replace("\\n", "\n"), new.replace("\\n", "\n")
        assert old in text, f"{template} has no {old!r}"
        text = text.replace(old, new, 1)
    return text


SHARED: dict[str, str] = {}
"""The files of all shared models. A model may use the files of earlier models as templates."""
read_corpus(CORPUS / "shared.txt", SHARED)


def corpus(subjects: list[str]) -> list[Case]:
    cases = [case for subject in subjects for case in read_corpus(CORPUS / f"{subject}.txt")]
    names = {path.split("/")[0] for path in SHARED}
    for case in cases:
        assert not names & set(case.folders), f"{case.name}: a shared model has that name"
        for name in filter(None, (case.one("models") or "").replace(",", " ").split()):
            files = {path: text for path, text in SHARED.items() if path.startswith(f"{name}/")}
            assert files, f"{case.name}: no shared model {name}"
            case.shared.update(files)
    return cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    subjects = [path.stem for path in sorted(CORPUS.glob("*.txt")) if path.stem != "shared"]
    chosen = {
        "broken": [subject for subject in subjects if subject not in ("alone", "sound")],
        "alone": ["alone"],
        "wrong": [subject for subject in subjects if subject != "sound"],
        "placed": [subject for subject in subjects if subject != "sound"],
        "sound": ["sound"],
    }
    for fixture, names in chosen.items():
        if fixture in metafunc.fixturenames:
            cases = [case for case in corpus(names) if fixture != "placed" or "at" in case.headers]
            marks = [_marks(fixture, case, cases) for case in cases]
            metafunc.parametrize(
                fixture, [pytest.param(case, id=case.key, marks=mark) for case, mark in zip(cases, marks, strict=True)]
            )


def _marks(fixture: str, case: Case, cases: list[Case]) -> list[pytest.MarkDecorator]:
    """A server judges one case of every fifth rule by default, and every case in the slow tests."""
    judged = {one.one("rule"): one for one in reversed(cases)}
    return [pytest.mark.slow] if fixture == "broken" and case not in list(judged.values())[::5] else []


@dataclass(frozen=True)
class Verdict:
    """The server's error messages for a load and for a request; empty if there was no error."""

    refusal: str
    answer: str


class Judge:
    """One server with explicit model control, which loads the repositories of the corpus one after the other."""

    def __init__(self, server: TritonServer, folder: Path, timeout_s: float = 300) -> None:
        self.server = server
        self.folder = folder
        self.timeout_s = timeout_s
        self.client = triton.InferenceServerClient(server.grpc_url)
        self._offset = 0

    def load(self, case: Case) -> str:
        """Loads the case's model; returns the server's error message, or an empty string."""
        write_files(case.files, self.folder)
        self._log()
        try:
            self.client.load_model(case.model, client_timeout=self.timeout_s)
        except InferenceServerException as error:
            # Triton writes problems of a config only to its log.
            return f"{error.message()}\n{self._log()}"
        return ""

    def call(self, case: Case) -> str:
        """Sends the case's request, or one of zeros; returns the server's error message, or an empty string."""
        wanted: dict[str, Any] = json.loads(case.one("request") or "{}")
        inputs = wanted.get("inputs") or self._zeros(case.model)
        tensors = []
        for name, spec in inputs.items():
            array = np.array(spec.get("data", np.zeros(spec["shape"])), dtype=triton_to_np_dtype(spec["dtype"]))
            tensor = triton.InferInput(name, list(array.shape), spec["dtype"])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        outputs = [triton.InferRequestedOutput(name) for name in wanted.get("outputs", [])] or None
        try:
            answer = self.client.infer(
                case.model,
                tensors,
                outputs=outputs,
                sequence_id=wanted.get("sequence_id", 0),
                sequence_start=bool(wanted.get("sequence_id")),
                client_timeout=self.timeout_s,
            )
        except InferenceServerException as error:
            return error.message()
        given = {output.name for output in answer.get_response().outputs}
        expected = {entry["name"] for entry in self._config(case.model).get("output", [])}
        return f"no output {sorted(expected - given)}" if outputs is None and expected - given else ""

    def verdict(self, case: Case) -> Verdict:
        """Loads a case, sends a request if it loads, and removes it."""
        try:
            refusal = self.load(case)
            return Verdict(refusal, "" if refusal else self.call(case))
        finally:
            self.clear(case)

    def clear(self, case: Case) -> None:
        """Unloads and removes the models of the case."""
        # Shared models stay for the other cases.
        for name in {case.model, *case.folders} - {path.split("/")[0] for path in case.shared}:
            self.client.unload_model(name)
        for path in case.files:
            target = self.folder / path.split("/")[0]
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    def _config(self, model: str) -> dict[str, Any]:
        answer = self.client.get_model_config(model)
        return json_format.MessageToDict(answer.config, preserving_proto_field_name=True)

    def _zeros(self, model: str) -> dict[str, dict[str, Any]]:
        config = self._config(model)
        batch = [1] if config.get("max_batch_size") else []
        return {
            entry["name"]: {
                "shape": batch + [max(int(dim), 1) for dim in entry["dims"]],
                "dtype": entry["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES"),
            }
            for entry in config["input"]
            if not entry.get("optional")
        }

    def _log(self) -> str:
        """The server's log since the last call."""
        with self.server.log_path.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        self._offset += len(data)
        return data.decode(errors="replace")


@pytest.fixture(scope="session")
def every_wrong_case() -> list[Case]:
    return corpus([path.stem for path in sorted(CORPUS.glob("*.txt")) if path.stem not in ("shared", "sound")])


@pytest.fixture
def new_judge(tmp_path: Path) -> Iterator[Callable[[Case], Judge]]:
    """Starts a server for one case; the server is killed if it does not stop."""
    started: list[TritonServer] = []

    def start(case: Case) -> Judge:
        folder = tmp_path / "repository"
        write_files(case.shared, folder)
        server = TritonServer(
            ServerConfig(
                folder,
                model_control="explicit",
                load_models=tuple(sorted({path.split("/")[0] for path in case.shared})),
                stop_timeout_s=2,
                extra_args=tuple((case.one("arguments") or "").split()),
            )
        )
        started.append(server)
        server.start()
        # Long enough to be called a hang; anything else takes what it takes.
        return Judge(server, folder, timeout_s=3 if case.verdict == "hangs" else 60)

    yield start
    for server in started:
        server.stop()


@contextmanager
def judging(folder: Path) -> Iterator[Judge]:
    """Starts a server with the shared models."""
    write_files(SHARED, folder)
    config = ServerConfig(
        folder,
        model_control="explicit",
        load_models=tuple(sorted({path.split("/")[0] for path in SHARED})),
        extra_args=("--cache-config=local,size=1048576",),
    )
    with serving(config) as server:
        yield Judge(server, folder)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with judging(tmp_path_factory.mktemp("judge") / "repository") as judge:
        yield judge


@pytest.fixture(scope="session")
def verdicts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What the server did with each selected case, by subject and name.

    A server mostly waits for its Python stubs while it loads, so a few servers share the cases.
    """
    calls = [
        item.callspec.params
        for item in request.session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]
    cases = {case.key: case for params in calls for key in ("broken", "sound") if (case := params.get(key)) is not None}
    waiting = queue.SimpleQueue[Case]()
    for case in cases.values():
        waiting.put(case)
    found: dict[str, Verdict] = {}

    def work(folder: Path) -> None:
        with judging(folder) as judge, suppress(queue.Empty):
            while True:
                case = waiting.get_nowait()
                found[case.key] = judge.verdict(case)

    folders = [tmp_path_factory.mktemp("judge") / "repository" for _ in range(min(JUDGES, len(cases)))]
    with ThreadPoolExecutor(JUDGES) as pool:
        for done in [pool.submit(work, folder) for folder in folders]:
            done.result()
    return found
