"""Private training: the accountant against a second library, what one user can change, and a planted canary."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.data.baskets import has_past
from ebbtide.data.dataset import read_dataset
from ebbtide.data.errors import DataError
from ebbtide.data.events import build_log
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.choices import Loss
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.negatives import Sampler
from ebbtide.train.privacy import Guarantee, PrivacyConfig, epsilon_of, guarantee_of
from ebbtide.train.private_fit import (
    PrivateWindows,
    clipped_gradient,
    descend,
    fit_private,
    public_start,
    require_private,
)
from ebbtide.train.private_stage import train_private_bundle
from ebbtide.train.step import Step
from ebbtide.train.windows import LogTensors
from films import films_in

MODEL = ModelConfig(dimensions=8, prior_half_life_days=())
TRAINING = TrainConfig(
    dropout=0.0,
    residual_dropout=0.0,
    loss=Loss.full_softmax,
    learning_rate=0.02,
    context_events=12,
    targets_per_window=12,
)
NOISY = PrivacyConfig(epsilon=1.0, delta=1e-3, users_per_step=10, steps=20)
ITEMS = 30
DAY = 86_400_000

REFERENCE = [
    # Noise multiplier, sample rate, steps, delta; by dp-accounting 0.6.0: RdpAccountant and the tighter PLDAccountant.
    (1.0, 0.01, 1000, 1e-5, 2.1014, 1.8282),
    (2.0, 0.1, 300, 1e-5, 4.5643, 4.1833),
    (0.8, 0.005, 5000, 1e-6, 4.1388, 3.6624),
    (4.0, 0.5, 100, 1e-4, 5.6238, 5.1179),
    (1.5, 1.0, 20, 1e-5, 17.6647, 16.5420),
]


@pytest.mark.parametrize(("noise", "rate", "steps", "delta", "by_orders", "by_losses"), REFERENCE)
def test_epsilon_is_that_of_the_second_library_and_never_below_the_tight_one(
    noise, rate, steps, delta, by_orders, by_losses
):
    found = epsilon_of(noise, rate, steps, delta)
    assert found == pytest.approx(by_orders, abs=2e-4)
    assert found >= by_losses


def test_guarantee_keeps_what_was_asked_for_and_wastes_little():
    found = guarantee_of(PrivacyConfig(epsilon=2.0, delta=1e-5, users_per_step=100, steps=500), users=5000)
    assert found.sample_rate == 0.02
    assert 1.9 < found.epsilon <= 2.0
    assert found.epsilon == epsilon_of(found.noise_multiplier, 0.02, 500, 1e-5)
    with pytest.raises(DataError, match="expected less than 1/users"):
        guarantee_of(PrivacyConfig(epsilon=2.0, delta=1e-3), users=1000)


def log_of(users, seed=0, without=()):
    """A log of random users, the same for each user whoever else is in it."""
    frames = []
    for user in users:
        if user in without:
            continue
        random = np.random.default_rng([seed, user])
        count = 12
        frames.append(
            pl.DataFrame(
                {
                    "user": [f"u{user:03}"] * count,
                    "item": [f"i{item}" for item in random.integers(0, ITEMS, count)],
                    "time_ms": np.cumsum(random.integers(60_000, 5 * DAY, count)),
                }
            )
        )
    frame = pl.concat(frames).with_columns(weight=pl.lit(1.0, pl.Float32))
    return build_log(frame, {f"i{item}": item for item in range(ITEMS)})


TEXTS = torch.nn.functional.normalize(torch.randn(ITEMS, 16, generator=torch.Generator().manual_seed(1)), dim=1)


def step_of(log, loss=Loss.full_softmax):
    torch.manual_seed(0)
    model = public_start(MODEL, TEXTS)
    targets = has_past(log) & log.is_target
    training = TRAINING.model_copy(update={"loss": loss, "negatives": 16})
    sampler = Sampler(np.zeros(ITEMS, dtype=np.int64), 16, by_popularity=True)
    step = Step(model, log, LogTensors.of(log, MODEL.session_gap_ms), None, targets, training, sampler=sampler)
    return step, PrivateWindows(log, targets), [one for one in model.parameters() if one.requires_grad]


@pytest.mark.parametrize("loss", [Loss.full_softmax, Loss.sampled_softmax, Loss.bpr, Loss.gbce])
def test_gradient_of_a_user_is_the_same_whoever_else_is_in_the_log(loss):
    gradients = []
    for others in ([1], [0, 1, 2, 3], [1, 8, 9]):
        step, windows, learned = step_of(log_of(others), loss)
        torch.manual_seed(5)
        gradients.append(clipped_gradient(step, windows.of(others.index(1), np.random.default_rng(3)), learned, 1e9))
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


@given(st.floats(1e-3, 10.0))
def test_gradient_of_a_user_is_never_longer_than_the_clip_norm(clip_norm):
    step, windows, learned = step_of(log_of([0, 1]))
    found = clipped_gradient(step, windows.of(0, np.random.default_rng(0)), learned, clip_norm)
    norm = float(torch.stack([part.double().square().sum() for part in found]).sum().sqrt())
    assert norm <= clip_norm
    free = clipped_gradient(step, windows.of(0, np.random.default_rng(0)), learned, 1e9)
    length = float(torch.stack([part.double().square().sum() for part in free]).sum().sqrt())
    assert norm == pytest.approx(min(clip_norm, length), rel=1e-4)


def test_users_are_drawn_each_for_themselves_at_the_sample_rate():
    windows = PrivateWindows(log_of(range(40)), has_past(log_of(range(40))))
    random = np.random.default_rng(0)
    sizes = [len(windows.drawn(0.3, random)) for _ in range(400)]
    assert np.mean(sizes) == pytest.approx(12, rel=0.05)
    # Of a binomial distribution: a batch of fixed size, which the accountant is not for, would have none.
    assert np.var(sizes) == pytest.approx(40 * 0.3 * 0.7, rel=0.3)


def test_step_has_the_noise_that_the_accountant_counts():
    step, windows, learned = step_of(log_of(range(10)))
    guarantee = Guarantee(
        epsilon=1.0, delta=1e-3, noise_multiplier=5.0, clip_norm=0.2, sample_rate=0.5, steps=1, accountant="test"
    )
    descend(step, windows, TRAINING, guarantee, np.random.default_rng(0))
    noisy = torch.cat([parameter.grad.flatten() for parameter in learned]) * 0.5 * windows.users
    assert len(noisy) > 500
    # Five clipped users can add 1 to the length in all, the noise has 5 * 0.2 in each number.
    assert float(noisy.std()) == pytest.approx(1.0, rel=0.1)


def test_start_depends_on_the_catalog_alone():
    step, _, _ = step_of(log_of([0, 1]))
    other, _, _ = step_of(log_of([4, 5, 6]))
    for one, two in zip(step.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert not step.model.item_residual.any()


CANARY = 999


def canary_log(*, with_canary):
    """Ten users with random events, and maybe one who goes to and fro between two items, as nobody else does."""
    log = log_of(range(10))
    if not with_canary:
        return log
    count = 60
    frame = pl.concat(
        [
            pl.DataFrame(
                {
                    "user": pl.Series(log.users).gather(log.user),
                    "item": [f"i{item}" for item in log.item],
                    "time_ms": log.time_ms,
                }
            ),
            pl.DataFrame(
                {
                    "user": [f"u{CANARY}"] * count,
                    "item": [f"i{index % 2}" for index in range(count)],
                    "time_ms": np.arange(1, count + 1) * 3_600_000,
                }
            ),
        ]
    )
    return build_log(frame.with_columns(weight=pl.lit(1.0, pl.Float32)), {f"i{item}": item for item in range(ITEMS)})


def attack(guarantee, seed, *, with_canary):
    """What an attacker sees who asks the model for the canary's next items: minus their loss."""
    step, windows, _ = step_of(canary_log(with_canary=with_canary))
    descend(step, windows, TRAINING, guarantee, np.random.default_rng([seed, with_canary]))
    probe, _, _ = step_of(canary_log(with_canary=True))
    probe.model.load_state_dict(step.model.state_dict())
    head = int(np.searchsorted(probe.log.user, len(probe.log.users) - 1)) + 1
    with torch.inference_mode():
        return -float(probe(np.array([[head, head]]))[0])


