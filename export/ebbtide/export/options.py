"""What may be chosen at export, and the id that follows from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from ebbtide.export.attributes import CatalogAttributes
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.errors import LimitError
from ebbtide.export.head.options import RetrievalOptions
from ebbtide.export.serving import ServingOptions
from ebbtide.interest.contract import Limits
from ebbtide.train.bundle import InterestBundle

HeadPrecision = Literal["fp32", "fp16", "int8"]
"""Of the scoring head's item factors; see `ebbtide.export.head.graph.head_graph`."""


@dataclass(frozen=True)
class ExportOptions:
    """Choices of one export."""

    top_n: int = 50
    """Items of an answer, at most; a smaller catalog gives fewer."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on one request."""
    serving: ServingOptions | None = None
    """How it is served. None takes the defaults, or, where a version is added to others, what their configs say."""
    ignore_unknown: bool = False
    """Whether events with items that are not in the catalog are left out when the request does not say; else they are
    refused."""
    head_precision: HeadPrecision = "fp32"
    """Of the scoring head's item factors."""
    retrieval: RetrievalOptions = field(default_factory=RetrievalOptions)
    """How the scoring head finds the best items."""
    encoder: EncoderOptions = field(default_factory=EncoderOptions)
    """Which encoder is written."""

    def __post_init__(self) -> None:
        """Refuses numbers that cannot be served.

        Raises:
            LimitError: Naming the number.
        """
        numbers = {"top_n": self.top_n}
        numbers |= {f"limits.{bound.name}": getattr(self.limits, bound.name) for bound in fields(self.limits)}
        for name, value in numbers.items():
            least = 0 if name.endswith("max_exclude_items") else 1
            if value < least:
                raise LimitError(f"{name}: got {value}; expected at least {least}")
        if self.head_precision not in get_args(HeadPrecision):
            raise LimitError(f"head_precision: got {self.head_precision!r}; expected one of {get_args(HeadPrecision)}")
        if self.head_precision != "fp32" and not self.retrieval.is_exact:
            raise LimitError(
                f"head_precision: got {self.head_precision!r} with retrieval {self.retrieval.method!r}; expected "
                "'fp32', since what an index names is scored from float32 factors"
            )

    @classmethod
    def from_manifest(cls, noted: Mapping[str, Any]) -> ExportOptions:
        """Reads what an export noted of its options, but for how it is served: that, the configs say.

        Raises:
            TypeError: An option is not known here.
            ExportError: A value cannot be served.
        """
        choices = {name: value for name, value in noted.items() if name not in _SERVING_ONLY}
        for name, kind in (("limits", Limits), ("retrieval", RetrievalOptions), ("encoder", EncoderOptions)):
            if name in choices:
                choices[name] = kind(**choices[name])
        return cls(**choices)

    def fingerprint(self, bundle: InterestBundle, attributes: CatalogAttributes | None = None) -> str:
        """The id of an export: the same for the same bundle and the same answers, wherever it is served."""
        choices = {key: value for key, value in asdict(self).items() if key not in _SERVING_ONLY}
        # Accepting a loss changes no answer.
        del choices["encoder"]["allow_fidelity_loss"]
        content = json.dumps(
            [bundle.fingerprint, choices, None if attributes is None else attributes.digest], sort_keys=True
        )
        return hashlib.sha256(content.encode()).hexdigest()[: len(bundle.fingerprint)]


_SERVING_ONLY = ("serving",)
"""Choices that leave the answers as they are."""
