"""TensorBoard's own reader finds what a training logged."""

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ebbtide.train.board import Board
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.trainer import fit


def test_board_holds_every_epoch_as_the_fit_tells_it(random_log, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    config = TrainConfig(epochs=2, validation_fraction=0.3, refit=False, start=Start.texts)
    result = fit(
        random_log, np.ones(random_log.events, bool), vectors, ModelConfig(dimensions=8), config, Board(tmp_path)
    )
    logged = EventAccumulator(str(tmp_path / "train")).Reload()
    found = {tag: [event.value for event in logged.Scalars(tag)] for tag in logged.Tags()["scalars"]}
    assert found["loss"] == pytest.approx([epoch.loss for epoch in result.epochs[1:]])
    assert found["alpha"] == pytest.approx([epoch.alpha for epoch in result.epochs[1:]])
    ndcg = [epoch.validation.ndcg_at_10 for epoch in result.epochs]
    assert found["validation/ndcg_at_10"] == pytest.approx(ndcg)
    assert found["half_life_days/0.5"] == pytest.approx([epoch.half_life_days[2] for epoch in result.epochs])
    assert len(found["learning_rate"]) == 2
