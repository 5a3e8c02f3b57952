"""Writes a whole Triton model repository from an interest bundle, checks it against torch, and only then shows it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ebbtide.export import versions
from ebbtide.export.attributes import CatalogAttributes
from ebbtide.export.encoder.check import EncoderReport
from ebbtide.export.encoder.kept import KeptEncoder
from ebbtide.export.errors import OutputFolderError, RepositoryError, VersionError
from ebbtide.export.head.retrieval import RetrievalReport
from ebbtide.export.manifest import MANIFEST_FILE, read_manifest, read_models, write_entries
from ebbtide.export.merge import add_version, models_beside, require_fitting
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.sweep import SweepRow
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import contract
from ebbtide.interest.contract import Size
from ebbtide.train.bundle import InterestBundle


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
    encoder: EncoderReport
    """Which encoder was written, and what it is worth."""
    encoder_difference: float
    """Largest absolute difference between the exported encoder and the full one in torch."""
    head_difference: float
    """The same for the scoring head."""
    pipeline_difference: float
    """The same for whole requests, in this process, against the formulas."""
    tolerance: float
    """What each of them may be at most, unless a separate tolerance is stated."""
    encoder_tolerance: float
    """What event vectors of texts may differ by; above `tolerance` where the encoder is compressed."""
    head_tolerance: float
    """What the scores of the scoring head, and so of whole requests, may differ by; above `tolerance` where its item
    factors are rounded."""
    retrieval: RetrievalReport | None = None
    """What the scoring head's index is worth; None where it scores the whole catalog."""
    sweep: tuple[SweepRow, ...] = ()
    """What batch sizes were measured."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage took."""
    size_bytes: int = 0
    """Of all files of this version."""


def export_repository(
    bundle: InterestBundle,
    out: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
    *,
    attributes: CatalogAttributes | None = None,
    version: int | None = None,
    encoder: KeptEncoder | None = None,
    report: Callable[[str], None] = lambda _stage: None,
) -> ExportReport:
    """Writes a model repository that any Triton server serves.

    Args:
        bundle: A trained model with its catalog.
        out: Folder to write. A reader sees it as it was or with the whole export, never a half-written one.
        options: Limits, sizes and precisions, and how to serve.
        attributes: What requests may filter by; None for nothing.
        version: Triton's model version, to be added to those that `out` holds; the ensembles go on answering with the
            version that they answer with. None replaces the whole folder by version 1.
        encoder: Of an earlier export with the same options, to be used again; None exports the bundle's.
        report: Called with the name of each stage as it begins.

    Returns:
        What was written and measured.

    Raises:
        OutputFolderError: `out` holds something that no export wrote.
        VersionError: The version is served or loaded, or does not go with the versions beside it: other tensors, other
            ways to be served than were asked for, or no item in common.
        KeyCollisionError: Two item ids share a key.
        RepositoryError: The encoder is not the one that the bundle was trained with.
        EncoderOptionsError: The encoder has not what the options ask for.
        ParityError: The export does not answer as torch does; nothing was written.
        FidelityError: A compressed encoder answers too far from the full one; nothing was written.
        RetrievalError: An index misses more of the best items than is allowed; nothing was written.
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
        models = contract.exported_models(exact=options.retrieval.is_exact)
        if adds:
            models = models_beside(out, models)
        writer = RepositoryWriter(bundle, partial, options, number, attributes, encoder, report, models=models)
        writer.write_interest()
        if adds:
            require_fitting(partial, out, number, same_serving=options.serving is not None)
        of_encoder, head_difference, pipeline_difference = writer.check(writer.write_encoder())
        rows = writer.write_warmup()
        result = ExportReport(
            folder=out,
            fingerprint=writer.fingerprint,
            version=number,
            is_served=not adds,
            items=len(bundle.catalog),
            top_n=writer.sizes[Size.TOP_N],
            encoder=of_encoder,
            encoder_difference=of_encoder.difference,
            head_difference=head_difference,
            pipeline_difference=pipeline_difference,
            tolerance=TOLERANCE,
            encoder_tolerance=of_encoder.tolerance,
            head_tolerance=writer.head_tolerance,
            retrieval=writer.retrieval,
            sweep=rows,
            seconds=writer.seconds,
            size_bytes=_size_bytes(partial),
        )
        manifest = read_manifest(out) if adds else {}
        manifest[str(number)] = _manifest_entry(
            result, bundle, options if adds else replace(options, serving=writer.serving)
        )
        manifest[str(number)]["attributes"] = {} if attributes is None else dict(attributes.values)
        if adds:
            add_version(partial, out, number, bundle.catalog.text)
        write_entries(out if adds else partial, manifest)
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
    foreign = sorted(names - contract.MODELS.keys() - _listed_models(out) - {MANIFEST_FILE})
    if names and (foreign or MANIFEST_FILE not in names):
        seen = f"{', '.join(foreign[:3])} in it" if foreign else f"models but no {MANIFEST_FILE} in it"
        raise OutputFolderError(f"{out}: got a folder with {seen}; expected an empty folder or an earlier export")


def _listed_models(out: Path) -> set[str]:
    """The models that a folder's manifest lists; none where there is no manifest, or a damaged one."""
    try:
        return set(read_models(out))
    except RepositoryError:
        return set()


def _size_bytes(folder: Path) -> int:
    """Of all files of the models; one that several models share counts once."""
    files = (path.stat() for path in folder.glob("*/**/*") if path.is_file())
    return sum({status.st_ino: status.st_size for status in files}.values())


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
        "encoder_tolerance": result.encoder_tolerance,
        "head_tolerance": result.head_tolerance,
        "encoder": asdict(result.encoder),
        "retrieval": None if result.retrieval is None else asdict(result.retrieval),
        "sweep": [asdict(row) for row in result.sweep],
    }


def _replace(partial: Path, out: Path) -> None:
    """Replaces an earlier folder by a finished one; the earlier one is restored if that fails."""
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
