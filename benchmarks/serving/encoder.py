"""Texts per second through Triton, compared with ONNX Runtime alone, sentence-transformers and infinity.

All systems get the same batches of catalog texts and the same number of threads for the model, and take turns. ONNX
Runtime alone gets tokens, padded to the longest text; the others get texts. `recommend_text` also ranks the catalog.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
import tritonclient.grpc.aio as triton_aio
from tokenizers import Tokenizer

from benchmarks.serving.encoder_peers import FP32, INT8
from benchmarks.serving.inputs import infer_inputs
from benchmarks.serving.settings import Settings
from benchmarks.serving.turns import ratio, take_turns
from ebbtide.export import versions
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.export.tokenizer import TOKENIZER_FILE
from ebbtide.interest import contract, served_models
from ebbtide.interest.modelfile import MODEL_FILE
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import encoder_folder

ROOT = Path(__file__).parents[2]
PEERS_PYTHON = ROOT / "artifacts" / "serving-venv" / "bin" / "python"
"""Python interpreter of the environment of requirements.txt; if it is missing, the peers are left out."""
TEXTS = (8, 32)
"""Numbers of texts in one request."""
IN_FLIGHT = 4
OURS = (served_models.EMBED.name, served_models.RECOMMEND_TEXT.name)
BARE = "bare_ort"
PEERS = ("sentence_transformers", "infinity")
_PRECISIONS = (FP32, INT8)
_NOW_MS = 1_700_000_000_000
_MIN_BATCHES = 8

Batches = Sequence[list[str]]
Timed = Callable[[Batches], float]
"""Encodes all batches and returns the seconds that they took."""


def measure(settings: Settings) -> dict[str, Any]:
    """For each precision the worst ratios; for each number of texts all ratios and the texts per second.

    Ratios to sentence-transformers and infinity are included only if `PEERS_PYTHON` exists.
    """
    bundle = InterestBundle.load(settings.bundle)
    return {precision: _measure_precision(bundle, settings, precision) for precision in _PRECISIONS}


def _measure_precision(bundle: InterestBundle, settings: Settings, precision: str) -> dict[str, Any]:
    repository = settings.work / f"encoder-{precision}"
    options = EncoderOptions(precision=precision)  # type: ignore[arg-type]
    export_repository(bundle, repository, ExportOptions(encoder=options))
    config = versions.read_model_config(repository, served_models.ENCODER.name)
    threads = int(config.parameters["intra_op_thread_count"].string_value)
    encoder = encoder_folder(bundle.config.encoder.source)
    seconds = 1.0 if settings.quick else 3.0
    with ExitStack() as stack:
        server = stack.enter_context(TritonServer(ServerConfig(repository, model_control="explicit", load_models=OURS)))
        systems: dict[str, Timed] = {BARE: _bare(repository, threads)}
        systems |= {model: _served(server.grpc_url, model) for model in OURS}
        if PEERS_PYTHON.is_file():
            folders = {
                "sentence_transformers": encoder,
                "infinity": _infinity_folder(encoder, settings.work) / precision,
            }
            for peer in PEERS:
                systems[peer] = stack.enter_context(_peer(peer, folders[peer], threads, settings.work))
        found = {count: _compare(systems, bundle.catalog.text, count, settings.repeats, seconds) for count in TEXTS}
    worst = {
        f"throughput_over_{other}": min(
            one["ratios"][f"{ours}_over_{other}"] for one in found.values() for ours in OURS
        )
        for other in systems
        if other not in OURS
    }
    return {**worst, "threads": threads, "texts": {str(count): one for count, one in found.items()}}


def _compare(
    systems: dict[str, Timed], texts: Sequence[str], count: int, repeats: int, seconds: float
) -> dict[str, Any]:
    """Measures all systems on the same batches, in turns; every other round has the opposite order."""
    random = np.random.default_rng(count)
    filled = [text for text in texts if text.strip()]

    def draw(batches: int) -> Batches:
        return [[filled[index] for index in random.choice(len(filled), count, replace=False)] for _ in range(batches)]

    warm = draw(_MIN_BATCHES)
    for timed in systems.values():
        timed(warm)
    batches = draw(max(_MIN_BATCHES, round(_MIN_BATCHES * seconds / systems[BARE](warm))))

    def texts_per_s(timed: Timed) -> float:
        return len(batches) * count / timed(batches)

    per_second = take_turns({name: partial(texts_per_s, timed) for name, timed in systems.items()}, repeats)
    ratios = {
        f"{ours}_over_{other}": ratio(per_second[ours], per_second[other])
        for ours in OURS
        for other in systems
        if other not in OURS
    }
    return {
        "ratios": ratios,
        "texts_per_s": {name: round(median(found), 1) for name, found in per_second.items()},
        "turns": {name: [round(one, 1) for one in found] for name, found in per_second.items()},
    }


def _bare(repository: Path, threads: int) -> Timed:
    """The served graph in this process, with as many threads as the served session and without spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    version = str(versions.served_version(repository))
    path = repository / served_models.ENCODER.name / version / MODEL_FILE
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(repository / served_models.TOKENIZER.name / version / TOKENIZER_FILE))
    tokenizer.no_padding()

    def timed(batches: Batches) -> float:
        feeds = [_padded([encoding.ids for encoding in tokenizer.encode_batch(batch)]) for batch in batches]
        began = time.perf_counter()
        for feed in feeds:
            session.run(None, feed)
        return time.perf_counter() - began

    return timed


