"""Writes the encoder's tokenizer as one file, with truncation to the encoder's largest number of tokens."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"


def write_tokenizer(encoder: Path, max_tokens: int, folder: Path) -> None:
    """Writes `TOKENIZER_FILE`. Padding is not changed, since serving reads only the padding token from it.

    Args:
        encoder: Folder of the encoder.
        max_tokens: Texts are truncated to this many tokens.
        folder: The version folder of the `tokenizer` model.
    """
    tokenizer = Tokenizer.from_file(str(encoder / TOKENIZER_FILE))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.save(str(folder / TOKENIZER_FILE))
