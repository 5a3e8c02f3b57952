"""A change of the served version that is cut off at any file is finished or undone: ensembles are of one version."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ebbtide.export import transition, versions
from ebbtide.export.errors import RepositoryError
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import ExportReport, export_repository
from ebbtide.export.transition import Goal, Transition
from ebbtide.interest import contract
from ebbtide.train.bundle import InterestBundle

CHANGE = Transition(Goal(1, (1,)), Goal(2, (1, 2)), is_decided=False)


class CutOffError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def two(
    make_bundle: Callable[..., InterestBundle], tiny_export: ExportReport, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with version 1, served, and 2, of another training."""
    out = tmp_path_factory.mktemp("transition") / "repository"
    shutil.copytree(tiny_export.folder, out)
    export_repository(make_bundle(seed=1), out, ExportOptions(top_n=20), version=2)
    return out


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


def test_files_are_of_one_version_when_a_change_was_cut_off_at_any_of_them(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    came_to_its_end = False
    while not came_to_its_end:
        folder = Path(shutil.copytree(two, tmp_path / str(len(ends)), copy_function=_link))
        came_to_its_end = change_until(folder, len(ends), monkeypatch)
        change = transition.read(folder)
        assert change is not None
        goal = transition.settle_interrupted(folder)
        assert goal == (CHANGE.after if change.is_decided else CHANGE.before)
        assert versions.served_version(folder) == goal.version
        assert {
            tuple(versions.read_model_config(folder, model.name).version_policy.specific.versions)
            for model in versions.computing_models(folder)
        } == {goal.loaded}
        ends.append(goal.version)
    models = len(list(versions.computing_models(two))), len(list(versions.ensembles(two)))
    assert len(ends) == sum(models) + 1
    assert ends == [1] * models[0] + [2] * (models[1] + 1)


def _link(source: str, target: str) -> None:
    """Configs are replaced and not written to, so that copies may share the files."""
    Path(target).hardlink_to(source)


def test_change_is_left_alone_when_it_is_under_way(two: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two, tmp_path / "repository"))
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


def test_damaged_journal_is_named_when_it_is_read(two: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two, tmp_path / "repository"))
    (folder / contract.JOURNAL_FILE).write_text("{")
    with pytest.raises(RepositoryError, match=r"deployment\.json: got .*: delete it"):
        transition.read(folder)
