"""The encoder's tokenizer as one file, with truncation set to the encoder's longest text."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"


def write_tokenizer(encoder: Path, max_tokens: int, folder: Path) -> None:
    """Writes `TOKENIZER_FILE`; padding stays as it is there, since only its token counts.

    Args:
        encoder: Folder of the encoder.
        max_tokens: Longer texts are cut.
        folder: The version folder of the `tokenizer` model.
    """
    tokenizer = Tokenizer.from_file(str(encoder / TOKENIZER_FILE))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.save(str(folder / TOKENIZER_FILE))
