"""Texts into padded token ids, and refusals of what is no text; no Triton, so that it runs in any process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ebbtide.interest import contract
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.exported import read_interest_config

TOKENIZER_FILE = "tokenizer.json"
_SHARED_STEP = 8
"""Few texts are padded to a multiple of it, so that requests share shapes, and so batches, in the encoder."""
_FULL_BATCH = 8
"""Texts that keep the encoder busy by themselves: a batch shared with others gains less than the padding costs."""
_SHOWN_BYTES = 40


class TokenBatch(NamedTuple):
    """The outputs of the `tokenizer` model."""

    input_ids: npt.NDArray[np.int64]
    """``[texts, tokens]``."""
    attention_mask: npt.NDArray[np.int64]
    """``[texts, tokens]``: 1 for a token, 0 for padding."""


class TextTokens:
    """Cuts texts as the encoder of one export expects them."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """Reads `TOKENIZER_FILE`, whose truncation the exporter set to the encoder's longest text.

        Raises:
            ValueError: The file sets no truncation.
        """
        path = folder / TOKENIZER_FILE
        self._tokenizer = Tokenizer.from_file(str(path))
        if self._tokenizer.truncation is None:
            raise ValueError(f"{path}: sets no truncation; expected a file written by `ebbtide export`")
        self._max_tokens: int = self._tokenizer.truncation["max_length"]
        self._pad_id: int = (self._tokenizer.padding or {}).get("pad_id", 0)
        self._tokenizer.no_padding()
        # A text that spells a special token is text: nobody ends their neighbour's attention, and rows stay apart.
        self._tokenizer.encode_special_tokens = True
        self._spare = 0 if self._rows_begin_alike() else 1
        self._limits = limits

    def encode(self, texts: Iterable[bytes]) -> TokenBatch:
        """Token ids, padded to one width, which is as long as the longest text needs.

        Two batches of different numbers of texts never have the same bytes, so that a cache whose key leaves shapes out
        may hold the encoder's answers: each row begins with a token that stands nowhere else or, where the tokenizer
        has none, ends with padding. (Then a step from padding to a token is a new row. Rows of the greatest width may
        be full, but fewer of them fill as many bytes, and so have fewer steps.)

        Args:
            texts: UTF-8.

        Raises:
            RequestError: No text, too many, or one that is blank, too long or no UTF-8.
        """
        encodings = self._tokenizer.encode_batch(self._decode(list(texts)))
        longest = max(len(encoding.ids) for encoding in encodings)
        step = _SHARED_STEP if len(encodings) < _FULL_BATCH else 1
        width = min(-(-(longest + self._spare) // step) * step, self._max_tokens)
        input_ids = np.full((len(encodings), width), self._pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(encodings), width), dtype=np.int64)
        for row, encoding in enumerate(encodings):
            input_ids[row, : len(encoding.ids)] = encoding.ids
            attention_mask[row, : len(encoding.ids)] = 1
        return TokenBatch(input_ids, attention_mask)

    def _rows_begin_alike(self) -> bool:
        """Whether every row begins with the same special token, and no text brings it in elsewhere."""
        empty = self._tokenizer.encode("").ids
        special = {token for token, entry in self._tokenizer.get_added_tokens_decoder().items() if entry.special}
        if not empty or empty[0] not in special - {self._pad_id}:
            return False
        # Some vocabularies (Unigram's) hold the special tokens as words, too.
        marker = self._tokenizer.id_to_token(empty[0])
        return empty[0] not in self._tokenizer.encode(f"{marker} a{marker}a {marker}").ids[1:]

    def _decode(self, texts: list[bytes]) -> list[str]:
        if not 1 <= len(texts) <= self._limits.max_texts:
            raise RequestError(contract.TEXT.name, f"{len(texts)} texts", f"1 to {self._limits.max_texts} texts")
        return [self._decode_one(index, text) for index, text in enumerate(texts)]

    def _decode_one(self, index: int, text: bytes) -> str:
        field = f"{contract.TEXT.name}[{index}]"
        if len(text) > self._limits.max_text_bytes:
            raise RequestError(field, f"{len(text)} bytes", f"at most {self._limits.max_text_bytes} bytes")
        try:
            decoded = text.decode()
        except UnicodeDecodeError:
            raise RequestError(field, repr(text[:_SHOWN_BYTES]), "UTF-8") from None
        if not decoded.strip():
            raise RequestError(field, repr(decoded[:_SHOWN_BYTES]), "a text that is not blank")
        return decoded


def read_text_tokens(folder: Path) -> TextTokens:
    """The tokenizer in a version folder.

    Raises:
        ValueError: A file is damaged.
    """
    return TextTokens(folder, read_interest_config(folder).limits)
