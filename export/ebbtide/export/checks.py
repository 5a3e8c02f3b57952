"""What an export is asked before it is handed over: encoder, head and whole pipeline against torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.export.encoder_onnx import EventEncoder
from ebbtide.export.errors import ParityError
from ebbtide.export.inprocess import Answer, InProcessPipeline
from ebbtide.export.parity import Case, check_graph, ranking_difference, require_tolerance
from ebbtide.export.samples import random_samples
from ebbtide.interest import contract
from ebbtide.interest.contract import Size
from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle

_TEXT_BATCHES = (1, 3, 16)
_REQUEST_BATCHES = (1, 3, 32)
_CATALOG_TEXTS = 256
_SHORT_TEXT = "a"
_REQUESTS = 24
_SEED = 0


def check_encoder(twin: InProcessPipeline, encoder: EventEncoder, texts: list[str], sizes: Mapping[Size, int]) -> float:
    """The exported encoder against torch, over batches of the shortest, the catalog's and the longest texts.

    Args:
        twin: The export.
        encoder: What it was made from.
        texts: The catalog's.
        sizes: Of the export.

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: See `check_graph`.
    """
    some = [_fitting(text, twin.limits.max_text_bytes) for text in texts[:_CATALOG_TEXTS]]
    pools = ([_SHORT_TEXT], some, [*some[:2], _fitting(" ".join(some), twin.limits.max_text_bytes)])
    # The largest batch goes without the longest text: it takes most of the time, and its two axes vary without it.
    grid = [(batch, pool) for batch in _TEXT_BATCHES for pool in pools]
    grid.remove((_TEXT_BATCHES[-1], pools[-1]))

    def cases() -> Iterator[Case]:
        for batch, pool in grid:
            # From the end, so that the longest is in the batch of one too.
            chosen = [pool[-1 - place % len(pool)] for place in range(min(batch, twin.limits.max_texts))]
            feeds = twin.tokenizer.encode([text.encode() for text in chosen])._asdict()
            with torch.inference_mode():
                vectors = encoder(**{name: torch.from_numpy(feed) for name, feed in feeds.items()}).numpy()
            yield Case(feeds, {contract.TEXT_VECTOR.name: vectors})

    return check_graph(twin.encoder, contract.ENCODER, sizes, cases())


def _fitting(text: str, max_bytes: int) -> str:
    """The text, cut to what a request may carry."""
    return text.encode()[:max_bytes].decode(errors="ignore").strip() or _SHORT_TEXT


def check_head(twin: InProcessPipeline, bundle: InterestBundle, sizes: Mapping[Size, int]) -> float:
    """The exported head against torch: random interests and adjustments, doubled and excluding ones among them.

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: See `check_graph`; or the ids do not go with the scores.
    """
    random = np.random.default_rng(_SEED)
    with torch.inference_mode():
        factors = torch.cat([bundle.model.item_factors(), torch.from_numpy(bundle.prior_columns)], dim=1)
    scale = float(factors.abs().max()) or 1.0
    index = bundle.catalog.index
    interest, adjust_item, adjust_score = (tensor.name for tensor in contract.SCORING_HEAD.inputs)
    width = sizes[Size.ADJUSTMENTS]
    cases: list[Case] = []
    full_scores: list[npt.NDArray[np.float32]] = []
    for batch in _REQUEST_BATCHES:
        feeds: dict[str, npt.NDArray[np.generic]] = {
            interest: (random.standard_normal((batch, factors.shape[1])) / scale).astype(np.float32),
            adjust_item: random.integers(0, len(index), (batch, width)),
            adjust_score: random.choice(np.array([0, 0, 0.5, -np.inf], dtype=np.float32), (batch, width)),
        }
        # Padding, as the pipeline writes it.
        feeds[adjust_item][:, width // 2 :] = 0
        feeds[adjust_score][:, width // 2 :] = 0
        scores = torch.from_numpy(feeds[interest]) @ factors.T
        scores.scatter_add_(1, torch.from_numpy(feeds[adjust_item]), torch.from_numpy(feeds[adjust_score]))
        best = torch.topk(scores, sizes[Size.TOP_N]).values.numpy()
        cases.append(Case(feeds, {contract.SCORE.name: best}))
        full_scores.append(scores.numpy())
    largest = check_graph(twin.head, contract.SCORING_HEAD, sizes, cases)
    for case, known in zip(cases, full_scores, strict=True):
        item_id, score = twin.head.run([contract.ITEM_ID.name, contract.SCORE.name], dict(case.feeds))
        for row in range(len(score)):
            largest = max(largest, ranking_difference(item_id[row].tolist(), score[row], known[row], index))
    return require_tolerance(f"ranking of {contract.SCORING_HEAD.name} in ONNX against torch", largest)


def check_pipeline(twin: InProcessPipeline, bundle: InterestBundle) -> float:
    """The whole in-process pipeline against the formulas in torch, on random requests, empty and longest included.

    Returns:
        The largest absolute difference of scores.

    Raises:
        ParityError: A request was refused, the top N differ, or scores do by more than the tolerance.
    """
    keys = item_keys(bundle.catalog.item_id)
    with torch.inference_mode():
        vectors = (bundle.model.text_vectors @ bundle.model.event_projection).numpy()
    samples = list(random_samples(len(bundle.catalog), _REQUESTS, twin.limits, _SEED))
    answers = twin.recommend([sample.request(keys, vectors) for sample in samples])
    largest = 0.0
    index = bundle.catalog.index
    for sample, answer in zip(samples, answers, strict=True):
        if not isinstance(answer, Answer):
            raise ParityError(f"{contract.RECOMMEND.name}: a sound request was refused: {answer}")
        expected = sample.reference(bundle.model, bundle.prior_columns)
        difference = ranking_difference(answer.item_id, answer.score, expected.scores, index)
        largest = max(largest, difference, abs(answer.alpha_used - expected.alpha))
    return require_tolerance(f"{contract.RECOMMEND.name} in this process against torch", largest)
