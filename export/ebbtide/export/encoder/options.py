"""Options of the exported encoder: its precision, and whether a loss of fidelity is accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from ebbtide.export.choices import Precision
from ebbtide.export.errors import EncoderOptionsError


@dataclass(frozen=True)
class EncoderOptions:
    """Options of the encoder of one export; docs/encoder.md says how to choose."""

    precision: Precision = "fp32"
    """Precision of weights and products: ``int8`` for CPUs, ``fp16`` for GPUs. Inputs and outputs do not change."""
    allow_fidelity_loss: bool = False
    """Whether to write an encoder whose fidelity is below the bounds of `require_fidelity`."""

    def __post_init__(self) -> None:
        """Checks the precision.

        Raises:
            EncoderOptionsError: The precision is unknown; the message names it.
        """
        if self.precision not in get_args(Precision):
            raise EncoderOptionsError(
                f"precision: got {self.precision!r}; expected one of {', '.join(get_args(Precision))}"
            )
