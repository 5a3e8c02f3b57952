"""The tokenizer's batches: their widths, special tokens in texts, and bytes that tell how many texts there are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from ebbtide.export.sources import model_sources
from ebbtide.interest import served_models
from ebbtide.interest.contract import Limits

MAX_TOKENS = 6


@pytest.fixture(scope="module")
def served() -> ModuleType:
    path = model_sources() / served_models.TOKENIZER.name / "text_tokens.py"
    spec = importlib.util.spec_from_file_location("text_tokens_under_test", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def word_level() -> Tokenizer:
    """One token for each word."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def unigram() -> Tokenizer:
    """A vocabulary that holds its special tokens as words, too, so that a text can bring one in."""
    tokenizer = Tokenizer(models.Unigram([(word, -1.0) for word in ("<unk>", "a", "▁", "<pad>", "<s>")], 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def read(
    served: ModuleType, tokenizer: Tokenizer, folder: Path, *, begins: bool = True, max_tokens: int = MAX_TOKENS
) -> Any:
    """The served tokenizer on a file as an export writes it; with a special token in front of each text, or none."""
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in ("<pad>", "<s>")])
    if begins:
        begin = ("<s>", tokenizer.token_to_id("<s>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("<pad>"))
    tokenizer.save(str(folder / served.TOKENIZER_FILE))
    return served.TextTokens(folder, Limits())


@pytest.mark.parametrize(("make", "begins"), [(word_level, True), (word_level, False), (unigram, True)])
def test_bytes_tell_the_number_of_texts_when_a_cache_leaves_shapes_out(
    served: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], Tokenizer],
    begins: bool,
) -> None:
    # Every batch is as narrow as it may be, which is where two would meet first.
    monkeypatch.setattr(served, "_FULL_BATCH", 1)
    tokens = read(served, make(), tmp_path, begins=begins)
    words = ("a", "a<s>")
    texts = [" ".join([word] * length).encode() for length in range(1, MAX_TOKENS + 1) for word in words]
    shapes: dict[tuple[bytes, bytes], tuple[int, ...]] = {}
    for count in (1, 2, 3):
        for batch in product(texts, repeat=count):
            ids, mask = tokens.encode(batch)
            assert shapes.setdefault((ids.tobytes(), mask.tobytes()), ids.shape) == ids.shape


def test_special_token_is_text_when_a_text_spells_it(served: ModuleType, tmp_path: Path) -> None:
    tokens = read(served, word_level(), tmp_path)
    spelt, other = (tokens.encode([text]).input_ids for text in (b"a <s> a <pad>", b"a x a y"))
    assert spelt.tolist() == other.tolist()


@pytest.mark.parametrize(("texts", "longest", "width"), [(1, 3, 8), (7, 9, 16), (8, 9, 9), (40, 3, 3), (1, 40, 20)])
def test_batch_is_as_wide_as_its_longest_text_when_it_fills_the_encoder_by_itself(
    served: ModuleType, tmp_path: Path, texts: int, longest: int, width: int
) -> None:
    tokens = read(served, word_level(), tmp_path, max_tokens=20)
    batch = tokens.encode([*[b"a"] * (texts - 1), b"a " * (longest - 1)])
    assert batch.input_ids.shape == batch.attention_mask.shape == (texts, width)
    assert batch.attention_mask.sum(1).tolist() == [*[2] * (texts - 1), min(longest, 20)]
