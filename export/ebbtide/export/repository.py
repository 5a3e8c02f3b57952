"""Writes a whole Triton model repository from an interest bundle, checks it against torch, and only then shows it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ebbtide.export.errors import LimitError, OutputFolderError
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import contract
from ebbtide.interest.contract import Limits, Size
from ebbtide.train.bundle import InterestBundle

MANIFEST_FILE = "ebbtide-export.json"
"""Tells an exported repository from other folders; Triton reads folders only."""
_FORMAT = 1


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how near it is to torch."""

    folder: Path
    fingerprint: str
    version: int
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
    """Of all files."""


def export_repository(
    bundle: InterestBundle,
    out: Path,
    *,
    top_n: int = 50,
    version: int = 1,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    encoder_threads: int = 2,
    report: Callable[[str], None] = lambda _part: None,
) -> ExportReport:
    """Writes a model repository that any Triton server serves.

    Args:
        bundle: A trained model with its catalog.
        out: Folder to write, in place of an earlier export. A reader sees the old one or the new one, never a part.
        top_n: Items of an answer, at most.
        version: Triton's model version.
        limits: Bounds on one request.
        encoder_threads: ONNX Runtime threads within one run of the encoder.
        report: Called with the name of each part as it begins.

    Returns:
        What was written and measured.

    Raises:
        OutputFolderError: `out` holds something that no export wrote.
        LimitError: A number that cannot be served.
        KeyCollisionError: Two item ids share a key.
        RepositoryError: The encoder is not the one that the bundle was trained with.
        ParityError: The export does not answer as torch does; nothing was written.
    """
    _check_numbers(top_n, version, limits, encoder_threads)
    out = out.absolute()
    require_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        served = min(top_n, len(bundle.catalog))
        writer = RepositoryWriter(bundle, partial, served, version, limits, encoder_threads, report)
        writer.write_interest()
        differences = writer.check(writer.write_encoder())
        result = ExportReport(
            folder=out,
            fingerprint=bundle.fingerprint,
            version=version,
            items=len(bundle.catalog),
            top_n=writer.sizes[Size.TOP_N],
            encoder_difference=differences[0],
            head_difference=differences[1],
            pipeline_difference=differences[2],
            tolerance=TOLERANCE,
            seconds=writer.seconds,
            size_bytes=sum(path.stat().st_size for path in partial.rglob("*") if path.is_file()),
        )
        _write_manifest(partial, result, limits)
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


def _check_numbers(top_n: int, version: int, limits: Limits, encoder_threads: int) -> None:
    numbers = {"top_n": top_n, "version": version, "encoder_threads": encoder_threads}
    numbers |= {f"limits.{bound.name}": getattr(limits, bound.name) for bound in fields(limits)}
    for name, value in numbers.items():
        least = 0 if name.endswith("max_exclude_items") else 1
        if value < least:
            raise LimitError(f"{name}: got {value}; expected at least {least}")


def _write_manifest(folder: Path, result: ExportReport, limits: Limits) -> None:
    content = {
        "format": _FORMAT,
        "fingerprint": result.fingerprint,
        "version": result.version,
        "items": result.items,
        "top_n": result.top_n,
        "limits": asdict(limits),
        "encoder_difference": result.encoder_difference,
        "head_difference": result.head_difference,
        "pipeline_difference": result.pipeline_difference,
        "tolerance": result.tolerance,
    }
    (folder / MANIFEST_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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
