"""Writes the quality benchmark's report from its JSON: tables on the terminal, a Markdown page and plots.

python -m benchmarks.quality.summary [benchmarks/results/quality.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.quality import ours
from benchmarks.quality.console import console
from benchmarks.quality.datasets import ROOT
from benchmarks.quality.pictures import draw_breakdowns, draw_models

RATIOS = {
    "ratio_to_oracle": "the oracle",
    "ratio_to_inferred_oracle": "the oracle that infers the users",
    "ratio_to_best_baseline": "the best baseline",
    "ratio_to_no_decay": "the model without decay",
    "ratio_to_no_interest_decay": "the model without decay of the user's interest",
    "cold_item_ratio_to_no_text": "the model without text, on items with at most 5 training events",
}


_HEADINGS = ("model", "NDCG@10", "95 % interval", "recall@10", "hit rate@10", "training, s")


def print_tables(data_set: dict[str, Any]) -> None:
    """Prints the rows of one data set, best first, and the ratios of Ebbtide to other models."""
    table = Table(
        title=f"{data_set['name']}: split {data_set['holdout']}, whole catalog ranked, metrics averaged over users",
        title_justify="left",
    )
    for index, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if index else "left")
    for row in best_first(data_set):
        table.add_row(row["name"], *_figures(row))
    console.print(table)
    for line in _ratios(data_set):
        console.print(line)


def write_summary(json_file: Path) -> list[Path]:
    """Writes the page and its plots into the folder of the JSON file.

    Args:
        json_file: Result of the benchmark; the files' names begin with its name.

    Returns:
        The files written.
    """
    report = json.loads(json_file.read_text())
    written = []
    parts = [_head(report)]
    for data_set in report["data_sets"]:
        picture = json_file.with_name(f"{json_file.stem}-{data_set['name']}.png")
        draw_models(data_set, picture)
        written.append(picture)
        parts += [_section(data_set), f"![NDCG@10 of every model with its 95 % interval]({picture.name})"]
        if any("breakdowns" in row for row in data_set["models"]):
            picture = json_file.with_name(f"{json_file.stem}-{data_set['name']}-breakdowns.png")
            draw_breakdowns(data_set, picture)
            written.append(picture)
            parts.append(f"![NDCG@10 by gap, history and age of the matching interest]({picture.name})")
        parts.append(_settings(data_set))
    page = json_file.with_suffix(".md")
    page.write_text("\n\n".join(parts) + "\n")
    return [page, *written]


def best_first(data_set: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, the highest NDCG@10 first."""
    return sorted(data_set["models"], key=lambda row: -float(row["ndcg_at_10"]))


def _head(report: dict[str, Any]) -> str:
    return (
        "# Quality\n\n"
        "`make bench-quality` writes this page from `quality.json`. docs/evaluation.md describes the protocol: "
        "global time split, the whole catalog is ranked, metrics are averaged over users, 95 % confidence intervals "
        f"by bootstrap over users. Rows were computed on: {'; '.join(_machines(report))}. "
        "Training time is the wall-clock time of one fit; for counts and closed forms it includes the ranking. "
        "`quality.json` also has the processor time."
    )


def _machines(report: dict[str, Any]) -> list[str]:
    """Machines and dates of the rows, each once."""
    rows = [row for data_set in report["data_sets"] for row in data_set["models"] if "machine" in row]
    lines = [f"{row['machine']['cores']} cores, torch {row['machine']['torch']}, {row['date']}" for row in rows]
    return [*dict.fromkeys(lines)]


