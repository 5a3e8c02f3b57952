"""The whole way of the data with another kind of encoder: T5, with a dense layer behind the pooling."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import T5Config, T5EncoderModel
from transformers.utils import logging

from commands import ebbtide
from ebbtide.serve import ServerConfig
from servers import serving

SHOP = Path(__file__).parents[1] / "data" / "cases" / "template-placeholder-ignored"
WIDTH, DENSE = 32, 24


def write_t5(folder: Path) -> None:
    """Writes a sentence encoder as sentence-transformers lays out sentence-t5, of one layer with random weights."""
    words = [f"\u2581{word}" for word in ("Lamp", "Bright", "home", *map(str, range(10)))]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((word, -3.0) for word in words), ("\u2581", -9.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    torch.manual_seed(0)
    logging.disable_progress_bar()
    T5EncoderModel(
        T5Config(vocab_size=len(pieces), d_model=WIDTH, d_kv=16, d_ff=WIDTH, num_layers=1, num_heads=2)
    ).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [
        {"idx": index, "path": f"{index}_{kind}" if index else "", "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(kinds)
    ]
    dense = {
        "in_features": WIDTH,
        "out_features": DENSE,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}),
        ("2_Dense/config.json", dense),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    save_file({"linear.weight": torch.randn(DENSE, WIDTH)}, folder / "2_Dense" / "model.safetensors")


def test_every_stage_agrees_when_the_encoder_is_a_t5_with_a_dense_layer(tmp_path: Path) -> None:
    encoder, bundle, repository = (tmp_path / name for name in ("encoder", "bundle", "repository"))
    write_t5(encoder)
    ebbtide(
        *("train", "--events", SHOP / "log.csv", "--catalog", SHOP / "catalog.csv", "--out", bundle),
        *("--text-template", "{product name}, {meta-title}, {kind}", "--encoder", encoder),
        *("--dimensions", 16, "--epochs", 1),
    )
    assert "encoder, fp32" in ebbtide("export", bundle, "--out", repository)
    assert "0 errors, 0 warnings" in ebbtide("check", repository)
    with serving(ServerConfig(repository, state=f"embedded:{tmp_path / 'state'}")) as server:
        said = ebbtide("verify", repository, "--bundle", bundle, "--server", server.grpc_url, "--count", 12)
    assert "recommend_text" in said
