"""Writes a Triton model repository from an interest bundle, checks it against torch, then moves it to its folder."""

from __future__ import annotations

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
from ebbtide.export.manifest import read_manifest, read_models, write_entries
from ebbtide.export.merge import add_version, models_beside, require_fitting
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.state_fingerprint import state_fingerprint
from ebbtide.export.sweep import SweepRow
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Size
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.files import partial_folder, put_in_place


@dataclass(frozen=True)
class ExportReport:
    """What the export wrote, and its differences from torch."""

    folder: Path
    fingerprint: str
    """The export's id."""
    version: int
    is_served: bool
    """Whether the ensembles answer with this version; a version added to others must be deployed first."""
    items: int
    """Number of catalog items."""
    top_n: int
    """Items of an answer: the top N of the options, or the size of a smaller catalog."""
    encoder: EncoderReport
    """The exported encoder and its fidelity."""
    encoder_difference: float
    """Largest absolute difference between the exported encoder and the full one in torch."""
    head_difference: float
    """Largest absolute difference of the scoring head's scores from torch."""
    pipeline_difference: float
    """Largest absolute difference of whole requests, in this process, from the formulas in torch."""
    tolerance: float
    """Largest difference allowed, unless one of the next two fields applies."""
    encoder_tolerance: float
    """Largest difference allowed for event vectors of texts; above `tolerance` if the encoder is compressed."""
    head_tolerance: float
    """Largest difference allowed for scores of the scoring head and of whole requests; above `tolerance` if the item
    factors are rounded."""
    retrieval: RetrievalReport | None = None
    """Build settings and recall of the scoring head's index; None if it scores the whole catalog."""
    sweep: tuple[SweepRow, ...] = ()
    """The batch sizes that were measured."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each stage."""
    size_bytes: int = 0
    """Size of all files of this version."""


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
    """Writes a model repository that any Triton server can load.

    Args:
        bundle: A trained model with its catalog.
        out: Folder to write. It never holds a half-written export: it is replaced in one step.
        options: Limits, sizes, precisions and serving options.
        attributes: Attributes that requests may filter by; None for none.
        version: Triton's model version, to add to the versions in `out`; the ensembles still answer with the version
            in service. None replaces the whole folder by version 1.
        encoder: The encoder of an earlier export with the same options, to use again; None exports the bundle's.
        report: Called with the name of each stage when it begins.

    Returns:
        A report of what was written and measured.

    Raises:
        OutputFolderError: `out` holds files that no export wrote.
        VersionError: The version is served or loaded, or does not fit the other versions: it has other tensors or
            other serving options, or no item is in all catalogs.
        KeyCollisionError: Two item ids share a key.
        RepositoryError: The encoder is not the one that the bundle was trained with.
        EncoderOptionsError: The encoder does not support the options.
        ParityError: The export gives other results than torch; nothing was written.
        FidelityError: A compressed encoder differs too much from the full one; nothing was written.
        RetrievalError: The recall of an index is too low; nothing was written.
        OSError: The disk is full, or the folder cannot be written to.
    """
    out = out.absolute()
    require_replaceable(out)
    adds = version is not None and (out / contract.MANIFEST_FILE).is_file()
    number = 1 if version is None else version
    if number < 1:
        raise VersionError(f"version: got {number}; expected at least 1")
    if adds and number in {*versions.loaded_versions(out), versions.served_version(out)}:
        raise VersionError(
            f"version {number}: got a version that servers load from {out}; expected another number: "
            f"{max(versions.available_versions(out)) + 1} is free"
        )
    with partial_folder(out) as partial:
        models = served_models.exported_models(exact=options.retrieval.is_exact)
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
        if attributes is not None and attributes.numbers:
            manifest[str(number)]["numbers"] = attributes.number_ranges
        if adds:
            add_version(partial, out, number, bundle.catalog.text)
        write_entries(out if adds else partial, manifest)
        if not adds:
            put_in_place(partial, out)
    return result


def require_replaceable(out: Path) -> None:
    """Accepts a folder that is missing, empty, or an earlier export without other files.

    Raises:
        OutputFolderError: The folder holds other files; the message names some of them.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise OutputFolderError(f"{out}: got a file; expected a folder or a new path")
    names = {path.name for path in out.iterdir()}
    foreign = sorted(names - served_models.MODELS.keys() - _listed_models(out) - {contract.MANIFEST_FILE})
    if names and (foreign or contract.MANIFEST_FILE not in names):
        seen = f"{', '.join(foreign[:3])} in it" if foreign else f"models but no {contract.MANIFEST_FILE} in it"
        raise OutputFolderError(f"{out}: got a folder with {seen}; expected an empty folder or an earlier export")


def _listed_models(out: Path) -> set[str]:
    """The models in a folder's manifest; empty if the manifest is missing or damaged."""
    try:
        return set(read_models(out))
    except RepositoryError:
        return set()


def _size_bytes(folder: Path) -> int:
    """Size of all files of the models; a file that several models share counts once."""
    files = (path.stat() for path in folder.glob("*/**/*") if path.is_file())
    return sum({status.st_ino: status.st_size for status in files}.values())


def _manifest_entry(result: ExportReport, bundle: InterestBundle, options: ExportOptions) -> dict[str, Any]:
    return {
        "fingerprint": result.fingerprint,
        "states": state_fingerprint(bundle),
        "bundle": bundle.fingerprint,
        "privacy": None if bundle.config.privacy is None else bundle.config.privacy.model_dump(),
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
