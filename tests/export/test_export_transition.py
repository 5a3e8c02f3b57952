"""A change of the served version that is cut off at any file is finished or undone: ensembles are of one version."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ebbtide.export import transition, versions
from ebbtide.export.errors import RepositoryError
from ebbtide.export.transition import Goal, Transition
from ebbtide.interest import contract

CHANGE = Transition(Goal(1, (1,)), Goal(2, (1, 2)), is_decided=False)


class CutOffError(Exception):
    """Stands for the end of the process."""


def change_until(folder: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The files' part of a deployment, cut off before a further config is written; whether it came to its end."""
    left = writes
    plain = versions.write_text

    def write(path: Path, text: str) -> None:
        nonlocal left
        if left == 0:
            raise CutOffError
        left -= 1
        plain(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(versions, "write_text", write)
        transition.write(folder, CHANGE)
        try:
            versions.load_only(folder, CHANGE.after.loaded)
            transition.write(folder, replace(CHANGE, is_decided=True))
            versions.serve(folder, CHANGE.after.version)
        except CutOffError:
            return False
    return True


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_files_are_of_one_version_when_a_change_was_cut_off_at_any_of_them(
    two_versions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    loads = len(list(versions.computing_models(two_versions)))
    writes = loads + len(list(versions.ensembles(two_versions)))
    for until in sorted({*range(0, writes, every), loads - 1, loads, writes - 1, writes}):
        folder = Path(shutil.copytree(two_versions, tmp_path / str(until), copy_function=_link))
        assert change_until(folder, until, monkeypatch) == (until == writes)
        change = transition.read(folder)
        assert change is not None
        assert change.is_decided == (until >= loads)
        goal = transition.settle_interrupted(folder)
        assert goal == (CHANGE.after if change.is_decided else CHANGE.before)
        assert versions.served_version(folder) == goal.version
        assert {
            tuple(versions.read_model_config(folder, model.name).version_policy.specific.versions)
            for model in versions.computing_models(folder)
        } == {goal.loaded}


def _link(source: str, target: str) -> None:
    """Configs are replaced and not written to, so that copies may share the files."""
    Path(target).hardlink_to(source)


def test_change_is_left_alone_when_it_is_under_way(two_versions: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two_versions, tmp_path / "repository"))
    assert transition.settle_interrupted(folder) is None
    transition.write(folder, replace(CHANGE, is_decided=True))
    with transition.locked(folder) as is_alone:
        assert is_alone
        assert transition.settle_interrupted(folder) is None
    assert versions.served_version(folder) == 1
    assert transition.settle_interrupted(folder) == CHANGE.after
    # Other servers may still answer with the version from before: the next deployment reads it.
    assert transition.read(folder) == replace(CHANGE, is_decided=True)
    assert not list(folder.rglob("*.partial"))


def test_damaged_journal_is_named_when_it_is_read(two_versions: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two_versions, tmp_path / "repository"))
    (folder / contract.JOURNAL_FILE).write_text("{")
    with pytest.raises(RepositoryError, match=r"deployment\.json: got .*: delete it"):
        transition.read(folder)
