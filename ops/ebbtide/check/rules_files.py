"""Rules about folders and files: versions, policies, model files, and what lies about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ebbtide.check import backends
from ebbtide.check.findings import Finding
from ebbtide.check.repository import Repository
from ebbtide.check.textproto import Path as FieldPath
from ebbtide.check.view import View

_SHOWN = 5
_MODEL_SUFFIXES = (".onnx", ".plan", ".pt", ".pt2", ".pbtxt", ".savedmodel", ".graphdef")


def check_repository(repository: Repository) -> Iterator[Finding]:
    """Checks what lies in the repository itself."""
    if not repository.models:
        yield Finding(
            "repository-empty", ".", 1, "", "got no folders; expected one for each model", "export a model here"
        )
    for name in repository.files:
        if name.endswith(_MODEL_SUFFIXES) or name == "model.py":
            yield Finding(
                "stray-file",
                name,
                1,
                "",
                f"got {name} beside the models' folders; expected it in one of them",
                "move it: Triton ignores it here",
            )


def is_stray(view: View) -> bool:
    """Whether a folder is none of a model, but would be loaded as one all the same."""
    written = view.source.file != view.model.name or view.model.others or view.model.versions
    return not written and view.model.name.startswith((".", "_"))


def check_stray(view: View) -> Iterator[Finding]:
    """Says that a folder is none of a model."""
    if is_stray(view):
        yield view.finding(
            "stray-folder",
            (),
            f"got the folder {view.model.name}, without a config and without a version; expected models alone",
            "remove it or move it elsewhere: Triton tries to load every folder, and by default ends when one fails",
        )


def check(view: View) -> Iterator[Finding]:
    """Checks a model's versions and the files in them."""
    yield from _names(view)
    yield from _policy(view)
    if not view.versions:
        yield from _none(view)
    elif view.serving.file and not view.is_ensemble and not view.config.cc_model_filenames:
        yield from _files(view)


def _names(view: View) -> Iterator[Finding]:
    for folder in view.model.versions:
        if folder.number is None:
            reason = "has a leading zero" if folder.name[0] == "0" else "is no number"
            yield view.file_finding(
                "version-ignored",
                folder.name,
                f"got a folder whose name {reason}; expected a version such as 1",
                "rename it; files that belong to the model as a whole lie well in a version's folder",
            )
        elif not folder.in_range:
            yield view.file_finding(
                "version-misread",
                folder.name,
                f"got {folder.name}; expected a version within 64 bits: Triton ends on this one, with all its models",
                "rename it",
            )
        elif not folder.is_plain:
            yield view.file_finding(
                "version-misread",
                folder.name,
                f"got {folder.name!r}, which Triton takes for version {folder.number}; expected digits alone",
                f"move it out of the model's folder: Triton would look into {folder.number}/",
            )
        elif folder.number == 0:
            yield view.file_finding(
                "version-zero",
                folder.name,
                "got version 0; expected 1 or more: a step of an ensemble without `model_version` asks for 0",
                "rename it to 1",
            )


def _policy(view: View) -> Iterator[Finding]:
    policy = view.config.version_policy
    if not view.config.HasField("version_policy") or not policy.HasField("specific"):
        return
    for index, version in enumerate(policy.specific.versions):
        if version not in view.versions:
            yield view.finding(
                "version-policy-absent",
                ("version_policy", "specific", "versions", index),
                f"got version {version}; expected one that is there: {_present(view)}",
                f"add {view.model.name}/{version}/, or take it out of the policy",
            )


def _none(view: View) -> Iterator[Finding]:
    present = _present(view)
    written = view.config.HasField("version_policy")
    path: FieldPath = ("version_policy",) if written else ()
    if any(folder.is_plain for folder in view.model.versions):
        message = f"got a policy that loads none of the versions there ({present}); expected at least one"
        hint = "name a version that is there, or `latest { num_versions: 1 }`"
    else:
        message = "got no folder of a version; expected at least one, such as 1/"
        hint = (
            f"add {view.model.name}/1/; Git drops it when empty: keep a .gitkeep in it"
            if view.is_ensemble
            else f"add {view.model.name}/1/ with the model in it"
        )
    yield view.finding("version-missing", path, message, hint)


def _files(view: View) -> Iterator[Finding]:
    for version in view.versions:
        folder = view.model.path / str(version)
        path = view.model_file(version)
        # A folder of another name is told already.
        if not folder.is_dir() or path.exists():
            continue
        message = f"got {_content(folder)} in {version}/; expected {view.serving.file}"
        hint = "put it there, or name the file that is there in `default_model_filename`"
        if view.serving.backend == backends.PYTHON:
            hint += "; Triton waits for it without end instead of refusing"
        yield view.finding("model-file-missing", ("default_model_filename",), message, hint)


def _content(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return shown or "nothing"


def _present(view: View) -> str:
    numbers = sorted(folder.number for folder in view.model.versions if folder.is_plain and folder.number is not None)
    return ", ".join(map(str, numbers)) or "there is none"
