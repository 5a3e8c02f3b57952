"""How near a compressed encoder comes to the full one, what that does to rankings, and how much is too far."""

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
    """What a compressed encoder must reach."""

    cosine_mean: float
    ndcg_at_10_ratio: float


_ROUNDING = FidelityTolerance(0.9999, 0.995)
"""Of fp32 and fp16: ten bits of mantissa leave rounding alone; anything below is an overflow, not a loss."""
_INT8 = FidelityTolerance(0.99, 0.99)
"""Below, the ranking changes by more than the choice of a seed does."""


@dataclass(frozen=True)
class Fidelity:
    """A compressed encoder beside the full one, on event vectors as they are served (`text_vector`)."""

    cosine_mean: float
    """Over catalog texts that the calibration did not see."""
    cosine_min: float
    texts: int
    fragment_cosine_mean: float
    """The same over a few words of each, as users type them."""
    largest_difference: float
    """Absolute, of any entry."""
    ndcg_at_10: RankingLoss | None
    """None where it was not measured."""
    ndcg_not_measured: str | None
    """Why not."""
    speed: Speed
    fp32_speed: Speed
    """Of the full encoder, fused, in float32, timed in turns with it."""
    machine: Machine
    """Where all of this was measured."""

    @property
    def speedup(self) -> float:
        """Over the fused float32 encoder, in batches."""
        return self.fp32_speed.batch_s / self.speed.batch_s


def tolerance_of(options: EncoderOptions) -> FidelityTolerance:
    """What an encoder of these options must reach."""
    return _INT8 if options.precision == "int8" else _ROUNDING


def measure_fidelity(
    built: BuiltEncoder,
    session: Any,  # noqa: ANN401 - onnxruntime carries no types
    ranking: TextRanking | None = None,
) -> Fidelity:
    """Measures a compressed encoder.

    Args:
        built: From `build_encoder`, compressed.
        session: ONNX Runtime's, of the exported graph.
        ranking: Of the same bundle; None reads it again.
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
    """Cosine of each row with its counterpart, ``[rows]``."""
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    result: Floats = (got * expected).sum(1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return result


def require_fidelity(fidelity: Fidelity, options: EncoderOptions) -> None:
    """Passes an encoder that is near enough, or one whose loss was accepted.

    The ratio of NDCG@10 counts as too low once it is so by more than two standard errors: on few events it says little.

    Raises:
        FidelityError: With every number and what it should be.
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
