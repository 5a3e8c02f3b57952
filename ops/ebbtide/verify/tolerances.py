"""What the outputs of each model may differ by: 1e-4, or what the export states of rounded weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ebbtide.export.manifest import read_manifest
from ebbtide.export.parity import TOLERANCE
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Dtype
from ebbtide.interest.served_models import Model

_ENCODER_TOLERANCE = "encoder_tolerance"
_HEAD_TOLERANCE = "head_tolerance"


@dataclass(frozen=True)
class Tolerances:
    """Largest absolute differences of one version of an export."""

    encoder: float = TOLERANCE
    """Of event vectors."""
    head: float = TOLERANCE
    """Of scores."""
    least_cosine: float = 1 - TOLERANCE
    """Mean cosine of event vectors of texts to those of torch, at least."""

    @classmethod
    def read(cls, repository: Path, version: int) -> Tolerances:
        """What the manifest states of a version.

        Raises:
            RepositoryError: The manifest is missing or damaged.
        """
        stated = read_manifest(repository).get(str(version), {})
        return cls(
            stated.get(_ENCODER_TOLERANCE, cls.encoder),
            stated.get(_HEAD_TOLERANCE, cls.head),
            stated.get("encoder", {}).get("least_cosine", cls.least_cosine),
        )

    @property
    def encoder_is_rounded(self) -> bool:
        """Whether event vectors may differ so much that scores from them do too."""
        return self.encoder > TOLERANCE

    def by_field(self, models: Iterable[Model]) -> dict[str, float]:
        """By ``model.field``; fields that are not here must be equal."""
        # Candidates are scored from float32 factors, whatever the scoring head's are.
        stated = {tensor.name: self.encoder for tensor in served_models.ENCODER.outputs}
        stated[contract.SCORE.name] = stated[contract.SLATE_SCORE.name] = self.head
        return {
            f"{model.name}.{tensor.name}": stated.get(tensor.name, TOLERANCE)
            for model in models
            for tensor in model.outputs
            if tensor.dtype is Dtype.FP32 and tensor.name != contract.HALF_LIFE_DAYS.name
        }
