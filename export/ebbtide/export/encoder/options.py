"""Which encoder an export writes: the full language model, fewer of its layers, or a table distilled from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ebbtide.export.errors import EncoderOptionsError

Kind = Literal["transformer", "static"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class EncoderOptions:
    """Choices for the encoder of one export; see docs/encoder.md for when to take which."""

    kind: Kind = "transformer"
    """``static`` replaces the language model by the mean of one vector for each token."""
    precision: Precision = "fp32"
    """Of weights and products: ``int8`` is made for CPUs, ``fp16`` for GPUs. Inputs and outputs do not change."""
    layers: int | None = None
    """Layers of the language model that are kept; None keeps all."""
    allow_fidelity_loss: bool = False
    """Whether an encoder is written that answers further from the full one than `fidelity` allows."""

    def __post_init__(self) -> None:
        """Refuses choices that do not go together.

        Raises:
            EncoderOptionsError: Naming the choice.
        """
        for name, value, allowed in (
            ("encoder", self.kind, get_args(Kind)),
            ("precision", self.precision, get_args(Precision)),
        ):
            if value not in allowed:
                raise EncoderOptionsError(f"{name}: got {value!r}; expected one of {', '.join(allowed)}")
        if self.layers is not None and self.layers < 1:
            raise EncoderOptionsError(f"layers: got {self.layers}; expected at least 1")
        if self.kind == "static" and (self.layers is not None or self.precision != "fp32"):
            raise EncoderOptionsError(
                f"encoder static: got precision {self.precision} and layers {self.layers}; expected neither: it is one "
                "table without layers, whose look-ups cost the same in any precision"
            )

    @property
    def is_compressed(self) -> bool:
        """Whether the encoder answers otherwise than the full one, beyond rounding."""
        return self.kind == "static" or self.precision != "fp32" or self.layers is not None

    @property
    def is_fitted(self) -> bool:
        """Whether the catalog's texts decide what the encoder is, so that it must be measured on others of them."""
        return self.kind == "static" or self.precision == "int8" or self.layers is not None

    @property
    def label(self) -> str:
        """A short name: ``fp32``, ``int8``, ``layers3-int8``, ``static``."""
        if self.kind == "static":
            return self.kind
        parts = [] if self.layers is None else [f"layers{self.layers}"]
        if self.precision != "fp32" or not parts:
            parts.append(self.precision)
        return "-".join(parts)
