"""The journal of a change of the served version: how a change that was cut off is finished or undone.

A deployment rewrites many configs and loads many models. The journal is written before the first of them, and removed
after the last. It lies beside the manifest, where Triton reads nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ebbtide.export import versions
from ebbtide.export.errors import RepositoryError
from ebbtide.export.files import PARTIAL_FILES, write_text
from ebbtide.export.manifest import read_models
from ebbtide.interest import contract


@dataclass(frozen=True)
class Goal:
    """What the configs say before or after a change."""

    version: int
    """The version that the ensembles answer with."""
    loaded: tuple[int, ...]
    """The versions that Triton loads of the models that compute."""


@dataclass(frozen=True)
class Transition:
    """A change under way, or one that was cut off."""

    before: Goal
    after: Goal
    is_decided: bool
    """Whether the new version has passed its checks: the change is then finished, and before that undone."""
    is_roll_back: bool = False
    is_shadow: bool = False
    """Whether the new version has passed its checks and stays loaded while the old one answers, until the next command;
    undecided."""

    @property
    def goal(self) -> Goal:
        """Where a change that was cut off leads."""
        return self.after if self.is_decided else self.before


def write(repository: Path, change: Transition) -> None:
    """Notes a change, in one step."""
    write_text(repository / contract.JOURNAL_FILE, json.dumps(asdict(change), indent=2) + "\n")


def end(repository: Path) -> None:
    """Forgets the change, if there is one."""
    (repository / contract.JOURNAL_FILE).unlink(missing_ok=True)


def read(repository: Path) -> Transition | None:
    """The change that is under way or was cut off; None for none.

    Raises:
        RepositoryError: The journal is damaged.
    """
    path = repository / contract.JOURNAL_FILE
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        return Transition(
            before=Goal(int(noted["before"]["version"]), tuple(noted["before"]["loaded"])),
            after=Goal(int(noted["after"]["version"]), tuple(noted["after"]["loaded"])),
            is_decided=bool(noted["is_decided"]),
            is_roll_back=bool(noted["is_roll_back"]),
            is_shadow=bool(noted.get("is_shadow", False)),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"{path}: got {error!r}; expected the journal of a deployment: delete it, and name the version to serve "
            "with `ebbtide deploy --version`"
        ) from error


def settle(repository: Path, goal: Goal) -> None:
    """Brings every config to a goal, from whatever state a change left them in.

    At every moment the ensembles answer with versions that are loaded.

    Raises:
        VersionError: A version of the goal is missing.
        RepositoryError: A config is missing or damaged.
    """
    for name in read_models(repository):
        for folder in (repository / name, repository / name / versions.VARIANTS_FOLDER):
            for partial in folder.glob(PARTIAL_FILES):
                partial.unlink(missing_ok=True)
    versions.load_only(repository, {*goal.loaded, *versions.ensemble_versions(repository).values()})
    versions.serve(repository, goal.version)
    versions.load_only(repository, goal.loaded)


def settle_interrupted(repository: Path) -> Goal | None:
    """Brings the configs to the goal of a change that was cut off, before a server reads them.

    The journal stays: other servers may still answer with the versions from before. `ebbtide deploy` brings them along.

    Returns:
        The goal; None if no change was cut off, or one is under way.

    Raises:
        RepositoryError: The journal, a config or a version is missing or damaged.
        VersionError: A version of the goal is missing.
    """
    if not (repository / contract.JOURNAL_FILE).is_file():
        return None
    with locked(repository) as is_alone:
        change = read(repository) if is_alone else None
        if change is None:
            return None
        settle(repository, change.goal)
        return change.goal


@contextlib.contextmanager
def locked(repository: Path) -> Iterator[bool]:
    """Whether nobody else changes the served version, for as long as the context lasts."""
    # Locks over NFS want a file that may be written.
    handle = os.open(repository / contract.MANIFEST_FILE, os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
