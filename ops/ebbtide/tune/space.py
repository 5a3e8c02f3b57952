"""What is searched: for each model that the asked ensembles run, where it runs and how it batches.

The grids are coarse on purpose. Neighbours on a fine grid differ by less than a machine's noise, so that a finer search
takes longer and names another winner each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ebbtide.export import versions
from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.interest.contract import Limits
from ebbtide.loadtest import stated_limits
from ebbtide.tune.errors import TuneError

Settings = tuple[TunedSettings, ...]
"""One for each model that is tuned, complete, always in the same order."""

_DELAYS_US = (0, 500, 2_000)
_PREFERRED = (8, 32)
_LEAST_INSTANCES = 4
"""Instances that are tried on small machines too: one may compute while others read and write."""
_MOST_THREADS_PER_CORE = 2
_DELAY_SHARE = 0.25
"""Of the objective's limit: a longer wait for a batch leaves too little of it for the work."""


@dataclass(frozen=True)
class Coordinate:
    """One choice for one model, and its values."""

    model: str
    choice: str
    """``placement`` (instances and threads) or ``batching`` (queue delay and preferred sizes)."""
    values: tuple[TunedSettings, ...]
    """Simplest first; each states this choice and leaves the other."""

    def value(self, settings: Settings) -> TunedSettings:
        """Its value in some settings."""
        return _only(self.choice, _of(settings, self.model))

    def applied(self, settings: Settings, value: TunedSettings) -> Settings:
        """The settings with this value instead of theirs."""
        return tuple(_merged(one, value) if one.model == self.model else one for one in settings)


@dataclass(frozen=True)
class Space:
    """Where the search begins, and what it may change."""

    start: Settings
    """As the configs say."""
    coordinates: tuple[Coordinate, ...]


def read_space(repository: Path, ensembles: Iterable[str], *, cores: int, limit_ms: float) -> Space:
    """The settings of all models that the ensembles run, and what to try.

    Args:
        repository: An exported repository; its ``config.pbtxt`` files are the start.
        ensembles: Names of the models that are called.
        cores: Of this machine.
        limit_ms: The tightest limit of the objective.

    Raises:
        TuneError: A model runs on a GPU, or has several instance groups.
        RepositoryError: A config is missing or damaged.
    """
    names: dict[str, None] = {}
    for ensemble in ensembles:
        for step in versions.read_model_config(repository, ensemble).ensemble_scheduling.step:
            names[step.model_name] = None
    start, placements, batchings = [], [], []
    for name in names:
        config = versions.read_model_config(repository, name)
        groups = config.instance_group
        if len(groups) != 1 or groups[0].kind != groups[0].KIND_CPU:
            kinds = [group.Kind.Name(group.kind) for group in groups]
            raise TuneError(
                f"{repository / name}: got instance groups {kinds}; expected one of KIND_CPU: export with "
                "--target cpu. On GPUs use NVIDIA's model_analyzer"
            )
        own = TunedSettings.read(config)
        start.append(own)
        placements.append(Coordinate(name, "placement", _placements(own, cores)))
        if own.queue_delay_us is not None:
            sizes = [size for size in _PREFERRED if size < config.max_batch_size]
            delays_us = [delay for delay in _DELAYS_US if delay <= _DELAY_SHARE * 1_000 * limit_ms]
            batchings.append(Coordinate(name, "batching", _batchings(own, delays_us, sizes)))
    # Instances first: what a batch gains depends on how many take from the queue.
    return Space(tuple(start), (*placements, *batchings))


def read_limits(repository: Path, ensembles: Iterable[str]) -> Limits:
    """The bounds on one request that an export states, for `ebbtide.loadtest.build_workload`.

    Raises:
        RepositoryError: A config is missing or damaged.
    """
    return stated_limits(versions.read_model_config(repository, name) for name in ensembles)


def changes(start: Settings, settings: Settings) -> Settings:
    """What differs from the start, each model with those of its settings that do."""
    found = []
    for before, after in zip(start, settings, strict=True):
        fields = ("instances", "threads", "queue_delay_us", "preferred_batch_sizes")
        changed = {field: getattr(after, field) for field in fields if getattr(after, field) != getattr(before, field)}
        if changed:
            found.append(TunedSettings(after.model, **changed))
    return tuple(found)


def simplicity(value: TunedSettings) -> tuple[int, ...]:
    """Sorts values: what takes less of the machine, or asks for less, comes first."""
    instances, threads, delay_us = value.instances or 0, value.threads or 0, value.queue_delay_us or 0
    sizes = value.preferred_batch_sizes or ()
    return (instances * max(threads, 1), instances, delay_us, len(sizes), *(-size for size in sizes))


def _placements(own: TunedSettings, cores: int) -> tuple[TunedSettings, ...]:
    found = {_only("placement", own)}
    for instances in _doubling(max(_LEAST_INSTANCES, cores)):
        for threads in (None,) if own.threads is None else _doubling(cores):
            if instances * (threads or 1) <= max(_LEAST_INSTANCES, _MOST_THREADS_PER_CORE * cores):
                found.add(TunedSettings(own.model, instances, threads))
    return tuple(sorted(found, key=simplicity))


def _batchings(own: TunedSettings, delays_us: Sequence[int], sizes: Sequence[int]) -> tuple[TunedSettings, ...]:
    found = {_only("batching", own)}
    for delay_us in delays_us:
        for preferred in ((), *((size,) for size in sizes)):
            found.add(TunedSettings(own.model, queue_delay_us=delay_us, preferred_batch_sizes=preferred))
    return tuple(sorted(found, key=simplicity))


def _doubling(largest: int) -> list[int]:
    found = [1]
    while 2 * found[-1] <= largest:
        found.append(2 * found[-1])
    return found


def _of(settings: Settings, model: str) -> TunedSettings:
    return next(one for one in settings if one.model == model)


def _only(choice: str, tuning: TunedSettings) -> TunedSettings:
    if choice == "placement":
        return replace(tuning, queue_delay_us=None, preferred_batch_sizes=None)
    return replace(tuning, instances=None, threads=None)


def _merged(tuning: TunedSettings, value: TunedSettings) -> TunedSettings:
    stated = {
        field: getattr(value, field)
        for field in ("instances", "threads", "queue_delay_us", "preferred_batch_sizes")
        if getattr(value, field) is not None
    }
    return replace(tuning, **stated)
