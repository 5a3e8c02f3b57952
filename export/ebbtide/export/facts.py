"""Facts about a version for clients, in parameters of the configs that Triton itself does not read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ebbtide.export.errors import RepositoryError
from ebbtide.export.manifest import read_manifest, read_models
from ebbtide.interest import contract, exported, served_models
from ebbtide.interest.contract import Limits
from ebbtide.interest.served_models import Kind
from ebbtide.interest.tensorfile import read_tensors

ATTRIBUTE_COLUMNS = exported.ATTRIBUTE_COLUMNS
"""Key for the names of the attribute columns: as JSON in `exported.ATTRIBUTES_FILE`, comma-separated in configs."""
ATTRIBUTE_VALUES = exported.ATTRIBUTE_VALUES
"""Key for the values of each attribute column, as JSON; in configs unless they are many."""
ATTRIBUTE_NUMBERS = "attribute_numbers"
"""Key for the least and the largest number of each numeric column, as JSON; only in configs of an export with such."""
RETRIEVAL = "retrieval"
PRIVACY = "privacy"
"""Key for the guarantee of a private training, as JSON; only in configs."""
_MOST_VALUES_BYTES = 1 << 16
"""Configs do not hold longer lists of values."""


@dataclass(frozen=True)
class VersionFacts:
    """Facts about one version for clients."""

    limits: Limits
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The values of each attribute column that requests may filter by; none where they are not known yet."""
    is_exact: bool = True
    """Whether the scoring head scores the whole catalog; an index may miss some of the best items."""
    learns_online: bool = False
    """Whether `observe` learns from the items that a user was shown."""
    privacy: Mapping[str, Any] | None = None
    """Epsilon, delta and the rest of the guarantee of a private training; None for one without noise."""
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The least and the largest number of each numeric column that requests may filter by."""

    @classmethod
    def read(cls, repository: Path, version: int) -> VersionFacts:
        """Reads the facts about a version in a repository.

        Raises:
            RepositoryError: A file is missing or damaged.
        """
        weights = repository / served_models.ADAPTIVE_WEIGHTS.name / str(version)
        is_exact = read_models(repository)[served_models.SCORING_HEAD.name].kind is Kind.ONNX
        try:
            config = exported.read_interest_config(weights)
            _, of_attributes = read_tensors(weights / exported.ATTRIBUTES_FILE)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise RepositoryError(f"{repository}: version {version}: damaged export: {error}") from error
        columns = dict.fromkeys(json.loads(of_attributes.get(ATTRIBUTE_COLUMNS, "[]")), ())
        entry = read_manifest(repository).get(str(version), {})
        attributes, learns = {**columns, **entry.get("attributes", {})}, bool(config.online_learning_rate)
        return cls(config.limits, attributes, is_exact, learns, entry.get("privacy"), entry.get("numbers", {}))

    def tell(self, config: Any) -> None:  # noqa: ANN401 - tritonclient carries no types
        """Writes the facts into the config of an ensemble that answers with this version."""
        tell_limits(config, self.limits)
        # The config may be that of another version.
        for name in (ATTRIBUTE_VALUES, ATTRIBUTE_NUMBERS, PRIVACY, contract.LEARNS_ONLINE_PARAMETER):
            if name in config.parameters:
                del config.parameters[name]
        config.parameters[ATTRIBUTE_COLUMNS].string_value = ",".join(self.attributes)
        values = json.dumps(self.attributes, ensure_ascii=False, default=list)
        if any(self.attributes.values()) and len(values.encode()) <= _MOST_VALUES_BYTES:
            config.parameters[ATTRIBUTE_VALUES].string_value = values
        if self.numbers:
            config.parameters[ATTRIBUTE_NUMBERS].string_value = json.dumps(self.numbers, ensure_ascii=False)
        config.parameters[RETRIEVAL].string_value = "exact" if self.is_exact else "approximate"
        if self.privacy is not None:
            config.parameters[PRIVACY].string_value = json.dumps(self.privacy)
        if self.learns_online:
            config.parameters[contract.LEARNS_ONLINE_PARAMETER].string_value = "true"


def tell_limits(config: Any, limits: Limits) -> None:  # noqa: ANN401 - tritonclient carries no types
    """Writes limits into a config."""
    for name, limit in asdict(limits).items():
        config.parameters[name].string_value = str(limit)


def smallest_limits(limits: Iterable[Limits]) -> Limits:
    """The smallest value of each limit, which all of the given limits allow."""
    known = list(limits)
    return Limits(**{bound.name: min(getattr(one, bound.name) for one in known) for bound in fields(Limits)})
