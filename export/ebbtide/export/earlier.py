"""Exports a new bundle with the options, attribute filters and encoder of the version in service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.export import versions
from ebbtide.export.attributes import CatalogAttributes
from ebbtide.export.encoder.kept import KeptEncoder, difference_from_bundle
from ebbtide.export.errors import AttributesError, RepositoryError
from ebbtide.export.head.attributes import ItemAttributes
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.manifest import read_manifest
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import ExportReport, export_repository
from ebbtide.export.tables import key_index
from ebbtide.interest import exported, served_models
from ebbtide.interest.tensorfile import read_tensors
from ebbtide.train.bundle import InterestBundle

Floats = npt.NDArray[np.float32]

_SAME_VECTORS = 1e-5
"""Rounding differs if the same matrix product is split between threads in another way."""


@dataclass(frozen=True)
class EarlierExport:
    """Options, attributes and encoder of the version in service, for the export of a bundle that replaces it."""

    repository: Path
    version: int
    """The version in service."""
    options: ExportOptions
    """Without serving options; those are in the configs, which all versions share."""
    attributes: CatalogAttributes | None
    """Attributes that requests may filter by; None without filters."""
    encoder: KeptEncoder | None
    """None if the bundle has another encoder, which must then be exported."""

    @classmethod
    def read(cls, repository: Path, bundle: InterestBundle) -> EarlierExport:
        """Reads the version in service; writes nothing.

        Args:
            repository: Written by `ebbtide export`.
            bundle: The bundle to export with the same options.

        Raises:
            RepositoryError: The repository or its manifest is damaged or from another program version.
            AttributesError: The version has attribute filters and the bundle has other items.
        """
        repository = repository.absolute()
        version, noted = _noted_in_service(repository)
        with _of_this_program(repository, version):
            options = ExportOptions.from_manifest(noted["options"])
            encoder = KeptEncoder.read(repository, version, noted["encoder"])
            catalog = _tables(repository, version, exported.CATALOG_FILE)
        attributes = attributes_in_service(repository, bundle)
        is_kept = _has_items(catalog, bundle) and _is_of(encoder, bundle, catalog[exported.EVENT_VECTORS])
        return cls(repository, version, options, attributes, encoder if is_kept else None)

    def same_answers(self, bundle: InterestBundle) -> int | None:
        """The newest version that gives the same answers as an export of the bundle; None if there is none."""
        fingerprint = self.options.fingerprint(bundle, self.attributes)
        for version in reversed(versions.available_versions(self.repository)):
            if versions.version_fingerprint(self.repository, version) == fingerprint:
                return version
        return None

    def export(self, bundle: InterestBundle, report: Callable[[str], None] = lambda _stage: None) -> ExportReport:
        """Adds the bundle as the next version; the ensembles still answer with the version in service.

        Args:
            bundle: The bundle that was passed to `read`.
            report: Called with the name of each stage when it begins.

        Raises:
            ExportError: See `export_repository`.
        """
        return export_repository(
            bundle,
            self.repository,
            self.options,
            attributes=self.attributes,
            version=max(versions.available_versions(self.repository)) + 1,
            encoder=self.encoder,
            report=report,
        )


def attributes_in_service(repository: Path, bundle: InterestBundle) -> CatalogAttributes | None:
    """The attributes of the version in service, for a bundle with the same items; None without filters.

    Raises:
        RepositoryError: The repository or its manifest is damaged or from another program version.
        AttributesError: The version has attribute filters and the bundle has other items.
    """
    version, noted = _noted_in_service(repository)
    with _of_this_program(repository, version):
        attributes = _attributes(
            noted["attributes"], noted.get("numbers", {}), _tables(repository, version, exported.ATTRIBUTES_FILE)
        )
        catalog = _tables(repository, version, exported.CATALOG_FILE)
    if attributes is not None and not _has_items(catalog, bundle):
        raise AttributesError(
            f"{repository}: version {version}: got filters by {', '.join([*attributes.values, *attributes.numbers])} "
            "for other items than the bundle's; expected the same items in the same order: export the bundle with "
            f"`ebbtide export --version --attributes FILE {_options(attributes)}`"
        )
    return attributes


def _noted_in_service(repository: Path) -> tuple[int, dict[str, Any]]:
    """The version in service, and what the manifest says of it."""
    manifest = read_manifest(repository)
    version = versions.served_version(repository)
    if str(version) not in manifest:
        raise RepositoryError(
            f"{repository}: got a manifest of versions {sorted(manifest)}; expected also {version}, the version in "
            "service: export the bundle with `ebbtide export --version`"
        )
    return version, manifest[str(version)]


@contextmanager
def _of_this_program(repository: Path, version: int) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepositoryError(
            f"{repository}: version {version}: got {error!r}; expected the manifest of this version of Ebbtide: "
            "export the bundle with `ebbtide export --version`"
        ) from error


def _tables(repository: Path, version: int, file: str) -> dict[str, npt.NDArray[Any]]:
    return read_tensors(repository / served_models.ADAPTIVE_WEIGHTS.name / str(version) / file)[0]


def _has_items(catalog: Mapping[str, npt.NDArray[Any]], bundle: InterestBundle) -> bool:
    """Whether a catalog has the items of a bundle, in the same order."""
    index = key_index(bundle.catalog.item_id)
    return np.array_equal(catalog[exported.SORTED_KEY], index.sorted_key) and np.array_equal(
        catalog[exported.CATALOG_INDEX], index.catalog_index
    )


def _is_of(encoder: KeptEncoder, bundle: InterestBundle, served: Floats) -> bool:
    """Whether a version and a bundle with the same items have the same encoder.

    Args:
        encoder: The encoder of the version.
        bundle: The bundle, with another prior or from another training.
        served: ``[items, d]``, the version's event vectors.
    """
    with torch.inference_mode():
        vectors = bundle.model.event_vectors().numpy()
    if served.shape != vectors.shape or not np.allclose(served, vectors, atol=_SAME_VECTORS):
        return False
    in_process = InProcessPipeline(encoder.repository, encoder.version)
    return difference_from_bundle(in_process, bundle) <= encoder.report.tolerance


def _options(attributes: CatalogAttributes) -> str:
    """The options of an export with the same columns."""
    named = [f"--attribute-col {name}" for name in attributes.values]
    return " ".join([*named, *(f"--numeric-col {name}" for name in attributes.numbers)])


def _attributes(
    noted: Mapping[str, list[str]], numbers: Mapping[str, Any], tables: Mapping[str, Any]
) -> CatalogAttributes | None:
    """The attributes of a version, from its tables; only the manifest has the text of the values."""
    if not noted and not numbers:
        return None
    borders = tables[exported.COLUMN_WORD].tolist()
    return CatalogAttributes(
        values={name: tuple(values) for name, values in noted.items()},
        items=ItemAttributes(
            np.array(tables[exported.ITEM_WORDS]),
            tuple(pairwise(borders)),
            frozenset(range(len(noted), len(noted) + len(numbers))),
        ),
        key=np.array(tables[exported.ATTRIBUTE_KEY]),
        column=np.array(tables[exported.ATTRIBUTE_COLUMN]),
        bit=np.array(tables[exported.ATTRIBUTE_BIT]),
        numbers=tuple(numbers),
    )
