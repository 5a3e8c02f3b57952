"""What an exported encoder is asked before it is handed over, and what is told of it afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.export.checks import check_encoder
from ebbtide.export.encoder.build import BuiltEncoder
from ebbtide.export.encoder.fidelity import Fidelity, measure_fidelity, require_fidelity, tolerance_of
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.parity import TOLERANCE
from ebbtide.interest.contract import Size

_MARGIN = 1.5
"""Texts that were not measured may come out somewhat further off than those that were."""


@dataclass(frozen=True)
class EncoderReport:
    """Which encoder was written, and how near it comes to the one that the bundle was trained with."""

    precision: str
    """See `EncoderOptions.precision`."""
    operators: dict[str, int]
    """ONNX Runtime's fused operators in the graph, before its products became integers."""
    kept_plain: str | None
    """Why nothing was fused; None where it was."""
    difference: float
    """Largest absolute difference of an event vector's entry from the full torch encoder."""
    tolerance: float
    """What that difference may be when the export is verified again."""
    least_cosine: float
    """Mean cosine to the full torch encoder that event vectors of catalog texts must reach wherever they are served."""
    fidelity: Fidelity | None
    """None for the full encoder in float32, whose difference is rounding."""


def report_encoder(in_process: InProcessPipeline, built: BuiltEncoder, sizes: Mapping[Size, int]) -> EncoderReport:
    """Checks an exported encoder and measures it.

    A float32 graph must equal the torch module that it was traced from; a compressed one must come near enough to it.

    Raises:
        ParityError: See `check_graph`.
        FidelityError: See `require_fidelity`.
    """
    options, texts = built.options, built.source.bundle.catalog.text
    tolerance, fidelity = TOLERANCE, None
    least_cosine = tolerance_of(options).cosine_mean
    is_compressed = options.precision != "fp32"
    allowed = math.inf if is_compressed else TOLERANCE
    difference = check_encoder(in_process, built.source.full, texts, sizes, tolerance=allowed)
    if is_compressed:
        fidelity = measure_fidelity(built, in_process.encoder)
        require_fidelity(fidelity, options)
        # Below the gate where a loss was accepted: then what was measured, with a margin, is the gate.
        least_cosine = min(least_cosine, 1 - _MARGIN * (1 - fidelity.cosine_mean))
        tolerance = max(TOLERANCE, _MARGIN * max(difference, fidelity.largest_difference))
    return EncoderReport(
        precision=options.precision,
        operators=built.operators,
        kept_plain=built.kept_plain,
        difference=difference,
        tolerance=tolerance,
        least_cosine=least_cosine,
        fidelity=fidelity,
    )
