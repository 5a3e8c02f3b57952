"""Fine-tunes the pre-trained encoder together with the interest model: low-rank adapters (LoRA) or all its weights.

A step encodes some of its items with gradients, a bounded number drawn anew each time; all others keep the vectors of
the last refresh, which encodes the whole catalog once an epoch. So memory does not grow with the catalog's texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ebbtide.train.choices import FineTuning
from ebbtide.train.encoder import COPIED_FILES, WEIGHTS_FILE, embed_with, fast_tokenizer, load_encoder
from ebbtide.train.errors import EncoderError

_LORA_RANK = 8
_LORA_ALPHA = 16


class EncoderFineTuner(nn.Module):
    """An encoder that learns, with the catalog's texts."""

    def __init__(self, folder: Path, texts: Sequence[str], kind: FineTuning, items_per_step: int) -> None:
        """Loads the encoder; adapters start at random, seed torch before.

        Args:
            folder: The pre-trained encoder.
            texts: ``[N]``, the catalog's.
            kind: `FineTuning.lora` or `FineTuning.full`.
            items_per_step: Texts that one step encodes with gradients, at most.

        Raises:
            EncoderError: peft is not installed.
        """
        super().__init__()
        self._folder = folder
        self._texts = texts
        self._items_per_step = items_per_step
        self.encoder = load_encoder(folder)
        self._tokenizer = fast_tokenizer(folder, self.encoder.settings.max_tokens)
        if kind is FineTuning.lora:
            self.encoder.transformer = _with_adapters(self.encoder.transformer)
            self.encoder.dense.requires_grad_(False)
        self._freeze_unused()

    def learned(self) -> dict[str, Tensor]:
        """What learns, by name; the rest is as in the folder."""
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def restore(self, learned: dict[str, Tensor]) -> None:
        """Puts back what `learned` gave."""
        self.load_state_dict(learned, strict=False)

    def mixed(self, text_vectors: Tensor, items: Tensor) -> Tensor:
        """The catalog's text vectors, with some of the given items' computed now, with gradients.

        Args:
            text_vectors: ``[N, width]``, of the last refresh.
            items: ``[m]``, catalog indices on the CPU, none twice; torch's generator draws those that are encoded.
        """
        chosen = items[torch.randperm(items.shape[0])[: self._items_per_step]]
        encodings = self._tokenizer.encode_batch([self._texts[item] for item in chosen.tolist()])
        device = text_vectors.device
        input_ids = torch.tensor([encoding.ids for encoding in encodings], device=device)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], device=device)
        vectors: Tensor = self.encoder(input_ids, mask)
        return text_vectors.index_copy(0, chosen.to(device), vectors.to(text_vectors.dtype))

    def refreshed(self) -> Tensor:
        """The catalog's text vectors as the encoder is now, ``[N, width]``."""
        return torch.from_numpy(embed_with(self.encoder.eval(), self._tokenizer, self._texts))

    def _freeze_unused(self) -> None:
        """Weights that no text vector depends on, a pooler's say, do not learn: they never get a gradient."""
        encoding = self._tokenizer.encode(self._texts[0])
        input_ids, mask = torch.tensor([encoding.ids]), torch.tensor([encoding.attention_mask])
        self.encoder(input_ids, mask).sum().backward()
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
            parameter.grad = None

    def files(self) -> dict[str, bytes]:
        """The files of the encoder's folder, relative path to content. Merges the adapters: no training after it."""
        transformer = self.encoder.transformer
        if hasattr(transformer, "merge_and_unload"):
            transformer = self.encoder.transformer = transformer.merge_and_unload()  # type: ignore[operator]
        tensors = {name: value.detach().contiguous() for name, value in transformer.state_dict().items()}
        settings = self.encoder.settings
        files = {name: self._folder / name for name in (*COPIED_FILES, *settings.more_files)}
        content = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
        for name, layer in zip(settings.dense_weights, self.encoder.dense, strict=True):
            content[name] = save({key: value.contiguous() for key, value in layer.state_dict().items()})
        return {**content, WEIGHTS_FILE: save(tensors, metadata={"format": "pt"})}


def _with_adapters(transformer: nn.Module) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError:
        raise EncoderError('encoder fine-tuning: lora needs peft: pip install "ebbtide[lora]"') from None
    # The pooler of BERT-like models is no part of a text vector.
    config = LoraConfig(
        r=_LORA_RANK, lora_alpha=_LORA_ALPHA, target_modules="all-linear", exclude_modules=r".*pooler.*"
    )
    with warnings.catch_warnings():
        # peft asks for an attribute that transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        adapted: nn.Module = get_peft_model(transformer, config)
    return adapted
