"""A change of the served version as a transaction: done whole, or undone whole, whatever is killed meanwhile.

What a change leads from and to stands in a journal in the folder (`ebbtide.export.transition`) before anything is
changed. A process that is killed leaves the journal, and the next one brings the files and the servers to one end of
the change. A version in shadow is a change that has stopped after its checks: its journal stays too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ebbtide.deploy.control import ModelControl, Served
from ebbtide.deploy.errors import DeployError, LoadRefusedError, OtherRepositoryError
from ebbtide.export import transition, versions
from ebbtide.export.manifest import read_manifest, read_models
from ebbtide.export.transition import Goal, Transition
from ebbtide.interest import served_models


@dataclass(frozen=True)
class Recovered:
    """A change that was cut off, and has been finished or undone."""

    version: int
    """That answers now."""
    other: int
    """At the other end of the change."""
    is_rolled_back: bool
    """Whether a deployment was undone, or a roll-back finished."""
    was_shadow: bool
    """Whether it was no accident: the other version was left in shadow."""


class Begun:
    """A change under way."""

    def __init__(self, repository: Path, change: Transition) -> None:
        self._repository, self._change = repository, change
        self.is_open = False
        """Whether the change stays under way after its block."""

    def stay_in_shadow(self) -> None:
        """Leaves the new version loaded while the old one answers; the next command ends the change."""
        transition.write(self._repository, replace(self._change, is_shadow=True))
        self.is_open = True

    def decide(self) -> None:
        """From now on the change is finished if it is cut off; it still is undone if it fails."""
        transition.write(self._repository, replace(self._change, is_decided=True))


@contextlib.contextmanager
def transaction(servers: Sequence[ModelControl], repository: Path, change: Transition) -> Iterator[Begun]:
    """Notes a change before the block makes it, and undoes it if the block fails.

    Raises:
        DeployError: It failed, and could not be undone either; the next command does it.
    """
    transition.write(repository, change)
    begun = Begun(repository, change)
    try:
        yield begun
    except BaseException as error:
        try:
            transition.write(repository, replace(change, is_decided=False))
            _bring(servers, repository, change.before)
            transition.end(repository)
        except Exception as second:
            raise DeployError(
                f"{error}; and putting it back failed too: {second}. The next `ebbtide deploy` does it first, and the "
                "next `ebbtide serve` for the folder"
            ) from error
        raise
    if not begun.is_open:
        transition.end(repository)


def shadow_of(repository: Path) -> Transition | None:
    """The deployment that left its version in shadow; None for none.

    Raises:
        RepositoryError: The journal is damaged.
    """
    change = transition.read(repository)
    return change if change is not None and change.is_shadow else None


def recover(servers: Sequence[ModelControl], repository: Path, *, rolls_back: bool = False) -> Recovered | None:
    """Finishes or undoes a change that was cut off.

    Args:
        servers: All that read the folder.
        repository: The folder.
        rolls_back: Undoes a deployment even where it had passed its checks.

    Returns:
        What was done; None if no change was cut off.

    Raises:
        DeployError: A server refused it; the journal stays.
        ExportError: The journal or a version is damaged or missing.
    """
    change = transition.read(repository)
    if change is None:
        return None
    goal = change.before if rolls_back and not change.is_roll_back else change.goal
    _bring(servers, repository, goal)
    # Otherwise the servers given are others than those of the change.
    require_same(servers, repository)
    transition.end(repository)
    other = change.before if goal == change.after else change.after
    is_rolled_back = (goal == change.after) == change.is_roll_back
    return Recovered(goal.version, other.version, is_rolled_back, change.is_shadow)


def require_same(servers: Sequence[ModelControl], repository: Path) -> Served:
    """What the servers answer with, which must be what the folder says.

    Raises:
        OtherRepositoryError: It is not.
        ModelControlError: A server does not let models be loaded.
    """
    version = versions.ensemble_versions(repository)[served_models.RECOMMEND.name]
    expected = Served(version, versions.version_fingerprint(repository, version))
    for server in servers:
        served = server.served()
        if served != expected:
            raise OtherRepositoryError(
                f"{server.address}: got a server that answers with version {served.version} ({served.fingerprint}); "
                f"expected version {expected.version} ({expected.fingerprint}) as in {repository}: give the folder "
                "that this server reads, and all servers that read it, or restart it"
            )
        # Before anything is written.
        server.require_control()
    return expected


def load_versions(servers: Sequence[ModelControl], repository: Path, chosen: Iterable[int]) -> None:
    """Loads versions of the models that compute, and unloads all others; files first."""
    versions.load_only(repository, chosen)
    load_models(servers, repository)


def load_models(servers: Sequence[ModelControl], repository: Path) -> None:
    """Loads all models as the folder says."""
    models = read_models(repository)
    of_ensembles = {step for model in models.values() for step in model.steps}
    configs = {name: versions.read_model_config(repository, name) for name in models}
    for server in servers:
        with contextlib.suppress(LoadRefusedError):
            server.load_together([config for name, config in configs.items() if name not in of_ensembles])
        server.require_loaded(list(configs.values()))


def park_candidates(servers: Sequence[ModelControl], repository: Path, version: int) -> None:
    """Points the candidate ensembles that are loaded at a version that stays loaded.

    They are not unloaded: of 100 unloads of an ensemble whose models stay, one ended tritonserver 2.51 (signal 11, in
    its graph of dependencies). Loading one anew never did.
    """
    parked = Served(version, versions.version_fingerprint(repository, version))
    for server in servers:
        for model in versions.ensembles(repository):
            name = candidate_of(model.name)
            if server.is_ready(name) and server.served(name) != parked:
                load_candidate(server, repository, model.name, version, parked.fingerprint)


def candidate_of(ensemble: str) -> str:
    """The name under which a version that is not in service has an ensemble; no client asks for it."""
    return f"{ensemble}{served_models.CANDIDATE_SUFFIX}"


def load_candidate(server: ModelControl, repository: Path, name: str, version: int, fingerprint: str) -> str:
    """Loads an ensemble of a version as candidate; its name."""
    config = versions.read_model_config(repository, name)
    config.name = candidate_of(name)
    versions.pin(config, version, fingerprint)
    server.load_ensemble(config)
    return str(config.name)


@contextlib.contextmanager
def alone(repository: Path) -> Iterator[None]:
    """Keeps a second deployment of the same folder out.

    Raises:
        DeployError: One is under way.
        RepositoryError: It is no export.
    """
    read_manifest(repository)
    with transition.locked(repository) as is_alone:
        if not is_alone:
            raise DeployError(f"{repository}: got a deployment under way; expected none: wait for its end")
        yield


def _bring(servers: Sequence[ModelControl], repository: Path, goal: Goal) -> None:
    """Brings the files, and then the servers, to a goal from wherever they are; no request fails."""
    transition.settle(repository, goal)
    names = [model.name for model in versions.ensembles(repository)]
    answering = {server.served(name).version for server in servers for name in names}
    # What answers now stays loaded until all ensembles are at the goal.
    together = {*goal.loaded, *answering}
    park_candidates(servers, repository, min(answering))
    load_versions(servers, repository, together)
    if answering != {goal.version}:
        load_models(servers, repository)
    park_candidates(servers, repository, goal.version)
    if together != set(goal.loaded):
        load_versions(servers, repository, goal.loaded)
