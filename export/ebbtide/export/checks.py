"""Checks of a new export against torch: the encoder and whole requests; `head.check` checks the scoring head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from ebbtide.export.errors import ParityError
from ebbtide.export.inprocess import Answer, InProcessPipeline
from ebbtide.export.parity import TOLERANCE, Case, check_graph, ranking_difference, require_tolerance
from ebbtide.export.samples import random_samples
from ebbtide.interest import served_models
from ebbtide.interest.contract import Size
from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle

_TEXT_BATCHES = (1, 3, 16)
_CATALOG_TEXTS = 256
_SHORT_TEXT = "a"
_REQUESTS = 24
_SEED = 0


def check_encoder(
    in_process: InProcessPipeline,
    encoder: nn.Module,
    texts: list[str],
    sizes: Mapping[Size, int],
    tolerance: float = TOLERANCE,
) -> float:
    """Compares the exported encoder with torch on batches of the shortest texts, catalog texts and the longest texts.

    Args:
        in_process: The export.
        encoder: The encoder in torch.
        texts: Texts of the catalog.
        sizes: Sizes of the export.
        tolerance: Largest difference allowed for an entry of a vector.

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: See `check_graph`.
    """
    some = [_fitting(text, in_process.limits.max_text_bytes) for text in texts[:_CATALOG_TEXTS]]
    pools = ([_SHORT_TEXT], some, [*some[:2], _fitting(" ".join(some), in_process.limits.max_text_bytes)])
    # The largest batch does not include the longest text, which would take most of the time; both axes vary anyway.
    grid = [(batch, pool) for batch in _TEXT_BATCHES for pool in pools]
    grid.remove((_TEXT_BATCHES[-1], pools[-1]))

    def cases() -> Iterator[Case]:
        for batch, pool in grid:
            # In reverse order, so that the batch of one is the longest text.
            chosen = [pool[-1 - index % len(pool)] for index in range(min(batch, in_process.limits.max_texts))]
            feeds = in_process.tokenizer.encode([text.encode() for text in chosen])._asdict()
            with torch.inference_mode():
                vectors = encoder(**{name: torch.from_numpy(feed) for name, feed in feeds.items()})
            names = (tensor.name for tensor in served_models.ENCODER.outputs)
            yield Case(feeds, {name: vector.numpy() for name, vector in zip(names, vectors, strict=True)})

    return check_graph(in_process.encoder, served_models.ENCODER, sizes, cases(), tolerance)


def _fitting(text: str, max_bytes: int) -> str:
    """The text, truncated to the limit of a request."""
    return text.encode()[:max_bytes].decode(errors="ignore").strip() or _SHORT_TEXT


def check_pipeline(
    in_process: InProcessPipeline, bundle: InterestBundle, tolerance: float = TOLERANCE, *, complete: bool = True
) -> float:
    """Compares whole requests in the in-process pipeline with the formulas in torch; edge cases are included.

    Args:
        in_process: The export.
        bundle: The exported bundle.
        tolerance: Largest difference allowed for scores; see `HeadCheck.tolerance`.
        complete: Whether answers must hold all of the best items; see `ranking_difference`.

    Returns:
        The largest absolute difference of scores.

    Raises:
        ParityError: A request was refused, the top N differ, or scores differ by more than the tolerance.
    """
    keys = item_keys(bundle.catalog.item_id)
    with torch.inference_mode():
        vectors = (bundle.model.text_vectors @ bundle.model.event_projection).numpy()
    samples = list(random_samples(len(bundle.catalog), _REQUESTS, in_process.limits, _SEED))
    answers = in_process.recommend([sample.request(keys, vectors) for sample in samples])
    largest = 0.0
    index = bundle.catalog.index
    for sample, answer in zip(samples, answers, strict=True):
        if not isinstance(answer, Answer):
            raise ParityError(
                f"{served_models.RECOMMEND.name}: got an error for a valid request; expected an answer: {answer}"
            )
        expected = sample.reference(bundle.model, bundle.prior_columns)
        difference = ranking_difference(answer.item_id, answer.score, expected.scores, index, complete=complete)
        largest = max(largest, difference, abs(answer.alpha_used - expected.alpha))
    return require_tolerance(f"{served_models.RECOMMEND.name} in this process against torch", largest, tolerance)
