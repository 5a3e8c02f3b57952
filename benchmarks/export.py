"""What each variant of the exported encoder loses and gains: fidelity to the full one, speed here, size of its file.

Takes a bundle, or trains one on the shipped data. Fidelity is measured as the exporter does it, over all users; speed
is timed in turns, so that all variants meet the same machine. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from ebbtide.data.dataset import DataReference
from ebbtide.export.encoder.build import EncoderSource, build_encoder
from ebbtide.export.encoder.fidelity import cosines, measure_fidelity
from ebbtide.export.encoder.graph_edits import session_of
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.encoder.ranking_loss import RankingSample, TextRanking
from ebbtide.export.encoder.speed import BATCH_TEXTS, BATCH_TOKENS, compare_speed
from ebbtide.export.encoder.texts import embed
from ebbtide.export.machine import Machine
from ebbtide.export.onnx_files import write_graph
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, encoder_folder
from ebbtide.train.stage import train_bundle

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "movielens-small"
FP32 = "encoder.fp32"
UNFUSED = "encoder.fp32_unfused"
"""As torch traces it: what every fused variant is made from."""
VARIANTS = {
    FP32: EncoderOptions(),
    "encoder.fp16": EncoderOptions(precision="fp16"),
    "encoder.int8": EncoderOptions(precision="int8"),
}
EVERYBODY = RankingSample(users=10**9, items=10**9)
"""The exporter takes fewer users of a larger log, and fewer texts."""


@dataclass(frozen=True)
class Measured:
    """One variant, ready to be timed."""

    session: Any
    facts: dict[str, Any]


def measure_encoders(bundle: InterestBundle, console: Console, threads: int, turns: int) -> dict[str, dict[str, Any]]:
    """Fidelity, size and speed of every variant, by name."""
    source = EncoderSource.read(bundle, encoder_folder(bundle.config.encoder.source))
    with console.status("ranking with the full encoder"):
        ranking = TextRanking.read(bundle, EVERYBODY)
    measured = {UNFUSED: _exact(source, source.plain, threads)}
    for name, options in VARIANTS.items():
        with console.status(name) as status:
            built = build_encoder(source, options, status.update)
            if options.precision == "fp32":
                measured[name] = _exact(source, built.graph, threads)
                continue
            session = session_of(built.graph, threads)
            status.update(f"{name}: fidelity")
            fidelity = measure_fidelity(built, session, ranking)
        ndcg = fidelity.ndcg_at_10
        assert ndcg is not None, fidelity.ndcg_not_measured
        measured[name] = Measured(
            session,
            {
                "cosine_mean": fidelity.cosine_mean,
                "cosine_min": fidelity.cosine_min,
                "texts": fidelity.texts,
                "fragment_cosine_mean": fidelity.fragment_cosine_mean,
                "ndcg_at_10_ratio": ndcg.ratio,
                "ndcg_at_10_ratio_standard_error": ndcg.standard_error,
                "ndcg_events": ndcg.events,
                "operators": built.operators,
                "size_bytes": _size_bytes(built.graph),
            },
        )
    with console.status("speed"):
        sessions = {name: one.session for name, one in measured.items()}
        speed = compare_speed(sessions, source.tokens, source.texts.kept_back, turns)
    return {
        name: {
            **one.facts,
            "batch_ms": speed[name].batch_s * 1e3,
            "texts_per_s": speed[name].texts_per_s,
            "text_ms": speed[name].text_s * 1e3,
            "speedup_over_fp32": speed[FP32].batch_s / speed[name].batch_s,
            "text_speedup_over_fp32": speed[FP32].text_s / speed[name].text_s,
        }
        for name, one in measured.items()
    }


def _exact(source: EncoderSource, graph: onnx.ModelProto, threads: int) -> Measured:
    """A float32 graph of the full encoder, beside the vectors that torch gave at training."""
    session = session_of(graph, threads)
    texts = source.texts.kept_back
    got = embed(source.tokens.batches(texts), lambda feeds: session.run(None, feeds)[0])
    index = {text: row for row, text in enumerate(source.bundle.catalog.text)}
    vectors = source.bundle.text_vectors[[index[text] for text in texts]]
    similar = cosines(got, vectors @ source.bundle.model.event_projection.detach().numpy())
    return Measured(
        session,
        {
            "cosine_mean": float(similar.mean()),
            "cosine_min": float(similar.min()),
            "texts": len(texts),
            "ndcg_at_10_ratio": 1.0,
            "size_bytes": _size_bytes(graph),
        },
    )


def _size_bytes(graph: onnx.ModelProto) -> int:
    with tempfile.TemporaryDirectory() as index:
        write_graph(graph, "benchmark", Path(index))
        return sum(path.stat().st_size for path in Path(index).iterdir())


def shipped_bundle() -> InterestBundle:
    """Trained on the shipped data, as `make demo` does."""
    reference = DataReference(
        events=str(DATA / "ratings.parquet"),
        catalog=str(DATA / "movies.parquet"),
        user_column="userId",
        item_column="movieId",
        time_column="timestamp",
        weight_column=None,
        catalog_item_column="movieId",
        text_template="{title} ({year}). {genres}",
        title_template=None,
        max_bad_rows=0.0,
        holdout="none",
    )
    return train_bundle(reference, PACKAGED, ModelConfig(), TrainConfig())[0]


def machine_facts() -> dict[str, Any]:
    """What the times depend on."""
    return {
        **asdict(Machine.this()),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="written by `ebbtide train`; without it one is trained first")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of ONNX Runtime, for all variants")
    parser.add_argument("--turns", type=int, default=11, help="how often each variant is timed")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "export.json")
    arguments = parser.parse_args()
    console = Console()
    if arguments.bundle is None:
        with console.status("training on the shipped data"):
            bundle = shipped_bundle()
    else:
        bundle = InterestBundle.load(arguments.bundle)
    results = measure_encoders(bundle, console, arguments.threads, arguments.turns)
    table = Table(
        title=f"Encoder, {arguments.threads} threads, batches of {BATCH_TEXTS} texts of {BATCH_TOKENS} tokens, "
        f"medians of {arguments.turns}"
    )
    for heading in ("encoder", "cosine", "worst", "NDCG@10", "texts/s", "over fp32", "one text, ms", "MiB"):
        table.add_column(heading, justify="left" if heading == "encoder" else "right", no_wrap=heading == "encoder")
    for name, one in results.items():
        table.add_row(
            *(
                name.removeprefix("encoder."),
                f"{one['cosine_mean']:.4f}",
                f"{one['cosine_min']:.4f}",
                f"{one['ndcg_at_10_ratio']:.4f}",
            ),
            *(f"{one['texts_per_s']:,.0f}", f"{one['speedup_over_fp32']:.2f}x", f"{one['text_ms']:.3f}"),
            f"{one['size_bytes'] / 2**20:.1f}",
        )
    console.print(table)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": machine_facts(),
        "bundle": bundle.fingerprint,
        "threads": arguments.threads,
        "turns": arguments.turns,
        "batch": {"texts": BATCH_TEXTS, "tokens": BATCH_TOKENS},
        "results": results,
    }
    arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