def _padded(ids: Sequence[Sequence[int]]) -> dict[str, Any]:
    shape = (len(ids), max(map(len, ids)))
    arrays = {tensor.name: np.zeros(shape, dtype=np.int64) for tensor in served_models.ENCODER.inputs}
    for row, tokens in enumerate(ids):
        arrays[contract.INPUT_IDS.name][row, : len(tokens)] = tokens
        arrays[contract.ATTENTION_MASK.name][row, : len(tokens)] = 1
    return arrays


def _served(url: str, model: str) -> Timed:
    """An ensemble of the server, with `IN_FLIGHT` requests in flight."""

    async def send(requests: Iterator[list[Any]]) -> float:
        async with triton_aio.InferenceServerClient(url) as client:
            began = time.perf_counter()

            async def send_in_turn() -> None:
                for inputs in requests:
                    await client.infer(model, inputs)

            await asyncio.gather(*(send_in_turn() for _ in range(IN_FLIGHT)))
            return time.perf_counter() - began

    def timed(batches: Batches) -> float:
        return asyncio.run(send(iter([_inputs(model, batch) for batch in batches])))

    return timed


def _inputs(model: str, texts: list[str]) -> list[Any]:
    """Inputs of a request; for `recommend_text` the texts are events of the current session, a minute apart."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        contract.TEXT.name: np.array([text.encode() for text in texts], dtype=np.object_)
    }
    if model == served_models.RECOMMEND_TEXT.name:
        times = _NOW_MS - 60_000 * np.arange(len(texts), 0, -1, dtype=np.int64)
        arrays |= {contract.EVENT_ITEM.name: np.empty(0, dtype=np.int64), contract.EVENT_TIME.name: times}
        arrays[contract.NOW.name] = np.array([_NOW_MS], dtype=np.int64)
    return infer_inputs(arrays)


def _infinity_folder(encoder: Path, work: Path) -> Path:
    """Folder of the models for infinity; the first call writes those of all precisions."""
    folder = work / "infinity"
    if not folder.is_dir():
        with _started("prepare", str(encoder), str(folder), home=work) as process:
            # Not wait(): the output of its libraries would fill the pipe.
            process.communicate()
    return folder


@contextmanager
def _peer(name: str, folder: Path, threads: int, home: Path) -> Iterator[Timed]:
    """A peer in its own process."""
    with _started(name, str(folder), str(threads), home=home) as process:
        pipe, answers = process.stdin, process.stdout
        assert pipe is not None
        assert answers is not None

        def timed(batches: Batches) -> float:
            pipe.write(json.dumps({"batches": batches, "concurrency": IN_FLIGHT}) + "\n")
            pipe.flush()
            return float(answers.readline())

        yield timed


@contextmanager
def _started(*arguments: str, home: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts the peers' program; its libraries cache files below `home` and download nothing.

    Raises:
        RuntimeError: It failed; the message ends with its output.
    """
    command = [str(PEERS_PYTHON), str(Path(__file__).with_name("encoder_peers.py")), *arguments]
    hub = home / "-".join(["hub", *(Path(argument).name for argument in arguments[:2])])
    environment = {**os.environ, "HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile("w+") as log:
        try:
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment) as process:
                yield process
        finally:
            if process.returncode:
                log.seek(0)
                raise RuntimeError(
                    f"{arguments[0]}: got exit status {process.returncode}; expected 0. Output:\n{log.read()[-2_000:]}"
                )
