"""The result of a tuning as one JSON document: what was tried, what won, what it is worth, how to get it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.loadtest import Slo, Workload
from ebbtide.loadtest.calibrate import MARGIN, Calibration
from ebbtide.tune.ratios import Ratio
from ebbtide.tune.search import Search
from ebbtide.tune.space import Settings, changes
from ebbtide.tune.verdict import Verdict

FORMAT = 1
"""Version of the document."""
_QUIET = 1.2
"""Ends of the interval of the default against itself, one over the other, on a machine that does nothing else."""


@dataclass(frozen=True)
class Outcome:
    """All that one tuning did."""

    repository: Path
    start: Settings
    found: Settings
    """The search's winner."""
    search: Search
    verdict: Verdict | None
    """None where the search found nothing better."""
    slo: Slo
    workload: Workload
    calibration: Calibration
    generator_limits: dict[str, int]
    """Why turns may have measured the generator, and how many of them."""
    turns: int
    server_version: str
    machine: dict[str, Any]
    command: str
    began_unix_s: float
    seconds: float


def result_of(outcome: Outcome) -> dict[str, Any]:
    """The document; the winner is the default unless the verdict proves it better."""
    verdict, start = outcome.verdict, outcome.start
    is_proven = verdict is not None and verdict.is_proven
    chosen = changes(start, outcome.found) if is_proven else ()
    return {
        "ebbtide_tune": FORMAT,
        "command": outcome.command,
        "began_unix_s": round(outcome.began_unix_s, 3),
        "seconds": round(outcome.seconds, 1),
        "machine": outcome.machine,
        "server": {"name": "triton", "version": outcome.server_version},
        "repository": str(outcome.repository),
        "requests": {"mix": outcome.workload.mix, "users": outcome.workload.users},
        "slo": str(outcome.slo),
        "default": {
            "settings": [_stated(one) for one in start],
            "rate_per_s": None if verdict is None else _rounded(verdict.default_rate),
        },
        "found": {
            "changes": [_stated(one) for one in changes(start, outcome.found)],
            "rate_per_s": None if verdict is None else _rounded(verdict.winner_rate),
        },
        "winner": {
            "is_default": not chosen,
            "changes": [_stated(one) for one in chosen],
            "settings": [_stated(one) for one in (outcome.found if chosen else start)],
            "export_options": export_options(chosen),
        },
        "ratio": 1.0 if verdict is None else _rounded(verdict.ratio.mean),
        "ratio_ci95": None if verdict is None else [_rounded(verdict.ratio.low), _rounded(verdict.ratio.high)],
        "repeats": []
        if verdict is None
        else [
            {"default_per_s": _rounded(a), "winner_per_s": _rounded(b)}
            for a, b in zip(verdict.default_rates, verdict.winner_rates, strict=True)
        ],
        "noise": _ratio(outcome.search.noise),
        "trials": [
            {
                "stage": trial.stage,
                "settings": None if trial.value is None else str(trial.value),
                **_ratio(trial.ratio),
                "outcome": trial.outcome,
            }
            for trial in outcome.search.trials
        ],
        "search": {
            "passes": outcome.search.passes,
            "turns": outcome.turns,
            "is_complete": outcome.search.is_complete,
            "left_alone": list(outcome.search.left_alone),
        },
        "generator": {"throughput": _rounded(outcome.calibration.throughput), "limits": outcome.generator_limits},
        "verdict": _sentence(outcome, chosen),
        "notes": list(_notes(outcome)),
    }


def export_options(chosen: Sequence[TunedSettings]) -> str:
    """The options of `ebbtide export` that write these settings."""
    return shlex.join(part for one in chosen for part in ("--tuned", str(one)))


def _sentence(outcome: Outcome, chosen: Settings) -> str:
    verdict, slo = outcome.verdict, outcome.slo
    if verdict is None:
        return f"the default stays: nothing that was tried is better under {slo}"
    rates = f"{verdict.winner_rate:,.0f} instead of {verdict.default_rate:,.0f} requests per second under {slo}"
    if not chosen:
        return (
            f"the default stays: what the search found holds {rates}, {verdict.ratio} times as many, which is not "
            "proven to be more"
        )
    return f"holds {rates}: {verdict.ratio} times as many"


def _notes(outcome: Outcome) -> list[str]:
    notes = []
    if outcome.search.left_alone:
        notes.append(
            "left alone, since they take less of a request's time than a change must gain: "
            f"{', '.join(outcome.search.left_alone)}"
        )
    if not outcome.search.is_complete:
        notes.append("the time was up before the search had ended: give it more --minutes")
    noise = outcome.search.noise
    if noise.high / noise.low > _QUIET:
        notes.append(
            f"the machine was not quiet: the default against itself was {noise} times as fast; small gains cannot be "
            "seen"
        )
    if outcome.generator_limits:
        shares = ", ".join(f"{count} times: {reason}" for reason, count in outcome.generator_limits.items())
        notes.append(
            f"the generator may have limited {sum(outcome.generator_limits.values())} of {outcome.turns} turns "
            f"({shares}; expected {MARGIN:g} times what was measured): the server's own gain may be larger"
        )
    return notes


def _stated(tuning: TunedSettings) -> dict[str, Any]:
    stated = {name: value for name, value in asdict(tuning).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}


def _ratio(ratio: Ratio) -> dict[str, Any]:
    interval = None if ratio.pairs < 2 else [_rounded(ratio.low), _rounded(ratio.high)]
    return {"ratio": _rounded(ratio.mean), "ratio_ci95": interval, "pairs": ratio.pairs}


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
