"""``ebbtide evaluate``: how well a bundle ranks the events that its training never saw."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ebbtide.cli.console import console, counting_progress


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train --holdout ...`.")],
    min_item_events: Annotated[
        int, typer.Option(help="Rank only items with at least this many events in the whole log.")
    ] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the metrics here, too.")] = None,
) -> None:
    """Rank the whole catalog before each held-out event and report where the next item stood.

    Popularity counts are kept up to date (each prediction sees all events strictly before it, as after a refresh); the
    model itself is not trained again. Metrics are averaged within each person, then over persons.

    **Example**

    ebbtide train ... --holdout leave-last-out --out artifacts/held-out && ebbtide evaluate artifacts/held-out
    """
    with console.status("Loading the bundle"):
        import numpy as np

        from ebbtide.train.bundle import InterestBundle
        from ebbtide.train.errors import DataError
        from ebbtide.train.evaluation import held_out, metrics_of, target_ranks
        from ebbtide.train.stage import read_data
        from ebbtide.train.trainer import prior_snapshots
        from ebbtide.train.windows import LogTensors

        loaded = InterestBundle.load(bundle)
        data = read_data(loaded.config.data)
        log = data.log
        targets = held_out(log, loaded.config.data.holdout)
    if not targets.any():
        raise DataError(f"{bundle}: nothing was held out: train with --holdout leave-last-out or --holdout time:0.1")
    candidates = np.bincount(log.item, minlength=len(data.catalog)) >= min_item_events
    with counting_progress() as progress:
        task = progress.add_task("Ranking", total=int(targets.sum()))
        events, ranks = target_ranks(
            loaded.model,
            log,
            LogTensors.of(log, loaded.config.model.session_gap_ms),
            targets,
            prior_snapshots(log, len(data.catalog), loaded.config.model),
            candidates,
            lambda done: progress.advance(task, done),
        )
    metrics = metrics_of(log, events, ranks)
    table = Table(
        title=f"{loaded.config.data.holdout}, {int(candidates.sum()):,} items ranked, {metrics.persons:,} persons, "
        f"{metrics.events:,} events",
        title_justify="left",
    )
    for heading in ("NDCG@10", "hit rate@10", "MRR"):
        table.add_column(heading, justify="right")
    table.add_row(f"{metrics.ndcg_at_10:.4f}", f"{metrics.hit_rate_at_10:.4f}", f"{metrics.mrr:.4f}")
    console.print(table)
    if json_file is not None:
        report = {
            "fingerprint": loaded.fingerprint,
            "holdout": loaded.config.data.holdout,
            "items_ranked": int(candidates.sum()),
            **asdict(metrics),
        }
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