def _section(data_set: dict[str, Any]) -> str:
    users = f"{data_set['users']:,} users"
    if data_set["users_drawn"]:
        users += " (drawn with a fixed seed, the same for all models, with the items of their events)"
    tries = data_set["tries"]
    outdated = [row["name"] for row in data_set["models"] if row.get("outdated")]
    notes = [
        "This was a quick run: few users, two epochs for Ebbtide." if data_set["quick"] else "",
        f"For each baseline at most {tries} settings were tried on the validation period."
        if tries > 1
        else "Each baseline has one setting.",
        f"Ebbtide and its ablations were trained for at most {data_set['epochs']} epochs."
        if "epochs" in data_set
        else "",
        f"Models left out: {', '.join(data_set['left_out'])}." if data_set["left_out"] else "",
        f"Results of earlier code or settings: {', '.join(outdated)}." if outdated else "",
    ]
    lines = [
        f"## {data_set['name']}",
        " ".join(sentence for sentence in notes if sentence),
        f"{data_set['events']:,} events of {users} on {data_set['items']:,} items; {data_set['test_users']:,} test "
        f"users, {data_set['test_baskets']:,} baskets, "
        + ("seen items may be recommended." if data_set["repeats"] else "seen items are not recommended."),
        _table(
            [*_HEADINGS],
            [[_bold(row), *_figures(row)] for row in best_first(data_set)],
        ),
        "\n".join(f"- {line}" for line in _ratios(data_set)),
    ]
    limits: dict[tuple[int, float], list[str]] = {}
    for row in data_set["models"]:
        if "known_items" in row:
            limits.setdefault((row["known_items"], round(row["known_share_of_relevant"], 3)), []).append(row["name"])
    lines += [
        f"{', '.join(names)}: limited to the {items:,} most frequent of the {data_set['items']:,} items, which cover "
        f"{share:.0%} of the targets."
        for (items, share), names in limits.items()
    ]
    return "\n\n".join(line for line in lines if line)


def _bold(row: dict[str, Any]) -> str:
    return (
        f"**{row['name']}**"
        if row.get("model", row["name"]) in (ours.OURS, ours.OURS + ours.FROZEN)
        else str(row["name"])
    )


def _figures(row: dict[str, Any]) -> list[str]:
    low, high = row["ci95"]
    return [
        *(f"{row['ndcg_at_10']:.4f}", f"{low:.4f} to {high:.4f}"),
        *(f"{row['recall_at_10']:.4f}", f"{row['hit_rate_at_10']:.4f}", f"{row['train_s']:,.0f}"),
    ]


def _ratios(data_set: dict[str, Any]) -> list[str]:
    lines = []
    for name, mean in data_set.get("over_seeds", {}).items():
        if len(mean["seeds"]) > 1 and mean.get("ratio_to_best_baseline") is not None:
            lines.append(
                f"{name}, mean of the seeds {', '.join(map(str, mean['seeds']))}: NDCG@10 {mean['ndcg_at_10']:.4f}, "
                f"{mean['ratio_to_best_baseline']:.3f} times that of the best baseline "
                f"({mean['ratio_to_best_baseline_against']}), 95 % from {mean['ratio_to_best_baseline_low']:.3f}"
            )
    for row in data_set["models"]:
        for key, against in RATIOS.items():
            if row.get(key) is not None:
                difference = row[f"{key}_difference"]
                other = f"{against} ({row[f'{key}_against']})" if key == "ratio_to_best_baseline" else against
                lines.append(
                    f"{row['name']}: {row[key]:.2f} times the NDCG@10 of {other}; difference "
                    f"{difference['mean']:+.4f}, 95 % {difference['low']:+.4f} to {difference['high']:+.4f}, "
                    f"p {difference['p_value']:.3f}"
                )
    return lines


def _settings(data_set: dict[str, Any]) -> str:
    rows = []
    for row in data_set["models"]:
        if row["kind"] == "baseline" and row["tried"]:
            chosen = ", ".join(f"{name} {value}" for name, value in row["settings"].items() if name != "updated")
            scores = ", ".join(f"{one['validation_ndcg_at_10']:.4f}" for one in row["tried"])
            rows.append([row["name"], chosen, scores])
    if not rows:
        return ""
    return "### Settings of the baselines\n\n" + _table(
        ["model", "settings chosen", "validation NDCG@10 of each setting tried"], rows
    )


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    write_summary(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks" / "results" / "quality.json")
