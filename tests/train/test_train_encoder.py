"""Encoders of several families, made from their configs with random weights: what is read and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
)
from transformers.utils import logging

from ebbtide.train.choices import FineTuning
from ebbtide.train.encoder import embed_texts, encoder_fingerprint, encoder_folder, files_fingerprint, load_encoder
from ebbtide.train.errors import EncoderError
from ebbtide.train.fine_tuning import EncoderFineTuner

WORDS = ["<s>", "<pad>", "</s>", "<unk>", *(f"word{index}" for index in range(60))]
TEXTS = ["word1 word2", "word3", "word5 word7 word9 word11"]
LONG = " ".join(f"word{index % 60}" for index in range(200))
WIDTH = 32
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": WIDTH,
}
MODULES = ["models.Transformer", "models.Pooling"]


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=WORDS[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_modules(folder: Path, *kinds: str) -> None:
    entries = [
        {
            "idx": index,
            "path": "" if index == 0 else f"{index}_{kind.rsplit('.', 1)[-1]}",
            "type": f"sentence_transformers.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))


def write_dense(folder: Path, out: int, activation: str = "Tanh", path: str = "2_Dense") -> None:
    torch.manual_seed(1)
    (folder / path).mkdir()
    settings = {
        "in_features": WIDTH,
        "out_features": out,
        "bias": True,
        "activation_function": f"torch.nn.modules.activation.{activation}",
    }
    (folder / path / "config.json").write_text(json.dumps(settings))
    tensors = {"linear.weight": torch.randn(out, WIDTH), "linear.bias": torch.randn(out)}
    save_file(tensors, folder / path / "model.safetensors")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    logging.disable_progress_bar()

    def write(model: Any, **saved: Any) -> Path:
        model.save_pretrained(tmp_path / "encoder", **saved)
        write_tokenizer(tmp_path / "encoder")
        return tmp_path / "encoder"

    torch.manual_seed(0)
    return write


@pytest.fixture
def bert(write: Callable[..., Path]) -> Path:
    return write(BertModel(BertConfig(**SIZES, max_position_embeddings=16)))


def test_text_is_cut_to_the_positions_behind_the_padding_when_encoder_is_roberta(write: Callable[..., Path]) -> None:
    # As in RoBERTa itself, whose 514 positions hold 512 tokens; its files often state 514 as the limit.
    folder = write(RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=18, pad_token_id=1)))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 18}')
    assert load_encoder(folder).settings.max_tokens == 16
    assert np.isfinite(embed_texts(folder, [LONG])).all()


def test_text_is_cut_to_all_positions_when_encoder_is_bert(bert: Path) -> None:
    assert load_encoder(bert).settings.max_tokens == 16
    assert np.isfinite(embed_texts(bert, [LONG])).all()


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 512),
        ({"tokenizer_config.json": '{"model_max_length": 64}'}, 64),
        ({"tokenizer_config.json": '{"model_max_length": 1e30}'}, 512),
    ],
)
def test_limit_is_that_of_the_files_when_encoder_has_no_positions(
    write: Callable[..., Path], files: dict[str, str], limit: int
) -> None:
    folder = write(
        T5EncoderModel(T5Config(vocab_size=len(WORDS), d_model=WIDTH, d_kv=16, d_ff=WIDTH, num_layers=1, num_heads=2))
    )
    for name, text in files.items():
        (folder / name).write_text(text)
    assert load_encoder(folder).settings.max_tokens == limit


def test_encoder_half_embeds_when_model_is_t5(write: Callable[..., Path]) -> None:
    model = T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=WIDTH, d_kv=16, d_ff=WIDTH, num_layers=1, num_heads=2)
    ).eval()
    found = embed_texts(write(model), TEXTS[:1])
    ids = torch.tensor([[WORDS.index("word1"), WORDS.index("word2")]])
    expected = model(input_ids=ids).last_hidden_state.mean(1).detach()
    np.testing.assert_allclose(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)


def test_encoder_is_refused_when_it_is_no_text_encoder(write: Callable[..., Path]) -> None:
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    folder = write(BartModel(BartConfig(vocab_size=len(WORDS), d_model=WIDTH, **sizes)))
    with pytest.raises(EncoderError, match="expected a text encoder"):
        load_encoder(folder)


def test_vectors_are_the_same_when_weights_are_split(bert: Path, tmp_path: Path) -> None:
    split = tmp_path / "split"
    BertModel.from_pretrained(bert).save_pretrained(split, max_shard_size="10KB")
    shutil.copyfile(bert / "tokenizer.json", split / "tokenizer.json")
    shards = sorted(split.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert not (split / "model.safetensors").exists()
    np.testing.assert_array_equal(embed_texts(encoder_folder(str(split)), TEXTS), embed_texts(bert, TEXTS))

    before = encoder_fingerprint(split)
    save_file({name: value + 1 for name, value in load_file(shards[0]).items()}, shards[0], metadata={"format": "pt"})
    assert encoder_fingerprint(split) != before
    shards[0].unlink()
    with pytest.raises(EncoderError, match=f"no {shards[0].name}"):
        encoder_folder(str(split))


def test_dense_layer_is_applied_when_modules_name_one(bert: Path) -> None:
    plain = embed_texts(bert, TEXTS)
    write_modules(bert, *MODULES, "models.Dense", "models.Normalize")
    write_dense(bert, 8)
    encoder = load_encoder(bert)
    assert encoder.width == 8
    found = embed_texts(bert, TEXTS)
    weights = load_file(bert / "2_Dense" / "model.safetensors")
    (bert / "modules.json").unlink()
    # Mean vectors before normalising, from the encoder without the layer.
    encoder.dense, encoder.settings = torch.nn.ModuleList(), load_encoder(bert).settings
    assert encoder.width == WIDTH
    assert not np.allclose(plain[:, :8], found)
    write_modules(bert, *MODULES)
    mean = torch.from_numpy(embed_texts(bert, TEXTS))
    expected = torch.tanh(mean @ weights["linear.weight"].T + weights["linear.bias"])
    np.testing.assert_allclose(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-5)


def test_fingerprint_follows_the_dense_weights_when_they_change(bert: Path) -> None:
    without = encoder_fingerprint(bert)
    write_modules(bert, *MODULES, "models.Dense")
    write_dense(bert, 8)
    before = encoder_fingerprint(bert)
    weights = load_file(bert / "2_Dense" / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, bert / "2_Dense" / "model.safetensors")
    assert len({without, before, encoder_fingerprint(bert)}) == 3


def test_dense_layer_is_kept_when_encoder_is_fine_tuned(bert: Path, tmp_path: Path) -> None:
    write_modules(bert, *MODULES, "models.Dense")
    write_dense(bert, 8)
    tuner = EncoderFineTuner(bert, TEXTS, FineTuning.full, items_per_step=2)
    with torch.no_grad():
        tuner.encoder.dense[0].linear.bias += 1
    expected = tuner.refreshed().numpy()
    files = tuner.files()
    for name, content in files.items():
        (tmp_path / "tuned" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tuned" / name).write_bytes(content)
    np.testing.assert_allclose(embed_texts(tmp_path / "tuned", TEXTS), expected, atol=1e-6)
    assert encoder_fingerprint(tmp_path / "tuned") == files_fingerprint(files)


@pytest.mark.parametrize(
    "kinds",
    [
        [*MODULES, "models.LayerNorm"],
        [*MODULES, "models.Normalize", "models.Dense"],
        ["models.Transformer", "models.WeightedLayerPooling", "models.Pooling"],
        ["models.CLIPModel"],
        [],
    ],
)
def test_encoder_is_refused_when_a_module_is_not_applied(bert: Path, kinds: list[str]) -> None:
    write_modules(bert, *kinds)
    with pytest.raises(EncoderError, match=r"modules\.json: got the modules .*; expected Transformer, Pooling"):
        load_encoder(bert)


@pytest.mark.parametrize("modes", [["max_tokens"], ["lasttoken"], ["cls_token", "mean_tokens"], []])
def test_encoder_is_refused_when_pooling_is_not_mean_or_cls(bert: Path, modes: list[str]) -> None:
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True for mode in modes}))
    with pytest.raises(EncoderError, match="expected mean_tokens or cls_token"):
        load_encoder(bert)


def test_encoder_is_refused_when_dense_layer_has_no_weights_or_another_activation(bert: Path) -> None:
    write_modules(bert, *MODULES, "models.Dense")
    with pytest.raises(EncoderError, match="expected the settings of a Dense module"):
        load_encoder(bert)
    write_dense(bert, 8)
    (bert / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match="expected safetensors weights of 32 to 8 numbers"):
        load_encoder(bert)
    shutil.rmtree(bert / "2_Dense")
    write_dense(bert, 8, "Softmax")
    with pytest.raises(EncoderError, match="got activation Softmax"):
        load_encoder(bert)


def test_encoder_is_refused_when_weights_lack_a_tensor(bert: Path) -> None:
    weights = load_file(bert / "model.safetensors")
    del weights["encoder.layer.0.output.dense.weight"]
    save_file(weights, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"without encoder\.layer\.0\.output\.dense\.weight"):
        load_encoder(bert)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", "version https://git-lfs"),
        ("config.json", "{"),
        ("config.json", '{"model_type": "none-such"}'),
    ],
)
def test_encoder_is_refused_in_one_line_when_a_file_is_damaged(bert: Path, name: str, content: str) -> None:
    (bert / name).write_text(content)
    with pytest.raises(EncoderError) as caught:
        load_encoder(bert)
    assert str(bert) in str(caught.value)
    assert "\n" not in str(caught.value)
