"""Measures the speed of encoders in turns, so that other load on the machine affects all of them equally."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebbtide.export.encoder.graph_edits import Array
from ebbtide.export.encoder.texts import EncoderTokens
from ebbtide.interest import served_models

BATCH_TEXTS = 32
BATCH_TOKENS = 16
_SECONDS_PER_TURN = 0.05
_MAX_RUNS = 50


@dataclass(frozen=True)
class Speed:
    """Median times of an encoder over the turns."""

    batch_s: float
    """Seconds for `BATCH_TEXTS` texts of `BATCH_TOKENS` tokens."""
    text_s: float
    """Seconds for one text of `BATCH_TOKENS` tokens."""

    @property
    def texts_per_s(self) -> float:
        """Texts per second in batches of `BATCH_TEXTS`."""
        return BATCH_TEXTS / self.batch_s


def compare_speed(
    sessions: Mapping[str, Any], tokens: EncoderTokens, texts: Sequence[str], turns: int = 7
) -> dict[str, Speed]:
    """Measures the speed of several encoders.

    Args:
        sessions: ONNX Runtime sessions by name, all with the same number of threads.
        tokens: The encoders' tokenizer.
        texts: Texts whose tokens fill the batches.
        turns: Number of measurements of each encoder.
    """
    batch = _full_batch(tokens, texts)
    shapes = (batch, {name: feed[:1] for name, feed in batch.items()})
    runs = {name: [_runs(session, feeds) for feeds in shapes] for name, session in sessions.items()}
    seconds: dict[str, list[list[float]]] = {name: [[], []] for name in sessions}
    for _ in range(turns):
        for name, session in sessions.items():
            for shape, feeds in enumerate(shapes):
                seconds[name][shape].append(_time(session, feeds, runs[name][shape]))
    return {name: Speed(*(float(np.median(times)) for times in both)) for name, both in seconds.items()}


def _full_batch(tokens: EncoderTokens, texts: Sequence[str]) -> dict[str, Array]:
    """A batch of concatenated real tokens without padding, so that every encoder has the same work."""
    wanted = BATCH_TEXTS * BATCH_TOKENS
    stream = [token for ids in tokens.ids(texts[:wanted]) for token in ids]
    input_ids = np.resize(np.array(stream, dtype=np.int64), (BATCH_TEXTS, BATCH_TOKENS))
    names = [tensor.name for tensor in served_models.ENCODER.inputs]
    return dict(zip(names, (input_ids, np.ones_like(input_ids)), strict=True))


def _runs(session: Any, feeds: Mapping[str, Array]) -> int:  # noqa: ANN401 - onnxruntime carries no types
    """Number of runs in one turn, measured after two runs that allocate memory."""
    _time(session, feeds, 2)
    return int(np.clip(_SECONDS_PER_TURN / _time(session, feeds, 1), 1, _MAX_RUNS))


def _time(session: Any, feeds: Mapping[str, Array], runs: int) -> float:  # noqa: ANN401 - onnxruntime carries no types
    began = time.perf_counter()
    for _ in range(runs):
        session.run(None, feeds)
    return (time.perf_counter() - began) / runs