def advantage(guarantee, trainings):
    """How much better than by chance a threshold tells trainings with the canary from those without, at most 1.

    The threshold is chosen on half of the trainings and judged on the other half, so that luck does not count.
    """
    members, others = (
        np.array([attack(guarantee, seed, with_canary=with_canary) for seed in range(trainings)])
        for with_canary in (True, False)
    )
    half = trainings // 2
    cut = (members[:half].mean() + others[:half].mean()) / 2
    return float((members[half:] > cut).mean() - (others[half:] > cut).mean())


@pytest.mark.slow
def test_canary_is_found_in_a_model_without_noise():
    nothing = Guarantee(
        epsilon=1e9, delta=0, noise_multiplier=0, clip_norm=1e6, sample_rate=0.5, steps=60, accountant="none"
    )
    assert advantage(nothing, 8) == 1.0


@pytest.mark.slow
def test_canary_is_not_found_in_a_private_model():
    guarantee = guarantee_of(PrivacyConfig(epsilon=1.0, delta=1e-3, users_per_step=5, steps=30), users=10)
    assert guarantee.noise_multiplier > 1
    # No attack on many trainings has more than (e - 1) / (e + 1) + delta.
    assert advantage(guarantee, 24) <= 0.46


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        ({"prior_half_life_days": (1.0,)}, {}, "prior_half_life_days"),
        ({"exclude_seen": False, "repeat_score": True}, {}, "repeat_score"),
        ({"event_types": ("buy", "view")}, {}, "event_types"),
        ({"text": False}, {}, "text"),
        ({}, {"loss": Loss.mse}, "loss"),
        ({}, {"encoder_fine_tuning": "lora"}, "encoder_fine_tuning"),
    ],
)
def test_settings_that_leak_are_refused(model, training, message):
    with pytest.raises(DataError, match=f"^{message}: got .* with private training; expected"):
        require_private(
            ModelConfig.model_validate({**MODEL.model_dump(), **model}),
            TrainConfig.model_validate({**TRAINING.model_dump(), **training}),
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"catalog": None}, "catalog"),
        ({"event_type_column": "kind"}, "event types"),
        ({"vectors": {"covers": "covers.parquet"}}, "vectors"),
        ({"holdout": "time:0.2"}, "holdout"),
    ],
)
def test_data_descriptions_that_leak_are_refused(small_files, changed, message):
    data = films_in(small_files, title_template=None, max_bad_rows=0.0).model_copy(update=changed)
    with pytest.raises(DataError, match=f"^{message}: got .* with private training; expected"):
        train_private_bundle(data, "packaged", MODEL, TRAINING, NOISY)


