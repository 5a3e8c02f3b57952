"""The sections of the page: one for each benchmark, with the command that repeats it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.page.text import interval, number, tables_of
from benchmarks.serving.report import PLOT, Goal, Lines
from benchmarks.serving.report import tables as serving_tables
from benchmarks.state import report as state_report
from benchmarks.state.stores import STORES

Content = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One benchmark."""

    title: str
    result: str
    """Name of its JSON in ``benchmarks/results``."""
    command: str
    """The command that repeats the measurement."""
    about: str
    """What is compared, with a link to the page that explains it."""
    tables: Callable[[Content], Iterator[Lines]] = tables_of
    goals: tuple[Goal, ...] = ()
    plots: tuple[str, ...] = ()
    """File names of plots, in the folder of the JSON."""


def _encoder(content: Content) -> Iterator[Lines]:
    rows = []
    for name, one in content["results"].items():
        error = one.get("ndcg_at_10_ratio_standard_error")
        rows.append(
            (
                name.removeprefix("encoder."),
                f"{one['cosine_mean']:.4f}",
                f"{one['cosine_min']:.4f}",
                f"{one['ndcg_at_10_ratio']:.3f}" + ("" if error is None else f" ± {error:.3f}"),
                number(one["texts_per_s"]),
                f"{one['speedup_over_fp32']:.2f}",
                number(one["text_ms"]),
                f"{one['size_bytes'] / 2**20:.1f}",
            )
        )
    batch = content["batch"]
    yield Lines(
        f"Batches of {batch['texts']} texts of {batch['tokens']} tokens, {content['threads']} threads, medians of "
        f"{content['turns']} turns",
        ("encoder", "mean cosine", "lowest cosine", "NDCG@10 / fp32", "texts/s", "speed / fp32", "one text, ms", "MiB"),
        rows,
    )


def _head(content: Content) -> Iterator[Lines]:
    cells: dict[tuple[int, int], dict[str, Content]] = {}
    for one in content["results"]:
        cells.setdefault((one["items"], one["batch"]), {})[one["precision"]] = one
    yield Lines(
        "One run of the scoring head with one thread: time of fp32, and speed of the others divided by that of fp32",
        (
            "items",
            "batch",
            "fp32, ms",
            "fp16 speed",
            "int8 speed",
            "share of fp32's items in int8",
            "MiB: fp32, fp16, int8",
        ),
        [
            (
                f"{items:,}",
                str(batch),
                number(found["fp32"]["median_ms"]),
                f"{found['fp16']['ratio_to_fp32']:.2f}",
                f"{found['int8']['ratio_to_fp32']:.2f}",
                f"{found['int8']['recall']:.4f}",
                ", ".join(number(found[precision]["file_mib"]) for precision in ("fp32", "fp16", "int8")),
            )
            for (items, batch), found in cells.items()
        ],
    )


_QUALITY_RATIOS = (
    "ratio_to_best_baseline",
    "ratio_to_no_decay",
    "ratio_to_no_interest_decay",
    "cold_item_ratio_to_no_text",
)


def _quality(content: Content) -> Iterator[Lines]:
    for data in content["data_sets"]:
        rows = [
            (
                one["name"],
                f"{one['ndcg_at_10']:.4f}",
                "-" if one.get("ci95") is None else " to ".join(f"{end:.4f}" for end in one["ci95"]),
                f"{one['recall_at_10']:.4f}",
                f"{one['hit_rate_at_10']:.4f}",
                number(one.get("train_s")),
            )
            for one in data["models"]
        ]
        about = f"{data['users']:,} users, {data['items']:,} items, {data['events']:,} events"
        yield Lines(
            f"{data['name']}: {about}; {data['test_users']:,} test users, split {data['holdout']}",
            ("model", "NDCG@10", "95 %", "recall@10", "hit rate@10", "training, s"),
            rows,
        )
        ratios = [
            (one["name"], *(_ratio(one.get(key)) for key in _QUALITY_RATIOS))
            for one in data["models"]
            if any(key in one for key in _QUALITY_RATIOS)
        ]
        if ratios:
            headings = tuple(key.replace("_", " ") for key in _QUALITY_RATIOS)
            yield Lines(f"{data['name']}: ratios of NDCG@10", ("model", *headings), ratios)


def _ratio(value: Any) -> str:  # noqa: ANN401 - a number, or a number with its interval
    if isinstance(value, dict):
        ends = value.get("ci95")
        return number(value.get("ratio", value.get("value"))) + ("" if ends is None else f" ({interval(ends)})")
    return number(value)


def _tune(content: Content) -> Iterator[Lines]:
    yield Lines(
        f"Runs with the objective {content['slo']}",
        ("run", "changes", "default, requests/s", "found, requests/s", "ratio", "95 %", "default against itself", "s"),
        [
            (
                str(index),
                f"`{run['winner']['export_options']}`" if run["winner"]["export_options"] else "none",
                number(run["default"]["rate_per_s"]),
                number(run["found"]["rate_per_s"]),
                number(run["ratio"]),
                interval(run["ratio_ci95"]),
                number(run["noise"]["ratio"]) if run["noise"] else "-",
                number(round(run["seconds"])),
            )
            for index, run in enumerate(content["runs"], start=1)
        ],
    )
    yield Lines(
        "Settings tried in the first run",
        ("settings", "ratio to the incumbent", "95 %", "pairs", "outcome"),
        [
            (
                f"`{one['settings']}`" if one["settings"] else "default",
                number(one["ratio"]),
                interval(one["ratio_ci95"]),
                str(one["pairs"]),
                one["outcome"],
            )
            for one in content["runs"][0]["trials"]
        ],
    )


