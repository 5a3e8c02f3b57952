"""The sweep measures batch sizes, and the good ones become preferred."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ebbtide.export import versions
from ebbtide.export.sweep import SweepRow, prefer, preferred_batch_sizes, sweep
from ebbtide.export.warmup import common_ground
from ebbtide.interest import served_models
from ebbtide.train.bundle import InterestBundle

HEAD, ENCODER = served_models.SCORING_HEAD.name, served_models.ENCODER.name


@pytest.fixture
def small(repository: Path, tmp_path: Path) -> Path:
    """The export with small batches, so that few are measured."""
    out = tmp_path / "out"
    shutil.copytree(repository, out, copy_function=os.link)
    for name, size in ((HEAD, 6), (ENCODER, 2)):
        versions.rewrite_configs(out / name, lambda config, size=size: setattr(config, "max_batch_size", size))
    return out


def test_sweep_measures_every_batch_size_of_each_model(small: Path, bundle: InterestBundle) -> None:
    rows = sweep(small, common_ground({1: small}), bundle.catalog.text)
    assert [row.batch for row in rows if row.model == HEAD] == [1, 2, 4, 6]
    lengths = sorted({row.tokens for row in rows if row.model == ENCODER})
    assert all(length % 8 == 0 for length in lengths)
    assert [(row.tokens, row.batch) for row in rows if row.model == ENCODER] == [
        (length, batch) for length in lengths for batch in (1, 2)
    ]
    for row in rows:
        assert row.median_ms > 0
        assert row.rows_per_s == pytest.approx(row.batch / row.median_ms * 1000, rel=0.05)


def row(model: str, batch: int, rows_per_s: float, tokens: int | None = None) -> SweepRow:
    return SweepRow(model, batch, tokens, 1000 * batch / rows_per_s, rows_per_s)


def test_smallest_good_size_and_the_largest_are_preferred_when_larger_ones_gain_little() -> None:
    head = [row(HEAD, batch, rate) for batch, rate in ((1, 100), (2, 180), (4, 330), (8, 350), (16, 360))]
    short = [row(ENCODER, batch, rate, 16) for batch, rate in ((1, 10), (2, 20), (4, 40))]
    middling = [row(ENCODER, batch, rate, 32) for batch, rate in ((1, 10), (2, 10.5), (4, 11))]
    long = [row(ENCODER, batch, rate, 48) for batch, rate in ((1, 5), (2, 9), (4, 12))]
    assert preferred_batch_sizes([*head, *short, *middling, *long]) == {HEAD: (4, 16), ENCODER: (1, 4)}


def test_one_size_is_preferred_when_the_largest_alone_is_good() -> None:
    assert preferred_batch_sizes([row(HEAD, 1, 10), row(HEAD, 2, 100)]) == {HEAD: (2,)}


def test_preferred_sizes_are_replaced_when_others_are_chosen(small: Path) -> None:
    prefer(small, {HEAD: (2, 6)})
    prefer(small, {HEAD: (4, 6)})
    assert list(versions.read_model_config(small, HEAD).dynamic_batching.preferred_batch_size) == [4, 6]
    assert not versions.read_model_config(small, ENCODER).dynamic_batching.preferred_batch_size
