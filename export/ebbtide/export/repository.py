"""Writes a whole Triton model repository from an interest bundle, checks it against torch, and only then shows it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ebbtide.export import versions
from ebbtide.export.errors import OutputFolderError, RepositoryError, VersionError
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import contract
from ebbtide.interest.contract import Size
from ebbtide.train.bundle import InterestBundle

MANIFEST_FILE = "ebbtide-export.json"
"""Tells an exported repository from other folders, and what is known of each version; Triton reads folders only."""
_FORMAT = 2
_TENSOR_FIELDS = ("max_batch_size", "input", "output")


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near it is to torch."""

    folder: Path
    fingerprint: str
    version: int
    is_served: bool
    """Whether the ensembles answer with this version; one that was added to others waits for its deployment."""
    items: int
    top_n: int
    """Items of an answer: as asked for, or the whole catalog where that is smaller."""
    encoder_difference: float
    """Largest absolute difference between the exported encoder and torch."""
    head_difference: float
    """The same for the scoring head."""
    pipeline_difference: float
    """The same for whole requests, in this process, against the formulas."""
    tolerance: float
    """What each of them may be at most."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part took."""
    size_bytes: int = 0
    """Of all files of this version."""


def export_repository(
    bundle: InterestBundle,
    out: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
    *,
    version: int | None = None,
    report: Callable[[str], None] = lambda _part: None,
) -> ExportReport:
    """Writes a model repository that any Triton server serves.

    Args:
        bundle: A trained model with its catalog.
        out: Folder to write. A reader sees it as it was or with the whole export, never a part that is served.
        options: Limits, sizes and precisions.
        version: Triton's model version, to be added to those that `out` holds; the ensembles go on answering with the
            version that they answer with. None replaces the whole folder by version 1.
        report: Called with the name of each part as it begins.

    Returns:
        What was written and measured.

    Raises:
        OutputFolderError: `out` holds something that no export wrote.
        VersionError: The version is served or loaded, or its tensors differ from those of the versions beside it.
        KeyCollisionError: Two item ids share a key.
        RepositoryError: The encoder is not the one that the bundle was trained with.
        ParityError: The export does not answer as torch does; nothing was written.
    """
    out = out.absolute()
    require_replaceable(out)
    adds = version is not None and (out / MANIFEST_FILE).is_file()
    number = 1 if version is None else version
    if number < 1:
        raise VersionError(f"version: got {number}; expected at least 1")
    if adds and number in {*versions.loaded_versions(out), versions.served_version(out)}:
        raise VersionError(
            f"version {number}: got one that servers load from {out}; expected another number: "
            f"{max(versions.available_versions(out)) + 1} is free"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        writer = RepositoryWriter(bundle, partial, options, number, report)
        writer.write_interest()
        differences = writer.check(writer.write_encoder())
        result = ExportReport(
            folder=out,
            fingerprint=writer.fingerprint,
            version=number,
            is_served=not adds,
            items=len(bundle.catalog),
            top_n=writer.sizes[Size.TOP_N],
            encoder_difference=differences[0],
            head_difference=differences[1],
            pipeline_difference=differences[2],
            tolerance=TOLERANCE,
            seconds=writer.seconds,
            size_bytes=sum(path.stat().st_size for path in partial.rglob("*") if path.is_file()),
        )
        manifest = read_manifest(out) if adds else {}
        manifest[str(number)] = _manifest_entry(result, bundle, options)
        if adds:
            _add_version(partial, out, number)
        _write_manifest(out if adds else partial, manifest)
        if not adds:
            _replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def require_replaceable(out: Path) -> None:
    """Passes a folder that is missing, empty, or an earlier export and nothing else.

    Raises:
        OutputFolderError: Naming what is in the way.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputFolderError(f"{out}: got a file; expected a folder, or nothing")
    names = {path.name for path in out.iterdir()}
    foreign = sorted(names - contract.MODELS.keys() - {MANIFEST_FILE})
    if names and (foreign or MANIFEST_FILE not in names):
        seen = f"{', '.join(foreign[:3])} in it" if foreign else f"models but no {MANIFEST_FILE} in it"
        raise OutputFolderError(f"{out}: got a folder with {seen}; expected an empty folder or an earlier export")


def read_manifest(repository: Path) -> dict[str, dict[str, Any]]:
    """What the exports noted of each version, by its number as text.

    Raises:
        RepositoryError: The manifest is missing or damaged, or of an earlier kind.
    """
    path = repository / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise RepositoryError(
                f"{path}: got format {content['format']}; expected {_FORMAT}: export again without --version"
            )
        found: dict[str, dict[str, Any]] = content["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepositoryError(f"{path}: got {error!r}; expected what `ebbtide export` writes") from error
    return found


def _manifest_entry(result: ExportReport, bundle: InterestBundle, options: ExportOptions) -> dict[str, Any]:
    return {
        "fingerprint": result.fingerprint,
        "bundle": bundle.fingerprint,
        "options": asdict(options),
        "items": result.items,
        "top_n": result.top_n,
        "encoder_difference": result.encoder_difference,
        "head_difference": result.head_difference,
        "pipeline_difference": result.pipeline_difference,
        "tolerance": result.tolerance,
    }


def _write_manifest(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    content = {"format": _FORMAT, "versions": entries}
    versions.write_text(folder / MANIFEST_FILE, json.dumps(content, indent=2) + "\n")


def _add_version(partial: Path, out: Path, version: int) -> None:
    """Moves a finished version to those before it. Nothing refers to it until it is deployed.

    Raises:
        VersionError: The tensors differ: all versions of a model share one config.
    """
    for name in contract.MODELS:
        new, old = versions.read_model_config(partial, name), versions.read_model_config(out, name)
        for section in _TENSOR_FIELDS:
            got, expected = _text(new, section), _text(old, section)
            if got != expected:
                raise VersionError(
                    f"version {version}: {name}: got {section} {got}; expected {expected}, as in the versions beside "
                    "it, which share its config.pbtxt: export to another folder"
                )
    for name in contract.MODELS:
        place = out / name / str(version)
        shutil.rmtree(place, ignore_errors=True)
        (partial / name / str(version)).rename(place)


def _text(config: Any, section: str) -> str:  # noqa: ANN401 - tritonclient carries no types
    value = getattr(config, section)
    if isinstance(value, int):
        return str(value)
    return "; ".join(text_format.MessageToString(entry, as_one_line=True) for entry in value)


def _replace(partial: Path, out: Path) -> None:
    """Puts a finished folder in the place of an earlier one, which is brought back if that fails."""
    earlier = out.with_name(f".{out.name}.{os.getpid()}.earlier")
    had_earlier = out.exists()
    if had_earlier:
        out.rename(earlier)
    try:
        partial.rename(out)
    except OSError:
        if had_earlier:
            earlier.rename(out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
