"""What the fields of each stage may differ by: 1e-4, or what the export states of rounded weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ebbtide.export.manifest import read_manifest
from ebbtide.export.parity import TOLERANCE
from ebbtide.interest import contract
from ebbtide.interest.contract import Dtype

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

    def by_field(self) -> dict[str, float]:
        """By ``stage.field``; fields that are not here must be equal."""
        vector, score = contract.TEXT_VECTOR.name, contract.SCORE.name
        found = {f"{model.name}.{vector}": self.encoder for model in (contract.ENCODER, contract.EMBED)}
        for model in (contract.ADAPTIVE_WEIGHTS, contract.ADAPTIVE_WEIGHTS_TEXT):
            for tensor in (contract.INTEREST, contract.ADJUST_SCORE, contract.ALPHA_USED):
                found[f"{model.name}.{tensor.name}"] = TOLERANCE
        for model in (contract.SCORING_HEAD, contract.RECOMMEND, contract.RECOMMEND_TEXT):
            found[f"{model.name}.{score}"] = self.head
            found[f"{model.name}.{contract.ALPHA_USED.name}"] = TOLERANCE
        # Candidates are scored from float32 factors, whatever the scoring head's are.
        for model in (
            contract.CANDIDATE_HEAD,
            contract.RANK,
            contract.RANK_TEXT,
            contract.EXPLAINER,
            contract.EXPLAIN,
            contract.EXPLAIN_TEXT,
        ):
            for tensor in model.outputs:
                if tensor.dtype is Dtype.FP32 and tensor is not contract.HALF_LIFE_DAYS:
                    found[f"{model.name}.{tensor.name}"] = TOLERANCE
        return found
