"""The arithmetic of a plan: each step is a line that a reader can check by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ebbtide.capacity.errors import CapacityError

_DAY_S = 86_400
_FLOAT_BYTES = 4
_MIB = 2**20


@dataclass(frozen=True)
class Demand:
    """The load to plan for, and the reserves."""

    users_per_day: int
    requests_per_user: float = 10.0
    """Per day."""
    peak_factor: float = 3.0
    """Rate of the busiest minutes over the mean of the day."""
    utilisation: float = 0.7
    """Share of a replica's rate to plan with: queues grow fast near the full rate, and a replica starts in minutes."""
    zones: int = 3
    """Availability zones; the plan survives the loss of one at peak. 1: one spare replica."""

    def __post_init__(self) -> None:
        for one in ("users_per_day", "requests_per_user", "peak_factor", "zones"):
            least = 0 if one == "requests_per_user" else 1
            value = getattr(self, one)
            if not math.isfinite(value) or value < least or not value:
                raise CapacityError.of_field(one, value, f"at least {least}" if least else "a number above 0")
        if not 0 < self.utilisation <= 1:
            raise CapacityError.of_field("utilisation", self.utilisation, "a share above 0, at most 1")


@dataclass(frozen=True)
class Memory:
    """The parts of a replica's memory."""

    base_mib: float
    """Triton, its processes and libraries, without the catalog."""
    instance_mib: float
    """Of each instance of a Python model, without the catalog's table, which the instances share."""
    items: int
    """Items in the catalog."""
    columns: int
    """Floats in an item's factors: d + p."""
    instances: int = 1
    """Instances of the Python models that a request runs through."""
    head_instances: int = 1
    """Instances of the scoring head; each holds its own copy of the factors."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or value < 0:
                raise CapacityError.of_field(field.name, value, "at least 0")

    @property
    def table_mib(self) -> float:
        """The factors of the catalog, once."""
        return self.items * self.columns * _FLOAT_BYTES / _MIB

    @property
    def total_mib(self) -> float:
        """Of one replica."""
        return self.base_mib + self.table_mib * (1 + self.head_instances) + self.instances * self.instance_mib


@dataclass(frozen=True)
class Replica:
    """One server, as it was measured."""

    rate_per_s: float
    """The highest rate at which it holds the objective."""
    cores: float
    memory: Memory | None = None
    """None leaves memory out of the plan."""

    def __post_init__(self) -> None:
        for name in ("rate_per_s", "cores"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise CapacityError.of_field(name, value, "a number above 0")


@dataclass(frozen=True)
class Line:
    """One step."""

    name: str
    arithmetic: str
    """With its numbers."""
    value: float
    unit: str

    @property
    def shown(self) -> str:
        """The value with its unit, as further steps write it."""
        return f"{_shown(self.value)} {self.unit.removesuffix('s') if self.value == 1 else self.unit}"


@dataclass(frozen=True)
class Plan:
    """Replicas, cores and memory, with the steps that lead to them."""

    demand: Demand
    replicas: int
    cores: float
    memory_mib: float | None
    """Of all replicas."""
    lines: tuple[Line, ...]


def plan(demand: Demand, replica: Replica) -> Plan:
    """Plans for a demand with replicas as measured."""
    lines: list[Line] = []

    def step(name: str, arithmetic: str, value: float, unit: str) -> float:
        lines.append(Line(name, arithmetic, value, unit))
        return value

    daily = step(
        "requests per day",
        f"{demand.users_per_day:,} users × {_shown(demand.requests_per_user)}",
        demand.users_per_day * demand.requests_per_user,
        "requests",
    )
    mean = step("mean rate", f"{_shown(daily)} ÷ {_DAY_S:,} s", daily / _DAY_S, "requests/s")
    peak = step("peak rate", f"{_shown(mean)} × {_shown(demand.peak_factor)}", mean * demand.peak_factor, "requests/s")
    usable = step(
        "usable rate of a replica",
        f"{_shown(replica.rate_per_s)} × {_shown(demand.utilisation)}",
        replica.rate_per_s * demand.utilisation,
        "requests/s",
    )
    needed = int(
        step("replicas for the peak", f"⌈{_shown(peak)} ÷ {_shown(usable)}⌉", math.ceil(peak / usable), "replicas")
    )
    if demand.zones == 1:
        replicas = int(step("replicas with one spare", f"{needed:,} + 1", needed + 1, "replicas"))
    else:
        left = demand.zones - 1
        each = int(
            step("replicas per zone, one zone lost", f"⌈{needed:,} ÷ {left}⌉", math.ceil(needed / left), "replicas")
        )
        replicas = int(step("replicas", f"{each:,} × {demand.zones} zones", each * demand.zones, "replicas"))
    cores = step("cores", f"{replicas:,} × {_shown(replica.cores)}", replicas * replica.cores, "cores")
    memory_mib = None
    if (memory := replica.memory) is not None:
        table = step(
            "factors of the catalog",
            f"{memory.items:,} items × {memory.columns} columns × {_FLOAT_BYTES} bytes",
            memory.table_mib,
            "MiB",
        )
        one = step(
            "memory of a replica",
            f"{_shown(memory.base_mib)} + {_shown(table)} × (1 + {memory.head_instances}) + {memory.instances} × "
            f"{_shown(memory.instance_mib)}",
            memory.total_mib,
            "MiB",
        )
        memory_mib = step("total memory", f"{replicas:,} × {_shown(one)}", replicas * one, "MiB")
    return Plan(demand, replicas, cores, memory_mib, tuple(lines))


def _shown(number: float) -> str:
    """Whole numbers in full, others with three digits that count."""
    if number == int(number) or number >= 1_000:
        return f"{number:,.0f}"
    return f"{number:.3g}"