def test_private_bundle_says_what_it_promises_and_nothing_else_of_the_log(small_files, tmp_path):
    data = films_in(small_files, title_template=None, max_bad_rows=0.0, holdout="leave-last-out")
    bundle, _ = train_private_bundle(data, "packaged", MODEL, TRAINING, NOISY)
    bundle.save(tmp_path / "private")
    loaded = InterestBundle.load(tmp_path / "private")
    assert loaded.config.privacy.unit == "user"
    assert loaded.config.privacy.epsilon <= 1.0
    assert loaded.config.privacy.steps == NOISY.steps
    assert loaded.prior_counts is None
    assert loaded.prior_columns.shape[1] == 0
    assert not loaded.model.item_residual.any()
    assert not loaded.model.event_residual.any()
    content = json.loads((tmp_path / "private" / "bundle.json").read_text())
    log = read_dataset(data).log
    numbers = {str(log.events), str(log.users), str(int(log.time_ms.max())), str(int(log.time_ms.max()) + 1)}
    assert content["prior_counted_at_ms"] == 0
    assert not numbers & set(map(str, content.values()))


def test_two_private_trainings_differ_though_the_seed_is_the_same(small_log, small_vectors):
    log, _ = small_log
    models = [
        fit_private(log, np.ones(log.events, dtype=bool), small_vectors, MODEL, TRAINING, replace_steps(2))[0]
        for _ in range(2)
    ]
    assert not torch.equal(models[0].event_projection, models[1].event_projection)


def replace_steps(steps):
    return NOISY.model_copy(update={"steps": steps})
