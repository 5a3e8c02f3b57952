"""Rules about folders and files: versions, version policies, model files, and files in the wrong folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ebbtide.check import backends
from ebbtide.check.findings import Finding
from ebbtide.check.repository import CONFIG_FILE, Repository
from ebbtide.check.textproto import Path as FieldPath
from ebbtide.check.view import View

_SHOWN = 5
_HASHES_FILE = "fingerprint.json"
"""In a version folder that `ebbtide export` wrote: the SHA-256 of its files."""
_CHUNK_BYTES = 1 << 20
_CONFIG_START = "config.pb"
_JOURNAL_FILE = "deployment.json"
_MODEL_SUFFIXES = (".onnx", ".plan", ".pt", ".pt2", ".pbtxt", ".savedmodel", ".graphdef")


def check_repository(repository: Repository) -> Iterator[Finding]:
    """Checks the files in the repository's own folder."""
    if not repository.models:
        yield Finding(
            "repository-empty", ".", 1, "", "got no folders; expected one folder for each model", "add a model"
        )
    for name in repository.files:
        if name == _JOURNAL_FILE:
            yield Finding(
                "deployment-unfinished",
                name,
                1,
                "",
                "got the journal of a deployment; expected none: it is under way, was cut off (the models may be of "
                "two versions), or has left a version in shadow",
                "run `ebbtide deploy` or `ebbtide deploy --roll-back` again: it finishes or undoes the deployment",
            )
        if name.endswith(_MODEL_SUFFIXES) or name == "model.py":
            yield Finding(
                "stray-file",
                name,
                1,
                "",
                f"got {name} beside the models' folders; expected it in one of these folders",
                "move it into a model's folder; Triton ignores it here",
            )


def is_stray(view: View) -> bool:
    """Whether a folder is not a model although Triton tries to load it."""
    written = view.source.file != view.model.name or view.model.others or view.model.versions
    return not written and view.model.name.startswith((".", "_"))


def check_stray(view: View) -> Iterator[Finding]:
    """Reports a folder that is not a model."""
    if is_stray(view):
        yield view.finding(
            "stray-folder",
            (),
            f"got the folder {view.model.name} without a config and without a version; expected only models",
            "remove it or move it elsewhere; Triton tries to load every folder, and by default stops if one fails",
        )


def check(view: View) -> Iterator[Finding]:
    """Checks the version folders of a model and the files in them."""
    if view.source.file == view.model.name:
        yield from _unread_configs(view)
    yield from _names(view)
    yield from _policy(view)
    if not view.versions:
        yield from _none(view)
    elif view.serving.file and not view.is_ensemble and not view.config.cc_model_filenames:
        yield from _files(view)
    yield from _hashes(view)


def _unread_configs(view: View) -> Iterator[Finding]:
    misnamed = [path for path in view.model.path.iterdir() if path.name.lower().startswith(_CONFIG_START)]
    misplaced = [view.model.path / str(version) / CONFIG_FILE for version in view.versions]
    for path in sorted([*misnamed, *misplaced]):
        if path.is_file():
            file = path.relative_to(view.model.path).as_posix()
            yield view.file_finding(
                "config-not-read",
                file,
                f"got a config in {file}, which Triton does not read; expected it in {view.model.name}/{CONFIG_FILE}",
                "rename or move the file",
            )


def _names(view: View) -> Iterator[Finding]:
    for folder in view.model.versions:
        if folder.number is None:
            reason = "has a leading zero" if folder.name[0] == "0" else "is not a number"
            yield view.file_finding(
                "version-ignored",
                folder.name,
                f"got a folder whose name {reason}; expected a version such as 1",
                "rename it, or move its files into a version's folder",
            )
        elif not folder.in_range:
            yield view.file_finding(
                "version-misread",
                folder.name,
                f"got {folder.name}; expected a version that fits 64 bits: this one stops the server",
                "rename it",
            )
        elif not folder.is_plain:
            yield view.file_finding(
                "version-misread",
                folder.name,
                f"got {folder.name!r}, which Triton reads as version {folder.number}; expected a name of digits only",
                f"move it out of the model's folder; Triton looks for the files in {folder.number}/",
            )
        elif folder.number == 0:
            yield view.file_finding(
                "version-zero",
                folder.name,
                "got version 0; expected 1 or more: an ensemble step without `model_version` asks for version 0",
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
                f"got version {version}; expected a version that exists: {_present(view)}",
                f"add {view.model.name}/{version}/, or remove the version from the policy",
            )


def _none(view: View) -> Iterator[Finding]:
    present = _present(view)
    written = view.config.HasField("version_policy")
    path: FieldPath = ("version_policy",) if written else ()
    if any(folder.is_plain for folder in view.model.versions):
        message = f"got a policy that loads none of the existing versions ({present}); expected it to load at least one"
        hint = "write a version that exists, or `latest { num_versions: 1 }`"
    else:
        message = "got no version folder; expected at least one, such as 1/"
        hint = (
            f"add {view.model.name}/1/ with a .gitkeep in it, because Git does not store empty folders"
            if view.is_ensemble
            else f"add {view.model.name}/1/ with the model file in it"
        )
    yield view.finding("version-missing", path, message, hint)


def _files(view: View) -> Iterator[Finding]:
    for version in view.versions:
        folder = view.model.path / str(version)
        path = view.model_file(version)
        # A folder with another name is already reported.
        if not folder.is_dir() or path.exists():
            continue
        message = f"got {_content(folder)} in {version}/; expected {view.serving.file}"
        hint = "add the file, or write the name of the existing file in `default_model_filename`"
        if view.serving.backend == backends.PYTHON:
            hint += "; without it, Triton never finishes loading the model"
        yield view.finding("model-file-missing", ("default_model_filename",), message, hint)


def _hashes(view: View) -> Iterator[Finding]:
    for version in view.versions:
        folder = view.model.path / str(version)
        try:
            stated = json.loads((folder / _HASHES_FILE).read_text(encoding="utf-8"))["sha256"].items()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            # Other models have none; a damaged one is refused when the model loads.
            continue
        for name, expected in stated:
            path = folder / str(name)
            got = _sha256(path) if path.is_file() else None
            if got != expected:
                found = "no such file" if got is None else f"SHA-256 {got[:16]}..."
                yield view.file_finding(
                    "file-changed",
                    f"{version}/{name}",
                    f"got {found}; expected SHA-256 {str(expected)[:16]}..., as when it was exported",
                    "copy the whole folder again, or export again: the server refuses the model",
                )


def _sha256(path: Path) -> str:
    # As `ebbtide.interest.modelfile` does; the checker imports nothing of the rest.
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _content(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return shown or "nothing"


def _present(view: View) -> str:
    numbers = sorted(folder.number for folder in view.model.versions if folder.is_plain and folder.number is not None)
    return ", ".join(map(str, numbers)) or "there are none"
