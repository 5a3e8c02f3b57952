"""Writes an evaluation as JSON, Markdown and plots."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebbtide.train.evaluation.accuracy import CUT_OFFS
from ebbtide.train.evaluation.breakdowns import Breakdown
from ebbtide.train.evaluation.evaluate import COLD_EVENTS, Evaluation, Online, Run
from ebbtide.train.evaluation.intervals import Difference, Estimate
from ebbtide.train.evaluation.plots import ALPHA, BREAKDOWNS, HALF_LIVES, draw
from ebbtide.train.evaluation.ratings import Ratings

NOT_APPLICABLE = "not applicable: the model ranks and predicts no ratings"
HEADINGS = {
    "ndcg": "NDCG",
    "recall": "Recall",
    "precision": "Precision",
    "f1": "F1",
    "mrr": "MRR",
    "hit_rate": "Hit rate",
}
_QUANTILES = (0.1, 0.5, 0.9)
BEYOND = {
    "coverage_at_10": "Catalog coverage",
    "novelty_at_10": "Novelty, bits",
    "intra_list_diversity_at_10": "Intra-list diversity",
    "popularity_bias_at_10": "Popularity bias",
}


@dataclass(frozen=True)
class Rival:
    """What a run is compared with."""

    name: str
    evaluation: Evaluation
    differences: dict[str, Difference]
    """Ours minus theirs, by metric."""


def as_json(
    run: Run,
    popularity: str,
    rival: Rival | None,
    online: Online | None = None,
    by_column: Sequence[Breakdown] = (),
) -> dict[str, Any]:
    """The whole evaluation as plain values; a number that does not exist is None.

    Args:
        run: Measured.
        popularity: ``updated`` or ``frozen``.
        rival: What it was compared with, if anything.
        online: The replay with learning online, if there was one.
        by_column: Segments of items or users.
    """
    measured = run.evaluation
    content: dict[str, Any] = {
        "fingerprint": run.bundle.fingerprint,
        "holdout": run.bundle.config.data.holdout,
        "popularity": popularity,
        "repeats": run.repeats,
        "all_events": run.all_events,
        "items": len(run.test.catalog),
        "training_events": int((~run.test.is_test).sum()),
        "users": measured.users,
        "baskets": measured.baskets,
        "events": measured.events,
        **measured.means,
        "interval_95": {name: [found.low, found.high] for name, found in measured.metrics.items()},
        **asdict(measured.beyond),
        "rmse": run.ratings.rmse.mean if run.ratings else None,
        "mae": run.ratings.mae.mean if run.ratings else None,
        "ratings": asdict(run.ratings) if run.ratings else NOT_APPLICABLE,
        "cold_items": {"training_events_at_most": COLD_EVENTS, **asdict(measured.cold)},
        "breakdowns": {breakdown.name: asdict(breakdown) for breakdown in measured.breakdowns},
        "segments": {segment.name: asdict(segment) for segment in by_column},
        "learned": asdict(run.learned),
    }
    if rival is not None:
        content["against"] = {
            "name": rival.name,
            **rival.evaluation.means,
            "differences": {name: asdict(found) for name, found in rival.differences.items()},
        }
    if online is not None:
        content["online"] = {
            "learning_rate": online.learning_rate,
            **online.metrics,
            "differences": {name: asdict(found) for name, found in online.differences.items()},
            "alpha_offset_quantiles": np.quantile(online.offset, _QUANTILES).tolist(),
        }
    cleaned: dict[str, Any] = without_nan(content)
    return cleaned


def without_nan(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The value with None for every number that JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes what `as_json` gave."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_report(
    folder: Path,
    run: Run,
    popularity: str,
    rival: Rival | None,
    online: Online | None = None,
    by_column: Sequence[Breakdown] = (),
) -> list[Path]:
    """Writes ``report.md``, ``report.json`` and the plots into a folder, which is made.

    Returns:
        The files written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw(folder, run.learned, run.evaluation.breakdowns, protocol_line(run, popularity))
    write_json(folder / "report.json", as_json(run, popularity, rival, online, by_column))
    text = _markdown(run, popularity, rival, online, plots, by_column)
    (folder / "report.md").write_text(text, encoding="utf-8")
    return [folder / name for name in ("report.md", "report.json", *plots)]


def protocol_line(run: Run, popularity: str) -> str:
    """The protocol in one line."""
    data = run.bundle.config.data
    return protocol_of(data.holdout, len(run.test.catalog), popularity, repeats=run.repeats, all_events=run.all_events)


def protocol_of(holdout: str, items: int, popularity: str, *, repeats: bool, all_events: bool) -> str:
    """The protocol in one line.

    Args:
        holdout: As trained.
        items: In the catalog.
        popularity: ``updated`` or ``frozen``.
        repeats: Whether seen items may be in the lists.
        all_events: Whether all events of a user count.
    """
    seen = "repeats allowed" if repeats else "seen items left out"
    events = ", all events of a user" if all_events else ""
    return f"{split_of(holdout)}, all {items:,} items ranked, popularity {popularity}, {seen}{events}"


