"""The result of a tuning as one JSON document: what was tried, what won, by how much, and how to apply it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
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
"""Upper over lower end of the interval of the default against itself, at most, on a machine without other load."""


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
    turns: int
    limited_turns: int
    """Turns that may have measured the generator."""
    server_version: str
    machine: dict[str, Any]
    command: str
    began_unix_s: float
    seconds: float


def result_of(outcome: Outcome) -> dict[str, Any]:
    """The document; the winner is the default unless the verdict proves another better."""
    verdict, start = outcome.verdict, outcome.start
    found = changes(start, outcome.found)
    chosen = found if verdict is not None and verdict.is_proven else ()
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
            "changes": [_stated(one) for one in found],
            "rate_per_s": None if verdict is None else _rounded(verdict.winner_rate),
        },
        "winner": {
            "is_default": not chosen,
            "changes": [_stated(one) for one in chosen],
            "settings": [_stated(one) for one in (outcome.found if chosen else start)],
            "export_options": shlex.join(part for one in chosen for part in ("--tuned", str(one))),
        },
        **(_ratio(verdict.ratio) if verdict is not None else {"ratio": 1.0, "ratio_ci95": None, "pairs": 0}),
        "repeats": []
        if verdict is None
        else [
            {"default_per_s": _rounded(a), "winner_per_s": _rounded(b)}
            for a, b in zip(verdict.default_rates, verdict.winner_rates, strict=True)
        ],
        "noise": _ratio(outcome.search.noise),
        "trials": [
            {
                "settings": None if trial.value is None else str(trial.value),
                **_ratio(trial.ratio),
                "outcome": trial.outcome,
            }
            for trial in outcome.search.trials
        ],
        "search": {
            "turns": outcome.turns,
            "is_complete": outcome.search.is_complete,
            "left_alone": list(outcome.search.left_alone),
        },
        "generator": {"throughput": _rounded(outcome.calibration.throughput), "limited_turns": outcome.limited_turns},
        "verdict": _sentence(outcome, is_default=not chosen),
        "notes": list(_notes(outcome)),
    }


def _sentence(outcome: Outcome, *, is_default: bool) -> str:
    verdict, slo = outcome.verdict, outcome.slo
    if verdict is None:
        return f"the default settings were kept and no rate was measured: nothing that was tried is better under {slo}"
    rates = f"{verdict.winner_rate:,.0f} instead of {verdict.default_rate:,.0f} requests per second under {slo}"
    if is_default:
        return (
            f"the default settings were kept: the other settings held {rates}, a ratio of {verdict.ratio}, which does "
            "not prove them better"
        )
    return f"the tuned settings hold {rates}, a ratio of {verdict.ratio}"


def _notes(outcome: Outcome) -> Iterator[str]:
    search, noise = outcome.search, outcome.search.noise
    if search.left_alone:
        yield (
            f"{', '.join(search.left_alone)}: not tuned, since they take less of a request's time than a change must "
            "gain"
        )
    if not search.is_complete:
        yield "the time was up before all settings were tried: give it more --minutes"
    if noise.high / noise.low > _QUIET:
        yield (
            f"the machine was not quiet: the default against itself had a ratio of {noise}; small gains cannot be "
            "detected"
        )
    if outcome.limited_turns:
        yield (
            f"the load generator may have limited {outcome.limited_turns} of {outcome.turns} turns (it was busy, or "
            f"could not send {MARGIN:g} times what was measured): the server's own gain may be larger"
        )


def _stated(tuned: TunedSettings) -> dict[str, Any]:
    stated = {name: value for name, value in asdict(tuned).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}


def _ratio(ratio: Ratio) -> dict[str, Any]:
    interval = None if ratio.pairs < 2 else [_rounded(ratio.low), _rounded(ratio.high)]
    return {"ratio": _rounded(ratio.mean), "ratio_ci95": interval, "pairs": ratio.pairs}


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")
