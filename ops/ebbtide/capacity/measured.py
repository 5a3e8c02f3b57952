"""Rate and memory of a replica, with what they hold for, from results of `loadtest`, `tune` or `make bench-serving`."""

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
class Machine:
    """The machine that a figure was measured on."""

    processor: str
    cores: int
    memory_gib: float

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Machine:
        """From the ``machine`` part of a result."""
        processor = facts["processor"] if "processor" in facts else facts["cpu"]
        return cls(str(processor), int(facts["cores"]), float(facts["memory_gib"]))

    def __str__(self) -> str:
        return f"{self.processor}, {self.cores} cores, {self.memory_gib:g} GiB"


@dataclass(frozen=True)
class Measured:
    """A measured rate, and what it holds for."""

    rate_per_s: float
    what: str
    """In words, for a reader of the plan."""
    mix: Mapping[str, float]
    """Share of each endpoint in the requests that were sent."""
    machine: Machine | None
    """The server's; None if the load test ran on another machine than the server, which it cannot describe."""
    is_under_objective: bool
    """Whether the rate held an objective; the throughput of a closed loop says nothing of latency."""
    notes: tuple[str, ...] = ()
    """What a reader must know."""

    @property
    def endpoints(self) -> str:
        """The mix in words."""
        if len(self.mix) == 1:
            return next(iter(self.mix))
        return ", ".join(f"{100 * share:.0f} % {name}" for name, share in self.mix.items())


@dataclass(frozen=True)
class MeasuredMemory:
    """The measured memory of a replica, and what it holds for."""

    memory: Memory
    endpoints: tuple[str, ...]
    """Endpoints that the measured server had loaded."""
    machine: Machine
    notes: tuple[str, ...] = ()


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
    except (KeyError, TypeError, ValueError) as error:
        raise CapacityError(f"{path}: got no {error}; expected {_KINDS}") from error
    raise CapacityError(f"{path}: got a file with {', '.join(list(content)[:3]) or 'nothing'}; expected {_KINDS}")


def read_memory(path: Path) -> MeasuredMemory:
    """The parts of a replica's memory, from the serving benchmark's two numbers of instances.

    Raises:
        CapacityError: The file cannot be read, or memory was not measured.
    """
    content = _read(path)
    try:
        memory = content["memory"]
        few, many = (str(count) for count in sorted(memory["instances"]))
        used = {count: float(memory["recommend"][count]["pss_mib"]) for count in (few, many)}
        table_mib, items = float(memory["table_mib"]), int(memory["items"])
        machine = Machine.of(content["machine"])
    except (KeyError, TypeError, ValueError) as error:
        raise CapacityError(f"{path}: got {error!r}; expected the memory part of `make bench-serving`") from error
    instance_mib = max(0.0, (used[many] - used[few]) / (int(many) - int(few)))
    # The Python models map one file, so they share one table; the scoring head holds another.
    base_mib = max(0.0, used[few] - int(few) * instance_mib - 2 * table_mib)
    split = Memory(base_mib, instance_mib, items, round(table_mib * 2**20 / 4 / items))
    return MeasuredMemory(split, ("recommend",), machine, _quick_note(content, "memory"))


def notes_of(rate: Measured, memory: MeasuredMemory | None) -> tuple[str, ...]:
    """What a reader of a plan from these figures must know.

    Raises:
        CapacityError: The memory is that of a server without the models that the rate was measured with.
    """
    notes = list(rate.notes)
    if not rate.is_under_objective:
        notes.append("the rate held no objective: plan with a lower --utilisation")
    if memory is None:
        return tuple(notes)
    missing = [name for name in rate.mix if name not in memory.endpoints]
    if missing:
        raise CapacityError(
            f"memory: got that of a server with {', '.join(memory.endpoints)}; expected one with {', '.join(rate.mix)} "
            "as well, whose rate was measured and whose models take more memory: leave --memory out, give --base-mib "
            "of such a server, or take a rate of the same endpoints"
        )
    if rate.machine != memory.machine:
        notes.append(f"rate and memory are of different machines: {rate.machine or 'unknown'}; {memory.machine}")
    return (*notes, *memory.notes)


def _of_loadtest(path: Path, content: Mapping[str, Any]) -> Measured:
    search, slo, notes = content["search"], content["slo"], list(content["notes"])
    if (limit := content["generator"]["limit"]) is not None:
        notes.append(f"the load generator may have been the limit, not the server: {limit}")
    if search is not None:
        rate = search["highest_rate_held"]
        if rate is None:
            raise CapacityError(f"{path}: search.highest_rate_held: got none; expected a rate that holds the objective")
        what = f"the highest rate that holds {slo['text']}"
    elif slo is not None and not slo["held"]:
        raise CapacityError(f"{path}: slo.held: got a run that broke {slo['text']}; expected one that held it")
    else:
        rate = content["throughput"]
        what = f"a load of {content['headline']}" + ("" if slo is None else f", which held {slo['text']}")
        if any(run["headline"] and run["model"] == "open" for run in content["runs"]):
            notes.append(
                "the rate is the load that was sent, and the server may take more, so the plan may have too many "
                'replicas: measure with `ebbtide loadtest --slo "p99<20ms" --find-rate`'
            )
    return Measured(
        float(rate),
        what,
        content["requests"]["mix"],
        Machine.of(content["machine"]) if content["server"]["is_on_this_machine"] else None,
        slo is not None,
        tuple(notes),
    )


def _of_tune(path: Path, content: Mapping[str, Any]) -> Measured:
    won = "default" if content["winner"]["is_default"] else "found"
    rate = content[won]["rate_per_s"]
    if rate is None:
        raise CapacityError(
            f"{path}: {won}.rate_per_s: got none, since the default settings were kept and no rate was measured; "
            "expected a rate: use `ebbtide loadtest --find-rate`"
        )
    settings = "the tuned settings hold" if won == "found" else "the default settings hold"
    return Measured(
        float(rate),
        f"the rate at which {settings} {content['slo']}",
        content["requests"]["mix"],
        Machine.of(content["machine"]),
        True,
        tuple(content["notes"]),
    )


def _of_serving(content: Mapping[str, Any]) -> Measured:
    in_flight, figures = max(
        ((int(name.rpartition("_")[2]), one) for name, one in content["recommend"].items() if name.startswith("conc")),
        key=lambda pair: pair[0],
    )
    ours = figures["ebbtide"]
    return Measured(
        float(ours["requests_per_s"]),
        f"throughput with {in_flight} requests in flight (p99 {ours['p99_ms']:.1f} ms), a closed loop",
        {"recommend": 1.0},
        Machine.of(content["machine"]),
        False,
        _quick_note(content, "recommend"),
    )


def _quick_note(content: Mapping[str, Any], part: str) -> tuple[str, ...]:
    is_quick = content.get("runs", {}).get(part, {}).get("quick", False)
    return (f"{part}: measured in a quick run, for a first look",) if is_quick else ()


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CapacityError(f"{path}: got {error}; expected {_KINDS}") from error
    if not isinstance(content, dict):
        raise CapacityError(f"{path}: got a {type(content).__name__}; expected {_KINDS}")
    return content