def split_of(holdout: str) -> str:
    """The split in a few words."""
    kind, _, split_time = holdout.partition(":")
    return f"time split ({split_time})" if kind == "time" else "each user's last basket"


def ratings_line(ratings: Ratings | None) -> str:
    """RMSE and MAE with their intervals, or why there are none."""
    if ratings is None:
        return NOT_APPLICABLE
    return (
        f"{_bracketed(ratings.rmse)}, {_bracketed(ratings.mae)}; always the mean rating: {ratings.rmse_of_mean:.4f}, "
        f"{ratings.mae_of_mean:.4f}"
    )


def online_line(online: Online) -> str:
    """The learning rate, and how far the offsets of alpha went."""
    low, middle, high = np.quantile(online.offset, _QUANTILES)
    return (
        f"learning online, rate {online.learning_rate:g}: alpha offsets after the last basket {low:+.2f}, "
        f"{middle:+.2f}, {high:+.2f} (first decile, median, last decile of users)"
    )


def _markdown(
    run: Run,
    popularity: str,
    rival: Rival | None,
    online: Online | None,
    plots: list[str],
    by_column: Sequence[Breakdown],
) -> str:
    measured = run.evaluation
    parts = [
        f"# Evaluation of bundle {run.bundle.fingerprint}",
        f"{protocol_line(run, popularity)[0].upper()}{protocol_line(run, popularity)[1:]}. "
        f"{measured.users:,} users, {measured.baskets:,} baskets, {measured.events:,} relevant items, "
        f"{int((~run.test.is_test).sum()):,} training events.",
        "Each basket is predicted from the events strictly before it, with no retraining. Means within each user, "
        "then over users; in brackets the 95 % interval (bootstrap over users).",
        markdown_table(
            ["", *(f"@{cut}" for cut in CUT_OFFS)],
            [
                [heading, *(_with_interval(measured, f"{name}_at_{cut}") for cut in CUT_OFFS)]
                for name, heading in HEADINGS.items()
            ],
        ),
        "## Beyond accuracy, first ten ranks",
        markdown_table(
            ["", "value"],
            [[heading, f"{getattr(measured.beyond, name):.4g}"] for name, heading in BEYOND.items()]
            + [["RMSE, MAE", ratings_line(run.ratings)]],
        ),
        f"Items with at most {COLD_EVENTS} training events: {_cold(measured)}",
    ]
    if rival is not None:
        compared = _compared(("ours", measured.means), ("theirs", rival.evaluation.means), rival.differences)
        parts += [f"## Against {rival.name}", compared]
    if online is not None:
        line = online_line(online)
        compared = _compared(("online", online.metrics), ("without", measured.means), online.differences)
        parts += ["## Learning online", f"{line[0].upper()}{line[1:]}.", compared]
    parts.append("## NDCG@10 by what decay is about")
    parts += [_breakdown(breakdown) for breakdown in measured.breakdowns]
    parts.append(f"![NDCG@10 by gap, history and age of the matching interest]({BREAKDOWNS})")
    if HALF_LIVES in plots:
        parts += ["## Learned half-lives", f"![Learned half-lives of the interest dimensions]({HALF_LIVES})"]
    if ALPHA in plots:
        parts += ["## Alpha", f"![Alpha against gap and length of history]({ALPHA})"]
    if by_column:
        parts += ["## NDCG@10 by segment", *map(_breakdown, by_column)]
    return "\n\n".join(parts) + "\n"


def _breakdown(breakdown: Breakdown) -> str:
    return markdown_table(
        [breakdown.title, "users", "baskets", "NDCG@10 [95 %]"],
        [[row.label, f"{row.users:,}", f"{row.baskets:,}", _bracketed(row.ndcg_at_10)] for row in breakdown.bins],
    )


def _compared(
    first: tuple[str, dict[str, float]], second: tuple[str, dict[str, float]], differences: dict[str, Difference]
) -> str:
    """The metrics of two, each with its heading, and the differences of the first to the second."""
    table = markdown_table(
        ["", first[0], second[0], "difference [95 %]", "p"],
        [
            [
                f"{HEADINGS[name.rpartition('_at_')[0]]}@{name.rpartition('_at_')[2]}",
                f"{first[1][name]:.4f}",
                f"{second[1][name]:.4f}",
                f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]",
                f"{found.p_value:.3f}",
            ]
            for name, found in differences.items()
        ],
    )
    return (
        f"{table}\n\n"
        "Paired over users: the interval by bootstrap of the differences, p by flipping their signs at random."
    )


def _cold(measured: Evaluation) -> str:
    if not measured.cold.baskets:
        return "none in the test."
    return (
        f"NDCG@10 {_bracketed(measured.cold.ndcg_at_10)} over {measured.cold.users:,} users and "
        f"{measured.cold.baskets:,} baskets."
    )


def _with_interval(measured: Evaluation, name: str) -> str:
    return _bracketed(measured.metrics[name])


def _bracketed(found: Estimate) -> str:
    return f"{found.mean:.4f} [{found.interval.replace(' to ', ', ')}]"


def markdown_table(headings: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
