"""Checks an exported encoder and reports its fidelity."""

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
"""Factor on measured differences, since texts that were not measured may differ somewhat more."""


@dataclass(frozen=True)
class EncoderReport:
    """The exported encoder, and its differences from the encoder that the bundle was trained with."""

    precision: str
    """See `EncoderOptions.precision`."""
    operators: dict[str, int]
    """Count of each fused operator of ONNX Runtime in the graph, before quantisation."""
    kept_plain: str | None
    """Why the graph was not fused; None for a fused graph."""
    difference: float
    """Largest absolute difference of an event vector's entry from the full torch encoder."""
    tolerance: float
    """Largest difference allowed when the export is verified again."""
    least_cosine: float
    """Smallest mean cosine allowed between served event vectors of catalog texts and those of the full torch
    encoder."""
    fidelity: Fidelity | None
    """None for the full encoder in float32, which differs only by rounding."""


def report_encoder(in_process: InProcessPipeline, built: BuiltEncoder, sizes: Mapping[Size, int]) -> EncoderReport:
    """Checks an exported encoder and measures it.

    A float32 graph must equal the torch module that it was traced from; a compressed one may differ from it
    within the tolerance of its precision.

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
        # If a loss of fidelity was accepted, the bound is the measured cosine with a margin.
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
