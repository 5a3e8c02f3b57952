"""What configs tell clients of the version behind them, in parameters that Triton does not read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ebbtide.export.errors import RepositoryError
from ebbtide.export.manifest import read_models
from ebbtide.interest import contract, exported
from ebbtide.interest.contract import Kind, Limits
from ebbtide.interest.tensorfile import read_tensors

ATTRIBUTE_COLUMNS = "attribute_columns"
"""Of `exported.ATTRIBUTES_FILE`, as JSON, and of configs, with commas between them."""
RETRIEVAL = "retrieval"


@dataclass(frozen=True)
class VersionFacts:
    """One version as a client wants to know it."""

    limits: Limits
    attribute_columns: tuple[str, ...] = ()
    """What requests may filter by."""
    is_exact: bool = True
    """Whether the scoring head goes through the whole catalog; an index may miss some of the best."""

    @classmethod
    def read(cls, repository: Path, version: int) -> VersionFacts:
        """Those of a version in a repository.

        Raises:
            RepositoryError: A file is missing or damaged.
        """
        weights = repository / contract.ADAPTIVE_WEIGHTS.name / str(version)
        is_exact = read_models(repository)[contract.SCORING_HEAD.name].kind is Kind.ONNX
        try:
            limits = exported.read_interest_config(weights).limits
            _, of_attributes = read_tensors(weights / exported.ATTRIBUTES_FILE)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise RepositoryError(f"{repository}: version {version}: not a sound export: {error}") from error
        return cls(limits, tuple(json.loads(of_attributes.get(ATTRIBUTE_COLUMNS, "[]"))), is_exact)

    def tell(self, config: Any) -> None:  # noqa: ANN401 - tritonclient carries no types
        """Writes them into the config of an ensemble, which answers with this version alone."""
        tell_limits(config, self.limits)
        config.parameters[ATTRIBUTE_COLUMNS].string_value = ",".join(self.attribute_columns)
        config.parameters[RETRIEVAL].string_value = "exact" if self.is_exact else "approximate"


def tell_limits(config: Any, limits: Limits) -> None:  # noqa: ANN401 - tritonclient carries no types
    """Writes limits into a config."""
    for name, limit in asdict(limits).items():
        config.parameters[name].string_value = str(limit)


def smallest_limits(limits: Iterable[Limits]) -> Limits:
    """What all of them allow."""
    known = list(limits)
    return Limits(**{bound.name: min(getattr(one, bound.name) for one in known) for bound in fields(Limits)})
