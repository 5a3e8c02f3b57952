"""What training refuses at the start, and what it says when it is stopped."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import PACKAGED, encoder_folder


@pytest.mark.parametrize("rate", ["1e6", "1e12"])
def test_diverged_training_is_one_line(rate, log, ebbtide, tmp_path):
    done = ebbtide("train", "--events", log, "--out", tmp_path / "b", "--epochs", 3, "--learning-rate", rate)
    assert done.returncode == 1
    assert b"lower the learning rate" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not (tmp_path / "b").exists()


def test_diverged_training_is_one_line_when_validation_does_not_see_it(ebbtide, tmp_path):
    # One epoch, and repeats: the interest counts for little, whatever it has become.
    items = np.random.default_rng(0).integers(0, 9, 200)
    rows = [f"u{row % 5},i{item},{1_700_000_000 + 4_000 * row}" for row, item in enumerate(items)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]), encoding="utf-8")
    options = ("--user-col", "user_id", "--item-col", "item_id", "--time-col", "timestamp", "--epochs", 1)
    done = ebbtide("train", "--events", tmp_path / "log.csv", "--out", tmp_path / "b", *options, "--learning-rate", 1e6)
    assert done.returncode == 1
    said = b" ".join(done.stderr.split())
    assert b"a parameter has grown to" in said
    assert b"training has diverged: lower the learning rate" in said
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--holdout", "last", "expected 'none', 'leave-last-out'"),
        ("--holdout", "time:2", "expected 'none', 'leave-last-out'"),
        ("--vectors", "image", "expected NAME=FILE, as in image=embeddings.parquet"),
        ("--vectors", "Image=a.npz", "got the name 'Image'"),
        ("--encoder", "/nowhere/model", "expected 'packaged', a folder"),
        ("--device", "cuda", "finds no CUDA device"),
    ],
)
def test_options_are_checked_before_the_log_is_read(option, value, expected, log, ebbtide_process, tmp_path):
    done = ebbtide_process("train", "--events", log, "--out", tmp_path / "b", option, value, HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert expected in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"events of" not in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--max-bad-rows", "5", "--max-bad-rows"),
        ("--title-template", "{name}", "expected --catalog FILE with --title-template"),
        ("--text-template", "{name}", "expected --catalog FILE with --text-template"),
        ("--catalog-item-col", "sku", "expected --catalog FILE with --catalog-item-col"),
        ("--loss", "mse", "expected --weight-col COLUMN, which has the ratings, with --loss mse"),
        ("--target", "purchase", "expected --event-type-col COLUMN with --target"),
        ("--block-dropout", "0.5", "expected --vectors NAME=FILE with --block-dropout"),
        ("--checkpoint-batches", "5", "expected --checkpoint FOLDER with --checkpoint-batches"),
        ("--negatives", "9 --loss full-softmax", "expected --loss sampled-softmax, bpr, gbce with --negatives"),
        ("--encoder-items-per-step", "9", "expected --encoder-fine-tuning lora or full with --encoder-items-per-step"),
        ("--encoder-learning-rate", "1e-4", "expected --encoder-fine-tuning lora or full with --encoder-learning-rate"),
        ("--encoder-fine-tuning", "full --no-text", "expected --text, not --no-text, with --encoder-fine-tuning full"),
        ("--prior-half-lives", "2,7 --decay none", "got --prior-half-lives 2,7 with --decay none"),
    ],
)
def test_options_that_mean_nothing_are_wrong_usage(option, value, expected, ebbtide_process, tmp_path):
    # There is no log: it is not read. Torch would fail to load.
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    arguments = ("--events", tmp_path / "log.csv", "--out", tmp_path / "b", option, *value.split())
    done = ebbtide_process("train", *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert expected in " ".join(done.stderr.decode().replace("│", " ").split())


def test_negatives_that_the_default_loss_does_not_draw_are_told_in_one_line(log, ebbtide, tmp_path):
    done = ebbtide("train", "--events", log, "--out", tmp_path / "b", "--epochs", 1, "--negatives", 9)
    assert done.returncode == 0
    [note] = done.stderr.decode().splitlines()
    assert note.startswith("note: --negatives 9 has no effect: full-softmax")


def test_a_holdout_that_leaves_nothing_is_refused_before_torch_is_loaded(log, ebbtide_process, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    arguments = ("--events", log, "--out", tmp_path / "b", "--holdout", "time:1970-01-01")
    done = ebbtide_process("train", *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: holdout: got 'time:1970-01-01'; expected a time between"), done.stderr


@pytest.mark.parametrize(
    ("rows", "holdout", "expected"),
    [
        ([("u1", 1), ("u2", 2), ("u3", 3), ("u4", 4)], "leave-last-out", "holds nothing out"),
        ([("u1", 1), ("u2", 1), ("u1", 1), ("u2", 1), ("u2", 2)], "time:0.99", "leaves nothing to train on"),
        ([("u1", 1), ("u1", 2)], "time:2030-01-01", "between the log's first event"),
    ],
)
def test_a_holdout_that_leaves_nothing_is_told(rows, holdout, expected, ebbtide, tmp_path):
    lines = [f"{user},i{index % 3},{1_700_000_000 + 86_400 * day}" for index, (user, day) in enumerate(rows)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(lines) + "\n")
    done = ebbtide("train", "--events", tmp_path / "log.csv", "--out", tmp_path / "b", "--holdout", holdout)
    assert done.returncode == 1
    assert expected in done.stderr.decode()
    assert b"epoch" not in done.stdout


def test_vectors_of_items_are_read_told_trained_and_inspected(log, ebbtide, tmp_path):
    ids = [f"i{item}" for item in range(8)] + ["x"]
    np.savez(tmp_path / "image.npz", item=np.array(ids), vector=np.random.default_rng(0).normal(size=(9, 5)))
    options = ("--events", log, "--epochs", 1, "--holdout", "time:0.2", "--vectors", f"image={tmp_path / 'image.npz'}")
    done = ebbtide("train", *options, "--out", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.decode()
    assert "image: 1 vectors of items that the catalog lacks are ignored (row 9 'x')" in shown
    assert "image: 8 of 9 items have a vector of 5 numbers" in shown
    (tmp_path / "image.npz").unlink()
    found = json.loads(ebbtide("inspect", tmp_path / "b", "--json").stdout)
    assert [(one["name"], one["items"]) for one in found["blocks"]] == [("text", 9), ("residual", 9), ("image", 8)]
    assert sum(one["share"] for one in found["blocks"]) == pytest.approx(1, abs=0.001)
    assert b"Feature blocks of the items" in ebbtide("inspect", tmp_path / "b").stdout
    for command in (("evaluate", tmp_path / "b"), ("refresh", tmp_path / "b", "--out", tmp_path / "later")):
        done = ebbtide(*command)
        assert done.returncode == 0, done.stderr
    blocks = (InterestBundle.load(tmp_path / name).model.blocks for name in ("b", "later"))
    assert [list(one) for one in blocks] == [["text", "residual", "image"]] * 2


def test_vectors_of_items_are_refused_before_torch_is_loaded(log, ebbtide_process, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    np.savez(tmp_path / "image.npz", item=np.array(["x", "y"]), vector=np.eye(2))
    arguments = ("--events", log, "--out", tmp_path / "b", "--vectors", f"image={tmp_path / 'image.npz'}")
    done = ebbtide_process("train", *arguments, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert b"image.npz: row 1, column item: got 'x', and no id of the catalog in any row" in done.stderr


@pytest.mark.parametrize("with_checkpoint", [True, False])
def test_ctrl_c_says_what_is_kept(with_checkpoint, log, tmp_path):
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from ebbtide.cli.main import main; main()"
    arguments = ["train", "--events", log, "--out", tmp_path / "b", "--epochs", "500"]
    if with_checkpoint:
        arguments += ["--checkpoint", tmp_path / "c"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        text=True,
    ) as process:
        for line in process.stdout:
            if "epoch 2" in line:
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert ("continue with --resume" if with_checkpoint else "nothing was written") in errors
    assert (tmp_path / "c").exists() == with_checkpoint


def test_evaluate_says_why_nothing_was_found_when_all_is_repeated(ebbtide, tmp_path):
    rows = [f"u{user},i{(user + step) % 3},{1_700_000_000 + 3_600 * step}" for user in range(6) for step in range(12)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    for protocol in ("leave-last-out", "time:0.3"):
        out = tmp_path / protocol.replace(":", "-")
        arguments = ("--epochs", 1, "--holdout", protocol, "--no-repeats")
        ebbtide("train", "--events", tmp_path / "log.csv", "--out", out, *arguments)
        assert b"in all of the relevant events the user interacts again" in ebbtide("evaluate", out).stdout
        assert b"interacts again" not in ebbtide("evaluate", out, "--repeats").stdout


@pytest.mark.parametrize(("items", "share", "repeats"), [(3, b"83.3%", True), (50, b"0.0%", False)])
def test_repeats_are_detected_from_the_log(items, share, repeats, ebbtide, tmp_path):
    rows = [
        f"u{user},i{(user + step) % items},{1_700_000_000 + 3_600 * step}" for user in range(6) for step in range(13)
    ]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "\n".join(rows) + "\n")
    done = ebbtide("train", "--events", tmp_path / "log.csv", "--out", tmp_path / "b", "--epochs", 1)
    assert done.returncode == 0, done.stderr
    # Of the 12 events with an earlier one of their user, 2 are of items that are new to them.
    assert share in done.stdout
    model = json.loads((tmp_path / "b" / "bundle.json").read_text())["model"]
    assert (model["repeat_score"], model["exclude_seen"]) == (repeats, not repeats)


@pytest.mark.parametrize(
    "options",
    [("--no-text",), ("--decay", "popularity"), ("--prior-half-lives", "2,inf"), ("--dimensions", 1, "--no-repeats")],
)
def test_unusual_models_are_trained_and_read_again(options, log, ebbtide, tmp_path):
    done = ebbtide("train", "--events", log, "--out", tmp_path / "b", "--epochs", 1, *options)
    assert done.returncode == 0, done.stderr
    assert InterestBundle.load(tmp_path / "b").fingerprint.encode() in done.stdout


@pytest.mark.parametrize(
    ("options", "is_told"),
    [([], True), (["--no-text"], False), (["--encoder", encoder_folder(PACKAGED)], False)],
    ids=["packaged", "no-text", "another"],
)
def test_texts_that_the_packaged_encoder_cannot_read_are_told_once(options, is_told, log, ebbtide, tmp_path):
    rows = [f"i{number},{'霸王别姬' * (number + 1)}" for number in range(9)]
    (tmp_path / "catalog.csv").write_text("\n".join(["item,text", *rows]), encoding="utf-8")
    given = ("--events", log, "--catalog", tmp_path / "catalog.csv", "--epochs", 1, *options)
    done = ebbtide("train", *given, "--out", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).decode().count("9 of 9 texts are not in Latin letters") == is_told
