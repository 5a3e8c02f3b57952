"""The options of an export, and the export's id, which follows from them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from ebbtide.export.attributes import CatalogAttributes
from ebbtide.export.choices import Precision
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.errors import LimitError
from ebbtide.export.head.options import RetrievalOptions
from ebbtide.export.serving import ServingOptions
from ebbtide.interest.contract import Limits
from ebbtide.train.bundle import InterestBundle

"""Precision of the scoring head's item factors; see `ebbtide.export.head.graph.head_graph`."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of one export."""

    top_n: int = 50
    """Number of items in an answer; fewer if the catalog is smaller."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on one request."""
    serving: ServingOptions | None = None
    """Serving options. None for the defaults, or, if a version is added to others, for those in their configs."""
    ignore_unknown: bool = False
    """Whether to leave out events whose items are not in the catalog; otherwise the request is refused. A request can
    override it."""
    online_learning_rate: float = 0
    """How fast the alpha of a user follows what the user takes of the shown items; 0 learns nothing online."""
    head_precision: Precision = "fp32"
    """Precision of the scoring head's item factors."""
    retrieval: RetrievalOptions = field(default_factory=RetrievalOptions)
    """How the scoring head finds the best items."""
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    """Options of the exported encoder."""

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            LimitError: A value is invalid; the message names it.
        """
        numbers = {"top_n": self.top_n}
        numbers |= {f"limits.{bound.name}": getattr(self.limits, bound.name) for bound in fields(self.limits)}
        for name, value in numbers.items():
            least = 0 if name.endswith("max_exclude_items") else 1
            if value < least:
                raise LimitError(f"{name}: got {value}; expected at least {least}")
        if not (math.isfinite(self.online_learning_rate) and self.online_learning_rate >= 0):
            raise LimitError(
                f"online_learning_rate: got {self.online_learning_rate}; expected a finite number, 0 or more"
            )
        if self.head_precision not in get_args(Precision):
            raise LimitError(f"head_precision: got {self.head_precision!r}; expected one of {get_args(Precision)}")
        if self.head_precision != "fp32" and not self.retrieval.is_exact:
            raise LimitError(
                f"head_precision: got {self.head_precision!r} with retrieval {self.retrieval.method!r}; expected "
                "'fp32', since candidates of an index are scored with float32 factors"
            )

    @classmethod
    def from_manifest(cls, noted: Mapping[str, Any]) -> ExportOptions:
        """Reads the options from a manifest entry, except the serving options, which are in the configs.

        Raises:
            TypeError: An option is unknown.
            ExportError: A value is invalid.
        """
        choices = {name: value for name, value in noted.items() if name not in _SERVING_ONLY}
        for name, kind in (("limits", Limits), ("retrieval", RetrievalOptions), ("encoder", EncoderOptions)):
            if name in choices:
                choices[name] = kind(**choices[name])
        return cls(**choices)

    def fingerprint(self, bundle: InterestBundle, attributes: CatalogAttributes | None = None) -> str:
        """The id of an export: equal for the same bundle and the same options that affect answers."""
        choices = {key: value for key, value in asdict(self).items() if key not in _SERVING_ONLY}
        # This option does not change any answer.
        del choices["encoder"]["allow_fidelity_loss"]
        if not self.online_learning_rate:
            # So that an export from before there was this option has the same id.
            del choices["online_learning_rate"]
        content = json.dumps(
            [bundle.fingerprint, choices, None if attributes is None else attributes.digest], sort_keys=True
        )
        return hashlib.sha256(content.encode()).hexdigest()[: len(bundle.fingerprint)]


_SERVING_ONLY = ("serving",)
"""Options that do not change any answer."""
