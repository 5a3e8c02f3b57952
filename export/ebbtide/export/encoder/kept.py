"""Reuses the encoder of an earlier export if a new bundle has the same encoder, projection and texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from ebbtide.export.encoder.check import EncoderReport
from ebbtide.export.encoder.texts import Floats
from ebbtide.export.errors import RepositoryError
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.parity import largest_difference
from ebbtide.export.tables import share_file
from ebbtide.export.tokenizer import TOKENIZER_FILE
from ebbtide.interest import served_models
from ebbtide.interest.contract import Limits
from ebbtide.interest.modelfile import MODEL_FILE, write_fingerprint
from ebbtide.train.bundle import InterestBundle

_CHECKED_TEXTS = 64


@dataclass(frozen=True)
class KeptEncoder:
    """The encoder of a version in a repository."""

    repository: Path
    version: int
    report: EncoderReport
    """The report of its export, which is valid for every copy."""

    @classmethod
    def read(cls, repository: Path, version: int, noted: Mapping[str, Any]) -> KeptEncoder:
        """Reads the encoder's report from a manifest entry.

        Args:
            repository: Folder written by `ebbtide export`.
            version: A version in it.
            noted: The field ``encoder`` of the version's manifest entry.

        Raises:
            RepositoryError: The entry is damaged.
        """
        try:
            return cls(repository, version, TypeAdapter(EncoderReport).validate_python(dict(noted)))
        except (ValidationError, TypeError) as error:
            raise RepositoryError(
                f"{repository}: version {version}, encoder: got {error}; expected an entry of `ebbtide export`: export "
                "the bundle with `ebbtide export --version`"
            ) from error

    def write(self, fingerprint: str, encoder: Path, tokenizer: Path) -> None:
        """Writes graph and tokenizer into another export; both exports share the files on the disk.

        Args:
            fingerprint: The id of the other export.
            encoder: The other export's version folder of the `encoder` model.
            tokenizer: The other export's version folder of the `tokenizer` model.
        """
        for file in sorted(self._folder(served_models.ENCODER.name).glob(f"{MODEL_FILE}*")):
            share_file(file, encoder / file.name)
        write_fingerprint(encoder, fingerprint)
        share_file(self._folder(served_models.TOKENIZER.name) / TOKENIZER_FILE, tokenizer / TOKENIZER_FILE)

    def _folder(self, model: str) -> Path:
        return self.repository / model / str(self.version)


def difference_from_bundle(in_process: InProcessPipeline, bundle: InterestBundle) -> float:
    """Compares an exported encoder with the one that a bundle was trained with, on some of the catalog's texts.

    Returns:
        The largest absolute difference of an event vector's entry; infinity if no catalog text is within the limits.
    """
    items, expected = catalog_texts(bundle, in_process.limits, min(_CHECKED_TEXTS, in_process.limits.max_texts))
    if not items:
        return float("inf")
    got = in_process.embed([bundle.catalog.text[item] for item in items])
    return largest_difference(got, expected) if got.shape == expected.shape else float("inf")


def catalog_texts(bundle: InterestBundle, limits: Limits, count: int) -> tuple[list[int], Floats]:
    """Some items whose text is within the limits of a request, and the event vectors of these texts in torch.

    The bundle has the text vectors, so no language model is loaded.

    Args:
        bundle: A bundle with its catalog.
        limits: Limits of the export.
        count: Largest number of items; they are spread over the catalog.

    Returns:
        Catalog indices of the items, and event vectors ``[items, d]``.
    """
    allowed = [
        item
        for item, text in enumerate(bundle.catalog.text)
        if text.strip() and len(text.encode()) <= limits.max_text_bytes
    ]
    indices = np.linspace(0, len(allowed) - 1, min(count, len(allowed))).astype(int)
    items = [allowed[index] for index in indices]
    with torch.inference_mode():
        return items, (bundle.model.text_vectors[items] @ bundle.model.event_projection).numpy()