SECTIONS = (
    Section(
        "Serving",
        "serving.json",
        "make bench-serving",
        "Compares `recommend` with a server that does nothing, with peers and with the limits of the machine: "
        "[the serving benchmark](benchmarks-serving.md).",
        serving_tables,
        plots=(PLOT,),
    ),
    Section(
        "Users' states",
        "state.json",
        "make bench-state",
        "Compares recommendations by user id with requests that carry the events, and measures `observe` and the "
        "backfill of a generated log, with the embedded store and with Redis: [online interest](online-interest.md), "
        "[state store](state-store.md). The compared requests take turns on one server. Each request to `observe` has "
        "one new event for each of 64 users; the processor time of the server and of Redis is counted.",
        state_report.tables,
        goals=state_report.GOALS,
    ),
    Section(
        "Living catalog",
        "living_catalog.json",
        "make bench-living",
        "Seconds from a change until the lists of two servers of one store show it, at 50 requests a second, with the "
        "settings that servers have by default: [living catalog](living-catalog.md).",
        goals=tuple(
            Goal(f"{store}.{figure}", most, at_most=True)
            for store in STORES
            for figure, most in (("new_item_s", 10.0), ("trend_s", 10.0), ("removed_s", 1.0), ("out_of_stock_s", 1.0))
        )
        + tuple(Goal(f"{store}.failed", 0.0, at_most=True) for store in STORES),
    ),
    Section(
        "Slates",
        "slate.json",
        "make bench-slate",
        "Compares lists of 20 composed from 200 candidates with an ensemble whose third step takes the same tensors "
        "and composes nothing, on one server: [slates](slates.md).",
        goals=tuple(Goal(f"cases.{case}.p50_ratio", 1.3, at_most=True) for case in ("mmr", "dpp", "exposure")),
    ),
    Section(
        "Soak",
        "soak.json",
        "make bench-soak",
        "For an hour, one client sends one server 70 % of the highest rate that the server reaches with it: lists of "
        "known users, and observed events. Another version is deployed every five minutes, and an item is added or "
        "removed every ten seconds. Memory, file descriptors and threads of the server's processes are compared "
        "between the first and the last time that version 1 was in service.",
        goals=(
            Goal("minutes", 60.0),
            Goal("failed", 0.0, at_most=True),
            *(Goal(f"growth.{what}.last_over_first", 1.02, at_most=True) for what in ("memory_mib", "descriptors")),
            *(Goal(f"growth.{what}.last_over_first", 1.0, at_most=True) for what in ("threads", "shared_mib")),
        ),
    ),
    Section(
        "Encoder",
        "export.json",
        "make bench-export",
        "Fidelity, speed and size of each variant of the exported encoder: [encoder](encoder.md).",
        _encoder,
    ),
    Section(
        "Lists for all users",
        "batch.json",
        "make bench-batch",
        "Compares `batch-recommend` with single requests to a server (lists per second of processor time), a run that "
        "is killed and resumed with one that is not, and two workers with one: [lists for all users](batch.md).",
        goals=(
            Goal("rate_per_core_over_asking", 5.0),
            Goal("ray.two_over_one", 1.6),
        ),
    ),
    Section(
        "Scoring head",
        "export_head.json",
        "make bench-head",
        "Precisions of the item factors for several catalog sizes: [scoring head](head.md).",
        _head,
    ),
    Section(
        "Client",
        "client.json",
        "make bench-client",
        "Cost of the SDK and of the gateway, compared with calls through tritonclient: [Python client](client.md).",
        goals=(
            Goal("sync.p50_over_tritonclient", 1.15, at_most=True),
            Goal("async.throughput_over_perf_analyzer", 0.7),
            Goal("gateway.added_p50_ms", 1.0, at_most=True),
            Goal("install.megabytes_over_tritonclient", 10.0, at_most=True),
            Goal("import.time_over_tritonclient", 1.5, at_most=True),
        ),
    ),
    Section(
        "Load generator",
        "loadtest.json",
        "make bench-loadtest",
        "Compares the load generator with perf_analyzer, and measures its limit on a server that does nothing: "
        "[load tests](loadtest.md).",
    ),
    Section(
        "Tuned settings",
        "tune.json",
        "make bench-tune",
        "Several runs of `ebbtide tune`: the gain over the default, and whether each run chooses the same settings: "
        "[tuned settings](tune.md).",
        _tune,
        goals=(Goal("ratio", 1.0), Goal("same_choice_share", 1.0)),
    ),
    Section(
        "Training",
        "training.json",
        "make bench-training",
        "Training speed of Ebbtide and SASRec on the same data and machine: [training](training.md#memory-and-speed).",
    ),
    Section(
        "Quality",
        "quality.json",
        "make bench-quality",
        "Ebbtide, its ablations and common recommenders under one protocol: [evaluation](evaluation.md).",
        _quality,
    ),
)
