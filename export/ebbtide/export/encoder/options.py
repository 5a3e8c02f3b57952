"""How an export writes the encoder: its precision, and whether a loss of fidelity is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ebbtide.export.errors import EncoderOptionsError

Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class EncoderOptions:
    """Choices for the encoder of one export; docs/encoder.md says when to take which."""

    precision: Precision = "fp32"
    """Of weights and products: ``int8`` is for CPUs, ``fp16`` for GPUs. Inputs and outputs do not change."""
    allow_fidelity_loss: bool = False
    """Whether to write an encoder whose fidelity is below what `require_fidelity` asks for."""

    def __post_init__(self) -> None:
        """Refuses an unknown precision.

        Raises:
            EncoderOptionsError: Naming it.
        """
        if self.precision not in get_args(Precision):
            raise EncoderOptionsError(
                f"precision: got {self.precision!r}; expected one of {', '.join(get_args(Precision))}"
            )
