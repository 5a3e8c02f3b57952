"""Encodes texts with another library, one library per process; runs in the environment of requirements.txt.

    python benchmarks/serving/encoder_peers.py prepare ENCODER OUT
    python benchmarks/serving/encoder_peers.py PEER FOLDER THREADS

`prepare` writes the models for infinity: the encoder as optimum exports and fuses it, in fp32 and in dynamic int8
(``model_quantized.onnx``). The second form reads one job per line from standard input, as JSON ``{"batches":
[[text, ...], ...], "concurrency": n}``, and answers each with the seconds that its batches took.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Encode = Callable[[list[list[str]], int], None]
FP32, INT8 = "fp32", "int8"


def prepare(encoder: str, out: Path) -> None:
    """Writes a folder for each precision, fused with the optimizer and level that infinity requests at its start.

    Infinity's own request fails with optimum's current release, and infinity then serves the graph without fusion.
    """
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTOptimizer
    from optimum.onnxruntime.configuration import OptimizationConfig
    from transformers import AutoTokenizer

    traced = out / "traced"
    main_export(encoder, str(traced), task="feature-extraction", library_name="transformers", do_validation=False)
    optimizer = ORTOptimizer.from_pretrained(ORTModelForFeatureExtraction.from_pretrained(str(traced)))
    optimizer.optimize(OptimizationConfig(optimization_level=99), save_dir=str(out / FP32), file_suffix="")
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    shutil.copytree(out / FP32, out / INT8, ignore=shutil.ignore_patterns("*.onnx"))
    for folder in (out / FP32, out / INT8):
        tokenizer.save_pretrained(str(folder))
    quantised = out / INT8 / "model_quantized.onnx"
    quantize_dynamic(
        str(out / FP32 / "model.onnx"),
        str(quantised),
        weight_type=QuantType.QInt8,
        per_channel=True,
        # ONNX cannot infer the types of fused operators' outputs.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def sentence_transformers(folder: str, threads: int) -> Encode:
    """Sentence-transformers on PyTorch; it has no queue, so it encodes the batches in sequence at any concurrency."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(folder, device="cpu")

    def encode(batches: list[list[str]], _: int) -> None:
        for batch in batches:
            model.encode(batch, batch_size=len(batch), show_progress_bar=False)

    return encode


def infinity(folder: str, threads: int) -> Encode:
    """Infinity's ONNX engine in this process, without its HTTP server."""
    import onnxruntime

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        """A session with the given number of threads: infinity has no setting for it."""

        def __init__(self, path: str, sess_options: object = None, **settings: object) -> None:
            options: Any = sess_options or onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            super().__init__(path, options, **settings)

    onnxruntime.InferenceSession = Session
    # Infinity searches the folder for files and opens the relative paths, so the folder must be the current one.
    os.chdir(folder)
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    engine = AsyncEmbeddingEngine.from_args(
        EngineArgs(model_name_or_path=".", engine="optimum", device="cpu", model_warmup=False, batch_size=64)
    )
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    async def encode_all(batches: list[list[str]], concurrency: int) -> None:
        waiting = iter(batches)

        async def client() -> None:
            for batch in waiting:
                await engine.embed(batch)

        await asyncio.gather(*(client() for _ in range(concurrency)))

    def encode(batches: list[list[str]], concurrency: int) -> None:
        loop.run_until_complete(encode_all(batches, concurrency))

    return encode


PEERS: dict[str, Callable[[str, int], Encode]] = {"sentence_transformers": sentence_transformers, "infinity": infinity}


def main() -> None:
    """Runs `prepare`, or answers jobs from standard input."""
    if sys.argv[1] == "prepare":
        prepare(sys.argv[2], Path(sys.argv[3]))
        return
    encode = PEERS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
    answers = sys.stdout
    # Libraries print to standard output too; that must not mix with the answers.
    sys.stdout = sys.stderr
    for line in sys.stdin:
        job = json.loads(line)
        began = time.perf_counter()
        encode(job["batches"], job["concurrency"])
        answers.write(f"{time.perf_counter() - began}\n")
        answers.flush()
    # Infinity's threads, which wait for texts, would keep the interpreter alive.
    os._exit(0)


if __name__ == "__main__":
    main()
