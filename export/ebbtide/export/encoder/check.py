"""What an exported encoder is asked before it is handed over, and what is told of it afterwards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.export.checks import check_encoder
from ebbtide.export.encoder.build import BuiltEncoder
from ebbtide.export.encoder.fidelity import Fidelity, measure_fidelity, require_fidelity
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.parity import TOLERANCE
from ebbtide.interest.contract import Size

_MARGIN = 1.5
"""Texts that were not measured may come out somewhat further off than those that were."""


@dataclass(frozen=True)
class EncoderReport:
    """Which encoder was written, and how near it comes to the one that the bundle was trained with."""

    label: str
    """See `EncoderOptions.label`."""
    layers: tuple[int, ...]
    """Of the language model that were kept, from 0; none in a static encoder."""
    operators: dict[str, int]
    """ONNX Runtime's fused operators in the graph, before its products became integers."""
    kept_plain: str | None
    """Why nothing was fused; None where it was, or where there is nothing to fuse."""
    difference: float
    """Largest absolute difference of an event vector's entry from the full torch encoder."""
    tolerance: float
    """What that difference may be when the export is verified again."""
    fidelity: Fidelity | None
    """None for the full encoder in float32, whose difference is rounding."""


def report_encoder(in_process: InProcessPipeline, built: BuiltEncoder, sizes: Mapping[Size, int]) -> EncoderReport:
    """Checks an exported encoder and measures it.

    A float32 graph must equal the torch module that it was traced from; a compressed one, whatever it was made from,
    must come near enough to the full encoder.

    Raises:
        ParityError: See `check_graph`.
        FidelityError: See `require_fidelity`.
    """
    options, texts = built.options, built.source.bundle.catalog.text
    difference, tolerance, fidelity = 0.0, TOLERANCE, None
    if options.precision == "fp32":
        difference = check_encoder(in_process, built.module, texts, sizes)
    if options.is_compressed:
        difference = check_encoder(in_process, built.source.full, texts, sizes, tolerance=math.inf)
        fidelity = measure_fidelity(built, in_process.encoder)
        require_fidelity(fidelity, options)
        tolerance = max(TOLERANCE, _MARGIN * max(difference, fidelity.largest_difference))
    return EncoderReport(
        label=options.label,
        layers=built.layers,
        operators=built.operators,
        kept_plain=built.kept_plain,
        difference=difference,
        tolerance=tolerance,
        fidelity=fidelity,
    )
