"""The encoder learns with the interest model: what a step encodes, and a tuned bundle from training to its export."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.train.bundle import TUNED, InterestBundle
from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.choices import FineTuning
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import embed_texts, encoder_fingerprint, encoder_folder
from ebbtide.train.fine_tuning import EncoderFineTuner
from ebbtide.train.trainer import fit
from ebbtide.train.watcher import Watcher

TEXTS = ["Heat", "Toy Story", "robots in space", "Alien"]


def test_step_encodes_no_more_than_its_share_with_gradients():
    torch.manual_seed(0)
    fine_tuner = EncoderFineTuner(encoder_folder("packaged"), TEXTS, FineTuning.lora, items_per_step=2)
    cached = torch.zeros(4, 384)
    mixed = fine_tuner.mixed(cached, torch.tensor([0, 2, 3]))
    encoded = mixed.detach().any(dim=1)
    assert int(encoded.sum()) == 2
    assert not encoded[1]
    torch.testing.assert_close(mixed.detach()[encoded], fine_tuner.refreshed()[encoded], atol=1e-5, rtol=1e-5)
    mixed.sum().backward()
    learned = {name for name, value in fine_tuner.named_parameters() if value.grad is not None}
    assert learned
    assert all("lora_" in name for name in learned)
    assert set(fine_tuner.learned()) == learned


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_tuned_bundle_exports_and_answers_texts_as_its_own_encoder_does(small_files, tmp_path, kind):
    out, repository = tmp_path / "bundle", tmp_path / "repository"
    events, catalog = small_files / "ratings.parquet", small_files / "movies.parquet"
    data = ["--events", events, "--user-col", "userId", "--item-col", "movieId", "--time-col", "timestamp"]
    texts = ["--catalog", catalog, "--text-template", "{title} ({year}). {genres}"]
    training = ["--epochs", "1", "--no-refit", "--dimensions", "16", "--encoder-fine-tuning", kind]
    command = [sys.executable, "-c", "from ebbtide.cli.main import main; main()"]
    subprocess.run([*command, "train", *data, *texts, *training, "--out", out], check=True)
    bundle = InterestBundle.load(out)
    assert bundle.config.encoder.source == TUNED
    assert encoder_fingerprint(bundle.encoder_folder()) == bundle.config.encoder.fingerprint
    # The tuned encoder gives the catalog's vectors, and other ones than the encoder it began as.
    tuned = embed_texts(bundle.encoder_folder(), bundle.catalog.text)
    np.testing.assert_allclose(tuned, bundle.text_vectors, atol=1e-5)
    assert np.abs(embed_texts(encoder_folder("packaged"), bundle.catalog.text) - tuned).max() > 1e-3
    # The export compares itself with torch, and refuses to be written where they differ.
    subprocess.run([*command, "export", out, "--out", repository], check=True)
    in_process = InProcessPipeline(repository)
    projection = bundle.model.event_projection.detach().numpy()
    np.testing.assert_allclose(
        in_process.embed(TEXTS), embed_texts(bundle.encoder_folder(), TEXTS) @ projection, atol=1e-4
    )
    bundle.save(tmp_path / "copy")
    again = InterestBundle.load(tmp_path / "copy")
    assert encoder_fingerprint(again.encoder_folder()) == bundle.config.encoder.fingerprint


class Interrupted(BaseException):
    """Nothing catches it."""


class AfterBatches(Watcher):
    def __init__(self, batches):
        self._left = batches

    def epoch_part_done(self, _part):
        self._left -= 1
        if not self._left:
            raise Interrupted


@pytest.mark.slow
def test_tuning_is_the_same_when_it_was_broken_off_and_resumed(small_log, small_vectors, tmp_path):
    log, catalog = small_log
    config = TrainConfig(encoder_fine_tuning=FineTuning.lora, epochs=2, windows_per_batch=32, refit=False)

    def train(watcher=None, checkpoints=None):
        def make_fine_tuner():
            return EncoderFineTuner(encoder_folder("packaged"), catalog.text, FineTuning.lora, 8)

        everything = np.ones(log.events, bool)
        return fit(
            log, everything, small_vectors, ModelConfig(dimensions=8), config, watcher, checkpoints, make_fine_tuner
        )

    whole = train()
    with pytest.raises(Interrupted):
        train(AfterBatches(5), CheckpointFolder(tmp_path, every_batches=2))
    again = train(None, CheckpointFolder(tmp_path, resume=True))
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert torch.equal(again.model.text_vectors, whole.model.text_vectors)
    assert again.fine_tuner.files() == whole.fine_tuner.files()
