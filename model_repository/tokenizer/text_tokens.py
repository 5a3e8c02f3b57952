"""Converts texts to padded token ids and refuses invalid texts; it does not need Triton."""

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
"""Small requests are padded to a multiple of this, so that they have equal shapes and share batches in the encoder."""
_FULL_BATCH = 8
"""From this number of texts on, sharing a batch with other requests saves less time than the padding costs."""
_SHOWN_BYTES = 40


class TokenBatch(NamedTuple):
    """The outputs of the `tokenizer` model."""

    input_ids: npt.NDArray[np.int64]
    """``[texts, tokens]``."""
    attention_mask: npt.NDArray[np.int64]
    """``[texts, tokens]``: 1 for a token, 0 for padding."""


class TextTokens:
    """Tokenises texts for the encoder of one export."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        """Reads `TOKENIZER_FILE`; its truncation, set by the export, is the encoder's maximum length.

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
        # A special token written in a text is encoded as text, so that a text cannot contain the tokens between rows.
        self._tokenizer.encode_special_tokens = True
        self._spare = 0 if self._rows_begin_alike() else 1
        self._limits = limits

    def encode(self, texts: Iterable[bytes]) -> TokenBatch:
        """Token ids, padded to one width that fits the longest text.

        Batches with different numbers of texts never have the same bytes. So a cache whose key omits shapes (Triton's)
        can hold the encoder's answers. To this end each row begins with a token that occurs nowhere else. If the
        tokenizer has no such token, each row ends with padding, and a step from padding to a token marks a new row;
        rows of the maximum width may have no padding, but then fewer rows have as many bytes, and fewer such steps.

        Args:
            texts: Texts in UTF-8.

        Raises:
            RequestError: There is no text, there are too many, or one is blank, too long or not UTF-8.
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
        """Whether every row begins with the same special token, and no text can produce it elsewhere."""
        empty = self._tokenizer.encode("").ids
        special = {token for token, entry in self._tokenizer.get_added_tokens_decoder().items() if entry.special}
        if not empty or empty[0] not in special - {self._pad_id}:
            return False
        # Some vocabularies (Unigram) also contain the special tokens as words.
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
    """Reads the tokenizer from a version folder.

    Raises:
        ValueError: A file is damaged.
    """
    return TextTokens(folder, read_interest_config(folder).limits)
