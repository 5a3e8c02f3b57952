"""Measures the fidelity of a compressed encoder, its effect on rankings, and checks both against tolerances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebbtide.export.encoder.build import BuiltEncoder
from ebbtide.export.encoder.graph_edits import session_of
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.encoder.ranking_loss import NotMeasured, RankingLoss, TextRanking
from ebbtide.export.encoder.speed import Speed, compare_speed
from ebbtide.export.encoder.texts import Floats, embed, fragments
from ebbtide.export.errors import FidelityError
from ebbtide.export.machine import Machine
from ebbtide.export.parity import largest_difference

_MAX_FRAGMENTS = 512


@dataclass(frozen=True)
class FidelityTolerance:
    """Smallest fidelity allowed for a compressed encoder."""

    cosine_mean: float
    ndcg_at_10_ratio: float


_ROUNDING = FidelityTolerance(0.9999, 0.995)
"""For fp32 and fp16: ten mantissa bits differ only by rounding, so a lower fidelity means an overflow."""
_INT8 = FidelityTolerance(0.99, 0.99)
"""For int8: below it, rankings change by more than with another training seed."""


@dataclass(frozen=True)
class Fidelity:
    """Differences of a compressed encoder from the full one, on served event vectors (`text_vector`)."""

    cosine_mean: float
    """Mean cosine over catalog texts that are not calibration texts."""
    cosine_min: float
    texts: int
    fragment_cosine_mean: float
    """Mean cosine over fragments of these texts, which resemble texts from users."""
    largest_difference: float
    """Largest absolute difference of an entry."""
    ndcg_at_10: RankingLoss | None
    """Effect on rankings; None if it was not measured."""
    ndcg_not_measured: str | None
    """Why the effect on rankings was not measured; None if it was."""
    speed: Speed
    fp32_speed: Speed
    """Speed of the full encoder, fused in float32, measured in turns with the compressed one."""
    machine: Machine
    """The machine of the measurements."""

    @property
    def speedup(self) -> float:
        """Speed-up over the fused float32 encoder, in batches."""
        return self.fp32_speed.batch_s / self.speed.batch_s


def tolerance_of(options: EncoderOptions) -> FidelityTolerance:
    """The tolerance for an encoder with these options."""
    return _INT8 if options.precision == "int8" else _ROUNDING


def measure_fidelity(
    built: BuiltEncoder,
    session: Any,  # noqa: ANN401 - onnxruntime carries no types
    ranking: TextRanking | None = None,
) -> Fidelity:
    """Measures a compressed encoder.

    Args:
        built: A compressed encoder from `build_encoder`.
        session: ONNX Runtime's session of the exported graph.
        ranking: The ranking of the same bundle; None reads it again.
    """
    source = built.source
    texts = source.texts.kept_back
    reference = session_of(source.fused.graph, session.get_session_options().intra_op_num_threads)

    def through(encoder: Any) -> Callable[[list[str]], Floats]:  # noqa: ANN401 - onnxruntime carries no types
        return lambda some: embed(source.tokens.batches(some), lambda feeds: encoder.run(None, feeds)[0])

    compressed, full = through(session), through(reference)
    got, expected = compressed(texts), full(texts)
    pieces = fragments(texts[:_MAX_FRAGMENTS])
    similar = cosines(got, expected)
    ndcg: RankingLoss | None = None
    not_measured: str | None = None
    try:
        ndcg = (ranking or TextRanking.read(source.bundle)).loss(compressed)
    except NotMeasured as reason:
        not_measured = str(reason)
    speed = compare_speed({"fp32": reference, "own": session}, source.tokens, texts)
    return Fidelity(
        cosine_mean=float(similar.mean()),
        cosine_min=float(similar.min()),
        texts=len(texts),
        fragment_cosine_mean=float(cosines(compressed(pieces), full(pieces)).mean()),
        largest_difference=largest_difference(got, expected),
        ndcg_at_10=ndcg,
        ndcg_not_measured=not_measured,
        speed=speed["own"],
        fp32_speed=speed["fp32"],
        machine=Machine.this(),
    )


def cosines(got: Floats, expected: Floats) -> Floats:
    """Cosine of each row of one array with the same row of the other, ``[rows]``."""
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    result: Floats = (got * expected).sum(1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return result


def require_fidelity(fidelity: Fidelity, options: EncoderOptions) -> None:
    """Accepts an encoder within the tolerance, or any encoder if the options accept a loss.

    The NDCG@10 ratio is too low if it is below the tolerance by more than two standard errors, since it varies much on
    few events.

    Raises:
        FidelityError: The fidelity is too low; the message has every number and its bound.
    """
    if options.allow_fidelity_loss:
        return
    tolerance = tolerance_of(options)
    misses = []
    if not fidelity.cosine_mean >= tolerance.cosine_mean:
        misses.append(
            f"mean cosine to the full encoder over {fidelity.texts} texts: got {fidelity.cosine_mean:.4f}; "
            f"expected at least {tolerance.cosine_mean}"
        )
    ndcg = fidelity.ndcg_at_10
    if ndcg is not None and not ndcg.ratio + 2 * np.nan_to_num(ndcg.standard_error) >= tolerance.ndcg_at_10_ratio:
        misses.append(
            f"NDCG@10 over that with the full encoder, {ndcg.events} events: got {ndcg.ratio:.4f} "
            f"(standard error {ndcg.standard_error:.4f}); expected at least {tolerance.ndcg_at_10_ratio}"
        )
    if misses:
        raise FidelityError(
            f"encoder {options.precision}: {'; '.join(misses)}: choose another precision, "
            "or accept it with --allow-fidelity-loss"
        )
