"""What may be chosen at export, and the id that follows from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields

from ebbtide.export.errors import LimitError
from ebbtide.interest.contract import Limits
from ebbtide.train.bundle import InterestBundle


@dataclass(frozen=True)
class ExportOptions:
    """Choices of one export."""

    top_n: int = 50
    """Items of an answer, at most; a smaller catalog gives fewer."""
    limits: Limits = field(default_factory=Limits)
    """Bounds on one request."""
    encoder_threads: int = 2
    """ONNX Runtime threads within one run of the encoder."""

    def __post_init__(self) -> None:
        """Refuses numbers that cannot be served.

        Raises:
            LimitError: Naming the number.
        """
        numbers = {"top_n": self.top_n, "encoder_threads": self.encoder_threads}
        numbers |= {f"limits.{bound.name}": getattr(self.limits, bound.name) for bound in fields(self.limits)}
        for name, value in numbers.items():
            least = 0 if name.endswith("max_exclude_items") else 1
            if value < least:
                raise LimitError(f"{name}: got {value}; expected at least {least}")

    def fingerprint(self, bundle: InterestBundle) -> str:
        """The id of an export: the same for the same bundle and the same answers, wherever it is served."""
        choices = {key: value for key, value in asdict(self).items() if key not in _SERVING_ONLY}
        content = json.dumps([bundle.fingerprint, choices], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[: len(bundle.fingerprint)]


_SERVING_ONLY = ("encoder_threads",)
"""Choices that leave the answers as they are."""
