"""Takes the encoder of an earlier export over as it is, where a bundle changed in nothing that the encoder knows."""

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
from ebbtide.interest import contract
from ebbtide.interest.contract import Limits
from ebbtide.interest.modelfile import MODEL_FILE, write_fingerprint
from ebbtide.train.bundle import InterestBundle

_CHECKED_TEXTS = 64


@dataclass(frozen=True)
class KeptEncoder:
    """The encoder of a version that lies in a repository."""

    repository: Path
    version: int
    report: EncoderReport
    """What its export told of it, which holds for every copy."""

    @classmethod
    def read(cls, repository: Path, version: int, noted: Mapping[str, Any]) -> KeptEncoder:
        """Reads what an export noted.

        Args:
            repository: Written by an export.
            version: One of it.
            noted: The encoder's part of the version's manifest.

        Raises:
            RepositoryError: The note is damaged.
        """
        try:
            return cls(repository, version, TypeAdapter(EncoderReport).validate_python(dict(noted)))
        except (ValidationError, TypeError) as error:
            raise RepositoryError(
                f"{repository}: version {version}, encoder: got {error}; expected what `ebbtide export` notes: export "
                "the bundle with `ebbtide export --version`"
            ) from error

    def write(self, fingerprint: str, encoder: Path, tokenizer: Path) -> None:
        """Writes graph and tokenizer as files of another export; each is one file on the disk for both.

        Args:
            fingerprint: The id of that export.
            encoder: Its version folder of the `encoder` model.
            tokenizer: The same of the `tokenizer` model.
        """
        for file in sorted(self._folder(contract.ENCODER.name).glob(f"{MODEL_FILE}*")):
            share_file(file, encoder / file.name)
        write_fingerprint(encoder, fingerprint)
        share_file(self._folder(contract.TOKENIZER.name) / TOKENIZER_FILE, tokenizer / TOKENIZER_FILE)

    def _folder(self, model: str) -> Path:
        return self.repository / model / str(self.version)


def difference_from_bundle(in_process: InProcessPipeline, bundle: InterestBundle) -> float:
    """How far an exported encoder is from the one that a bundle was trained with, on some of the catalog's texts.

    Returns:
        The largest absolute difference of an event vector's entry; infinity where no request may carry such a text.
    """
    items, expected = catalog_texts(bundle, in_process.limits, min(_CHECKED_TEXTS, in_process.limits.max_texts))
    if not items:
        return float("inf")
    got = in_process.embed([bundle.catalog.text[item] for item in items])
    return largest_difference(got, expected) if got.shape == expected.shape else float("inf")


def catalog_texts(bundle: InterestBundle, limits: Limits, count: int) -> tuple[list[int], Floats]:
    """Some items whose text a request may carry, and the event vectors of these texts by torch.

    Training has embedded them, so that no language model is loaded for it.

    Args:
        bundle: With its catalog.
        limits: Of the export.
        count: At most so many, spread over the catalog.

    Returns:
        Catalog indices, and vectors ``[items, d]``.
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
