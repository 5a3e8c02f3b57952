"""What is tried: instances and threads of each model that the ensembles of a workload run.

The grid holds powers of two only: settings between them differ by less than a machine's noise. Queue delays and
preferred batch sizes are left out: none that was measured was better than the default.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ebbtide.export import versions
from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.interest.contract import Limits
from ebbtide.loadtest import stated_limits
from ebbtide.tune.errors import TuneError

Settings = tuple[TunedSettings, ...]
"""One for each model that is tuned, with all its settings, always in the same order."""

_LEAST_INSTANCES = 4
"""Instances that are tried on small machines too: one may compute while others read and write."""
_MOST_THREADS_PER_CORE = 2


def read_settings(repository: Path, ensembles: Iterable[str]) -> Settings:
    """The settings of all models that the ensembles run, as their ``config.pbtxt`` files say.

    Args:
        repository: An exported repository.
        ensembles: Names of the models that are called.

    Raises:
        TuneError: A model runs on a GPU, or has several instance groups.
        RepositoryError: A config is missing or damaged.
    """
    steps = [
        step.model_name
        for ensemble in ensembles
        for step in versions.read_model_config(repository, ensemble).ensemble_scheduling.step
    ]
    found = []
    for name in dict.fromkeys(steps):
        config = versions.read_model_config(repository, name)
        groups = config.instance_group
        if len(groups) != 1 or groups[0].kind != groups[0].KIND_CPU:
            kinds = [group.Kind.Name(group.kind) for group in groups]
            raise TuneError(
                f"{repository / name}: got instance groups {kinds}; expected one of KIND_CPU: export with "
                "--machine cpu. On GPUs use NVIDIA's model_analyzer"
            )
        found.append(TunedSettings.read(config))
    return tuple(found)


def read_limits(repository: Path, ensembles: Iterable[str]) -> Limits:
    """The bounds on one request that an export states, for `ebbtide.loadtest.build_workload`.

    Raises:
        RepositoryError: A config is missing or damaged.
    """
    return stated_limits(versions.read_model_config(repository, name) for name in ensembles)


def candidates(own: TunedSettings, cores: int) -> list[TunedSettings]:
    """Other instances and threads of one model to try, the simplest first: what takes less of the machine.

    Args:
        own: Its settings now.
        cores: Of this machine.
    """
    most = max(_LEAST_INSTANCES, _MOST_THREADS_PER_CORE * cores)
    found = [
        TunedSettings(own.model, instances, threads)
        for instances in _doubling(max(_LEAST_INSTANCES, cores))
        for threads in ([None] if own.threads is None else _doubling(cores))
        if instances * (threads or 1) <= most and (instances, threads) != (own.instances, own.threads)
    ]
    return sorted(found, key=_simplicity)


def changed(settings: Settings, change: TunedSettings) -> Settings:
    """The settings with other instances and threads of one model."""
    return tuple(
        replace(one, instances=change.instances, threads=change.threads) if one.model == change.model else one
        for one in settings
    )


def changes(start: Settings, settings: Settings) -> Settings:
    """What differs from the start: each model with those of its settings that do."""
    found = []
    for before, after in zip(start, settings, strict=True):
        differing = {
            name: getattr(after, name)
            for name in ("instances", "threads")
            if getattr(after, name) != getattr(before, name)
        }
        if differing:
            found.append(TunedSettings(after.model, **differing))
    return tuple(found)


def _simplicity(value: TunedSettings) -> tuple[int, int]:
    instances = value.instances or 1
    return instances * (value.threads or 1), instances


def _doubling(largest: int) -> list[int]:
    return [2**power for power in range(largest.bit_length())]
