"""Splits the catalog's texts for calibration and for measuring a compressed encoder, and makes token batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ebbtide.export.encoder.graph_edits import Array
from ebbtide.interest import served_models

Floats = npt.NDArray[np.float32]

_MAX_CALIBRATION = 512
_MAX_KEPT_BACK = 2048
_KEPT_BACK_SHARE = 5
_LENGTH_STEP = 16
_BATCH_TEXTS = 64
_SEED = 0


@dataclass(frozen=True)
class TextSplit:
    """The distinct texts of a catalog in random order, split in two."""

    calibration: list[str]
    """Texts for calibration, at most 512."""
    kept_back: list[str]
    """Texts for measuring: every fifth one, at most `_MAX_KEPT_BACK`; none of them is a calibration text."""


def split_texts(texts: Sequence[str]) -> TextSplit:
    """Splits texts at random with a fixed seed; the text of a one-text catalog is in both sets."""
    distinct = list(dict.fromkeys(texts))
    order = [distinct[index] for index in np.random.default_rng(_SEED).permutation(len(distinct))]
    kept_back = order[::_KEPT_BACK_SHARE]
    calibration = [text for index, text in enumerate(order) if index % _KEPT_BACK_SHARE] or kept_back
    return TextSplit(calibration[:_MAX_CALIBRATION], kept_back[:_MAX_KEPT_BACK])


def fragments(texts: Sequence[str]) -> list[str]:
    """Some consecutive words of each text, since texts from users are shorter than catalog texts."""
    random = np.random.default_rng(_SEED)
    found = []
    for text in texts:
        words = text.split()
        count = int(random.integers(1, len(words) + 1)) if words else 0
        start = int(random.integers(0, len(words) - count + 1)) if words else 0
        found.append(" ".join(words[start : start + count]) or text)
    return found


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of some texts, as inputs of the encoder."""

    indices: list[int]
    """Indices of the texts in the given list."""
    feeds: dict[str, Array]
    """The encoder's inputs by name, each int64 ``[texts, tokens]``."""


class EncoderTokens:
    """Tokenizes texts as the served tokenizer does."""

    def __init__(self, folder: Path, max_tokens: int) -> None:
        """Reads an encoder's tokenizer.

        Args:
            folder: Folder of the encoder.
            max_tokens: Texts are truncated to this many tokens.
        """
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_tokens)
        self._pad_id: int = (self._tokenizer.padding or {}).get("pad_id", 0)
        self._tokenizer.no_padding()
        # A special token spelled out in a text is ordinary text, as in serving.
        self._tokenizer.encode_special_tokens = True
        self._max_tokens = max_tokens

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def batches(self, texts: Sequence[str]) -> list[TokenBatch]:
        """Batches of texts of similar length, padded to a multiple of 16 tokens."""
        tokens = self.ids(texts)
        order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
        return [
            self._batch(order[start : start + _BATCH_TEXTS], tokens) for start in range(0, len(order), _BATCH_TEXTS)
        ]

    def _batch(self, indices: list[int], tokens: list[list[int]]) -> TokenBatch:
        longest = max(len(tokens[index]) for index in indices)
        width = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, self._max_tokens)
        input_ids = np.full((len(indices), width), self._pad_id, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, index in enumerate(indices):
            input_ids[row, : len(tokens[index])] = tokens[index]
            mask[row, : len(tokens[index])] = 1
        names = (tensor.name for tensor in served_models.ENCODER.inputs)
        return TokenBatch(indices, dict(zip(names, (input_ids, mask), strict=True)))


def embed(batches: Sequence[TokenBatch], run: Callable[[dict[str, Array]], Array]) -> Floats:
    """The vectors of texts in the original order, ``[texts, width]``.

    Args:
        batches: Batches from `EncoderTokens.batches`.
        run: Function from the encoder's inputs to vectors.
    """
    vectors = np.concatenate([run(batch.feeds) for batch in batches])
    indices = np.concatenate([batch.indices for batch in batches])
    ordered = np.empty(vectors.shape, dtype=np.float32)
    ordered[indices] = vectors
    return ordered
