"""The recurrence over the log gives the same interest as the sum over a request's events."""

import numpy as np
import pytest
import torch

from ebbtide.interest.blend import blend_interest
from ebbtide.interest.contract import Limits
from ebbtide.interest.events import order_events
from ebbtide.interest.parameters import GateParameters, InterestConfig, InterestParameters
from ebbtide.interest.state import InterestState, advance, read
from ebbtide.train.config import ModelConfig
from ebbtide.train.model import InterestModel
from ebbtide.train.windows import LogTensors, predict_windows, training_windows

TARGETS = 4


def model_of(**settings):
    torch.manual_seed(11)
    model = InterestModel(ModelConfig(dimensions=5, session_gap_minutes=30, **settings), torch.randn(12, 8))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def direct(model, log, event, *, folded):
    """Interest and alpha just before one event, by the served formulas, of all events or of a state and 3 events."""
    gate = None
    if model.config.fixed_alpha is None:
        gate = GateParameters(
            *(
                part.detach().numpy()
                for part in (
                    model.gate_hidden.weight.T,
                    model.gate_hidden.bias,
                    model.gate_output.weight.T,
                    model.gate_output.bias,
                )
            )
        )
    config = InterestConfig("", model.config.session_gap_ms, model.config.fixed_alpha, True, False, Limits())
    parameters = InterestParameters(
        config,
        model.decay_rate_per_day.detach().numpy(),
        model.rank_decay_rate.detach().numpy(),
        gate,
        np.zeros(0, np.float32),
    )
    first = log.start[np.searchsorted(log.start, event, side="right") - 1]
    vectors = model.event_vectors().detach().numpy()[log.item]
    state = InterestState.empty(1, vectors.shape[1])
    tail = slice(max(first, event - 3) if folded else first, event)
    for past in range(first, tail.start):
        one = slice(past, past + 1)
        state = advance(state, parameters, np.array([1]), log.time_ms[one], vectors[one], log.weight[one])
    now_ms = log.time_ms[event : event + 1]
    batch = order_events(
        np.array([event - tail.start]), log.time_ms[tail], now_ms, log.weight[tail], None, config.session_gap_ms
    )
    base = read(state, parameters, now_ms, batch) if folded else None
    blend = blend_interest(batch, vectors[tail][batch.source], parameters, base=base)
    return blend.interest[0], blend.alpha[0]


@pytest.mark.parametrize("folded", [False, True], ids=["all-events", "state-and-tail"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"alpha": "per-dimension"}, {"alpha": "fixed:0.3"}, {"decay": "none", "alpha": "fixed:0.5"}],
    ids=["learned", "per-dimension", "fixed", "step-3"],
)
def test_recurrence_equals_the_sum_over_events_before_every_event(random_log, settings, folded):
    model = model_of(**settings)
    tensors = LogTensors.of(random_log, model.config.session_gap_ms)
    everyone = np.ones(random_log.events, dtype=bool)
    windows = training_windows(random_log, everyone, TARGETS, np.random.default_rng(0))
    with torch.inference_mode():
        predicted = predict_windows(
            model, tensors, windows, 40, TARGETS, torch.from_numpy(everyone), model.event_vectors()
        )
    assert sorted(predicted.event.tolist()) == list(range(random_log.events))
    for row, event in enumerate(predicted.event.tolist()):
        interest, alpha = direct(model, random_log, event, folded=folded)
        np.testing.assert_allclose(predicted.blend.interest[row], interest, atol=2e-5, err_msg=f"event {event}")
        np.testing.assert_allclose(predicted.blend.alpha[row], alpha, atol=2e-5)


def test_training_windows_cover_every_target_once_and_skip_empty_windows(random_log):
    random = np.random.default_rng(1)
    targets = random.random(random_log.events) < 0.2
    windows = training_windows(random_log, targets, TARGETS, random)
    covered = []
    for start, owner in windows:
        user = np.searchsorted(random_log.start, owner, side="right") - 1
        inside = range(max(start, random_log.start[user]), min(start + TARGETS, random_log.start[user + 1]))
        assert any(targets[event] for event in inside)
        covered += [event for event in inside if targets[event]]
    assert sorted(covered) == np.flatnonzero(targets).tolist()


@pytest.mark.parametrize("context", [3, 12])
def test_every_target_sees_as_many_events_as_a_request_when_windows_are_exact(random_log, context):
    model = model_of(alpha="fixed:0.4")
    tensors = LogTensors.of(random_log, model.config.session_gap_ms)
    everyone, vectors = torch.ones(random_log.events, dtype=torch.bool), model.event_vectors()
    users = np.searchsorted(random_log.start, np.arange(random_log.events), side="right") - 1
    shared = np.repeat(random_log.start[users[:: TARGETS - 1]][:, None], 2, axis=1)
    shared[:, 0] = np.arange(0, random_log.events, TARGETS - 1)
    with torch.inference_mode():
        found = predict_windows(model, tensors, shared, context, TARGETS, everyone, vectors, exact=True)
        alone = np.repeat(found.event.numpy()[:, None], 2, axis=1)
        expected = predict_windows(model, tensors, alone, context, 1, everyone, vectors)
        loose = predict_windows(model, tensors, shared, context, TARGETS, everyone, vectors)
    torch.testing.assert_close(found.blend.interest, expected.blend.interest, rtol=1e-4, atol=1e-5)
    assert (loose.blend.interest - expected.blend.interest).abs().max() > 0.01


def test_recurrence_sees_only_the_context_when_a_history_is_longer(random_log):
    model = model_of()
    tensors = LogTensors.of(random_log, model.config.session_gap_ms)
    event = int(random_log.start[3]) - 1
    targets = np.zeros(random_log.events, dtype=bool)
    targets[event] = True
    window = np.array([[event, event]])
    vectors = model.event_vectors()

    def item(index):
        return int(random_log.item[index])

    with torch.inference_mode():
        far, near = (
            predict_windows(model, tensors, window, context, 1, torch.from_numpy(targets), vectors).blend.interest
            for context in (29, 2)
        )
        assert not torch.allclose(far, near)
        beyond = next(
            index for index in range(event - 3, 0, -1) if item(index) not in {item(event - 2), item(event - 1)}
        )
        changed = vectors.clone()
        changed[item(beyond)] += 100
        again = predict_windows(model, tensors, window, 2, 1, torch.from_numpy(targets), changed).blend.interest
        assert torch.equal(again, near)
        again = predict_windows(model, tensors, window, 29, 1, torch.from_numpy(targets), changed).blend.interest
        assert not torch.allclose(again, far)
