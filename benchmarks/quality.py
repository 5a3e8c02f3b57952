"""What decay and the learned blend are worth: ours against its own variants on the shipped data, in one run.

Leave-last-out, the whole catalog ranked, same seed and budget for all. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from ebbtide.train.bundle import DataReference
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, embed_cached, encoder_fingerprint, encoder_folder
from ebbtide.train.evaluation import held_out, metrics_of, target_ranks
from ebbtide.train.stage import read_data
from ebbtide.train.trainer import fit, prior_snapshots
from ebbtide.train.windows import LogTensors

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples" / "movielens-small"
OURS = "learned decay and alpha"
NOTHING_EBBS = "no decay, alpha 0.5"
VARIANTS = {
    OURS: ModelConfig(),
    NOTHING_EBBS: ModelConfig(decay="none", alpha="fixed:0.5"),
    f"{OURS}, no prior": ModelConfig(prior_half_life_days=()),
    f"{NOTHING_EBBS}, no prior": ModelConfig(decay="none", alpha="fixed:0.5", prior_half_life_days=()),
}
MIN_EVENTS = 5
"""The second column ranks items with at least this many events only, as published numbers often do."""


def main() -> None:
    """Trains every variant and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="train each variant this often and report medians")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    arguments = parser.parse_args()
    console = Console()
    data = read_data(
        DataReference(
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
            holdout="leave-last-out",
        )
    )
    folder = encoder_folder(PACKAGED)
    vectors = embed_cached(folder, encoder_fingerprint(folder), data.catalog.text, user_cache_path("ebbtide"))
    test = held_out(data.log, "leave-last-out")
    often = np.bincount(data.log.item, minlength=len(data.catalog)) >= MIN_EVENTS
    results = []
    for name, config in VARIANTS.items():
        tensors = LogTensors.of(data.log, config.session_gap_ms)
        prior = prior_snapshots(data.log, len(data.catalog), config)
        for seed in range(arguments.seeds):
            began = time.monotonic()
            with console.status(f"{name}, seed {seed}"):
                model = fit(data.log, ~test, vectors, config, TrainConfig(seed=seed)).model
                train_s = time.monotonic() - began
                every = metrics_of(data.log, *target_ranks(model, data.log, tensors, test, prior))
                common = metrics_of(data.log, *target_ranks(model, data.log, tensors, test, prior, often))
            results.append(
                {
                    "name": name,
                    "seed": seed,
                    "train_s": round(train_s, 1),
                    **asdict(every),
                    "ndcg_at_10_common_items": common.ndcg_at_10,
                }
            )

    def median(name: str, column: str) -> float:
        return float(np.median([result[column] for result in results if result["name"] == name]))

    table = Table(title=f"MovieLens latest-small, leave-last-out, medians of {arguments.seeds} seed(s)")
    for heading in ("", "NDCG@10", "hit rate@10", f"NDCG@10, items of {MIN_EVENTS}+ events", "training, s"):
        table.add_column(heading, justify="right" if heading else "left")
    for name in VARIANTS:
        columns = ("ndcg_at_10", "hit_rate_at_10", "ndcg_at_10_common_items")
        table.add_row(name, *(f"{median(name, column):.4f}" for column in columns), f"{median(name, 'train_s'):.0f}")
    console.print(table)
    ratios = {
        "with_prior": median(OURS, "ndcg_at_10") / median(NOTHING_EBBS, "ndcg_at_10"),
        "without_prior": median(f"{OURS}, no prior", "ndcg_at_10") / median(f"{NOTHING_EBBS}, no prior", "ndcg_at_10"),
    }
    console.print(f"NDCG@10 over nothing ebbing: {ratios['with_prior']:.2f}, no prior: {ratios['without_prior']:.2f}")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    arguments.json.write_text(
        json.dumps({"machine": machine, "ratio_to_nothing_ebbs": ratios, "runs": results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
