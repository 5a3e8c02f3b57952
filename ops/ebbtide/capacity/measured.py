"""What a replica does, read from results: of `ebbtide loadtest`, `ebbtide tune` or the serving benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbtide.capacity.errors import CapacityError
from ebbtide.capacity.plan import Memory

_KINDS = "what `ebbtide loadtest --json`, `ebbtide tune --out` or `make bench-serving` writes"


@dataclass(frozen=True)
class Measured:
    """One measured rate, and what it is."""

    rate_per_s: float
    cores: int
    what: str
    """In words, for a reader of the plan."""
    is_under_objective: bool
    """Whether a latency was held at it; a closed loop's throughput says nothing of that."""


def read_measured(path: Path) -> Measured:
    """The rate of one replica.

    Raises:
        CapacityError: The file cannot be read, is something else, or has no rate in it.
    """
    content = _read(path)
    try:
        if "ebbtide_loadtest" in content:
            return _of_loadtest(path, content)
        if "ebbtide_tune" in content:
            return _of_tune(path, content)
        if "recommend" in content:
            return _of_serving(content)
    except (KeyError, TypeError) as error:
        raise CapacityError(f"{path}: got no {error}; expected {_KINDS}") from error
    raise CapacityError(f"{path}: got a file with {', '.join(list(content)[:3]) or 'nothing'}; expected {_KINDS}")


def read_memory(path: Path) -> Memory:
    """What a replica's memory is made of, from the serving benchmark's two numbers of instances.

    Raises:
        CapacityError: The file cannot be read, or memory was not measured.
    """
    content = _read(path)
    try:
        memory = content["memory"]
        few, many = (str(count) for count in sorted(memory["instances"]))
        used = {count: float(memory["recommend"][count]["pss_mib"]) for count in (few, many)}
        table_mib, items = float(memory["table_mib"]), int(memory["items"])
    except (KeyError, TypeError, ValueError) as error:
        raise CapacityError(f"{path}: got {error!r}; expected the memory part of `make bench-serving`") from error
    instance_mib = max(0.0, (used[many] - used[few]) / (int(many) - int(few)))
    # One table for all Python models, which map one file, and one in the scoring head.
    base_mib = max(0.0, used[few] - int(few) * instance_mib - 2 * table_mib)
    return Memory(base_mib, instance_mib, items, round(table_mib * 2**20 / 4 / items))


def _of_loadtest(path: Path, content: Mapping[str, Any]) -> Measured:
    cores = int(content["machine"]["cores"])
    search = content["search"]
    if search is not None:
        rate = search["highest_rate_held"]
        if rate is None:
            raise CapacityError(f"{path}: search.highest_rate_held: got none; expected a rate that holds the objective")
        return Measured(float(rate), cores, f"the highest rate that holds {content['slo']['text']}", True)
    slo = content["slo"]
    if slo is not None and not slo["held"]:
        raise CapacityError(f"{path}: slo.held: got a run that broke {slo['text']}; expected one that held it")
    held = "" if slo is None else f", which held {slo['text']}"
    return Measured(float(content["throughput"]), cores, f"a load of {content['headline']}{held}", slo is not None)


def _of_tune(path: Path, content: Mapping[str, Any]) -> Measured:
    won = "default" if content["winner"]["is_default"] else "found"
    rate = content[won]["rate_per_s"]
    if rate is None:
        raise CapacityError(
            f"{path}: {won}.rate_per_s: got none, since the default stayed and met nobody; expected a rate: use "
            "`ebbtide loadtest --find-rate`"
        )
    settings = "the tuned settings hold" if won == "found" else "the default settings hold"
    return Measured(
        float(rate), int(content["machine"]["cores"]), f"the rate at which {settings} {content['slo']}", True
    )


def _of_serving(content: Mapping[str, Any]) -> Measured:
    in_flight, figures = max(
        ((int(name.rpartition("_")[2]), one) for name, one in content["recommend"].items() if name.startswith("conc")),
        key=lambda pair: pair[0],
    )
    ours = figures["ebbtide"]
    return Measured(
        float(ours["requests_per_s"]),
        int(content["machine"]["cores"]),
        f"throughput with {in_flight} requests in flight (p99 {ours['p99_ms']:.1f} ms), a closed loop",
        False,
    )


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CapacityError(f"{path}: got {error}; expected {_KINDS}") from error
    if not isinstance(content, dict):
        raise CapacityError(f"{path}: got a {type(content).__name__}; expected {_KINDS}")
    return content
