"""Brings a version of an exported repository into service on a running Triton, with no request failed, and back.

The models that compute are loaded beside those of the version that answers; candidate ensembles, which no client knows,
show how the new version answers; then the ensembles are loaded anew with their steps pinned to it. Requests under way
end with the version they began with. Files first, then the server: one that restarts at any moment serves what the
files say.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.deploy.answers import Comparison, compare_answers
from ebbtide.deploy.control import ModelControl, Served
from ebbtide.deploy.errors import CandidateError, DeployError, OtherRepositoryError
from ebbtide.export import versions
from ebbtide.interest import contract
from ebbtide.interest.contract import Kind
from ebbtide.v1 import RecommendRequest

ENSEMBLES = tuple(name for name, model in contract.MODELS.items() if model.kind is Kind.ENSEMBLE)
COMPUTING = tuple(name for name in contract.MODELS if name not in ENSEMBLES)
_CANDIDATE_SUFFIX = "_candidate"

Check = Callable[[dict[str, str]], None]


@dataclass(frozen=True)
class Deployment:
    """What a deployment or a roll-back did."""

    version: int
    """That answers now."""
    previous: int
    """That answered before."""
    fingerprint: str
    comparison: Comparison | None
    """Of the answers before and after; None for a roll-back."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part took."""


def deploy(
    repository: Path,
    address: str,
    version: int | None = None,
    *,
    requests: Sequence[RecommendRequest] = (),
    check: Check = lambda _candidates: None,
    min_overlap: float = 0.0,
    keep_previous: bool = True,
    report: Callable[[str], None] = lambda _part: None,
) -> Deployment:
    """Brings a version into service.

    Args:
        repository: The folder that the server reads, here or on a disk that both see.
        address: The server's host and gRPC port.
        version: None takes the newest in the folder.
        requests: Asked of both versions before the switch.
        check: Called with the names of the candidate ensembles; what it raises ends the deployment.
        min_overlap: Share of the first ten items, mean over the requests, that both versions must name.
        keep_previous: Whether the version before stays loaded, so that a roll-back takes no time.
        report: Called with the name of each part as it begins.

    Raises:
        DeployError: The old version goes on answering; the message says what to do.
        ExportError: The folder is no sound export, or has no such version.
    """
    parts = _Parts(report)
    with _alone(repository), ModelControl(address) as control:
        current = _require_same(control, repository)
        target = max(versions.available_versions(repository)) if version is None else version
        versions.require_versions(repository, [target])
        if {target} == set(versions.ensemble_versions(repository).values()):
            raise DeployError(
                f"version {target}: got the one that answers already; expected another of "
                f"{list(versions.available_versions(repository))}: write one with `ebbtide export --version`"
            )
        before = versions.loaded_versions(repository)
        with _undone(lambda: _load(control, repository, before)):
            with parts("load"):
                _load(control, repository, {current.version, target})
            with _candidates(control, repository, target) as candidates, parts("check"):
                check(candidates)
                comparison = compare_answers(control, requests, candidates, time.time_ns() // 1_000_000)
                _require_alike(comparison, min_overlap)
            with parts("switch"), _undone(lambda: _switch(control, repository, current.version)):
                _switch(control, repository, target)
        if not keep_previous:
            with parts("unload"):
                _load(control, repository, {target})
        return Deployment(target, current.version, control.served().fingerprint, comparison, parts.seconds)


def roll_back(repository: Path, address: str, *, report: Callable[[str], None] = lambda _part: None) -> Deployment:
    """Brings the version back that answered before; it is still loaded, so this takes no time.

    Raises:
        DeployError: No other version is loaded.
        ExportError: The folder is no sound export.
    """
    parts = _Parts(report)
    with _alone(repository), ModelControl(address) as control:
        current = _require_same(control, repository)
        others = [other for other in versions.loaded_versions(repository) if other != current.version]
        if len(others) != 1:
            raise DeployError(
                f"roll-back: got {others or 'no version'} loaded beside {current.version}; expected one: name it with "
                "`ebbtide deploy --version`"
            )
        with parts("switch"), _undone(lambda: _switch(control, repository, current.version)):
            _switch(control, repository, others[0])
        return Deployment(others[0], current.version, control.served().fingerprint, None, parts.seconds)


def _load(control: ModelControl, repository: Path, chosen: Sequence[int] | set[int]) -> None:
    versions.load_only(repository, chosen)
    for name in COMPUTING:
        control.load(name)


def _switch(control: ModelControl, repository: Path, version: int) -> None:
    versions.serve(repository, version)
    for name in ENSEMBLES:
        control.load(name)


@contextlib.contextmanager
def _candidates(control: ModelControl, repository: Path, version: int) -> Iterator[dict[str, str]]:
    """Ensembles of the new version under names that no client asks for, while the context lasts."""
    fingerprint = versions.version_fingerprint(repository, version)
    names = {name: f"{name}{_CANDIDATE_SUFFIX}" for name in ENSEMBLES}
    loaded: list[str] = []
    try:
        for name, candidate in names.items():
            config = versions.read_model_config(repository, name)
            config.name = candidate
            versions.pin(config, version, fingerprint)
            control.load_ensemble(config)
            loaded.append(candidate)
        yield names
    finally:
        for candidate in loaded:
            control.unload(candidate)


def _require_same(control: ModelControl, repository: Path) -> Served:
    """What the server answers with, which must be what the folder says.

    Raises:
        OtherRepositoryError: It is not.
        ModelControlError: The server does not let models be loaded.
    """
    served = control.served()
    # Of this one ensemble: where a deployment was cut off, the next one brings the others along.
    version = versions.ensemble_versions(repository)[contract.RECOMMEND.name]
    expected = Served(version, versions.version_fingerprint(repository, version))
    if served != expected:
        raise OtherRepositoryError(
            f"{control.address}: got a server that answers with version {served.version} ({served.fingerprint}); "
            f"expected version {expected.version} ({expected.fingerprint}) as in {repository}: give the folder that "
            "this server reads, or restart it"
        )
    # It is loaded as it is: this changes nothing, and fails, before anything is written, where models can't be loaded.
    control.load(contract.RECOMMEND.name)
    return served


def _require_alike(comparison: Comparison, min_overlap: float) -> None:
    if comparison.newly_refused:
        raise CandidateError(
            f"check: got {len(comparison.newly_refused)} of {comparison.requests} requests refused that the version in "
            f"service answers; expected none. The first: {comparison.newly_refused[0]}"
        )
    if comparison.mean_overlap_at_10 < min_overlap:
        raise CandidateError(
            f"check: got a mean overlap of {comparison.mean_overlap_at_10:.2f} between the first ten items of both "
            f"versions; expected at least {min_overlap:.2f}: look at the new version, or lower --min-overlap"
        )


@contextlib.contextmanager
def _undone(undo: Callable[[], None]) -> Iterator[None]:
    """Undoes what was begun when it fails; what the undoing says comes second."""
    try:
        yield
    except BaseException as error:
        try:
            undo()
        except Exception as second:
            raise DeployError(f"{error}; and putting it back failed too: {second}") from error
        raise


@contextlib.contextmanager
def _alone(repository: Path) -> Iterator[None]:
    """Keeps a second deployment of the same folder out.

    Raises:
        DeployError: One is under way.
    """
    handle = os.open(repository, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DeployError(f"{repository}: got a deployment under way; expected none: wait for its end") from None
        yield
    finally:
        os.close(handle)


class _Parts:
    """Tells of each part as it begins, and notes how long it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._report(name)
        began = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - began
