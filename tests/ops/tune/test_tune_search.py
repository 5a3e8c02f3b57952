"""The search on planted, noisy surfaces: what it finds, and that it keeps what is not proven worse."""

import math

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.tune.errors import TuneError
from ebbtide.tune.search import Search
from ebbtide.tune.space import candidates, changed, changes, read_limits, read_settings

WEIGHTS, HEAD = "adaptive_weights", "scoring_head"
START = (TunedSettings(WEIGHTS, 1, None, 0, ()), TunedSettings(HEAD, 1, 1, 0, ()))
CORES = 2


class NoisySurface:
    """Answers per second as a product of effects, with noise of each measurement and noise that a pair shares."""

    def __init__(self, *effects, noise=0.04, seed=0, shares=None):
        self._effects, self._noise, self._shares = effects, noise, shares or {}
        self._random = np.random.default_rng(seed)

    def pair(self, incumbent, challenger):
        shared = self._random.normal(0, 0.1)
        return tuple(
            self.true(one) * math.exp(shared + self._random.normal(0, self._noise)) for one in (incumbent, challenger)
        )

    def time_shares(self):
        return self._shares

    def true(self, settings):
        return 1_000.0 * math.prod(factor for matches, factor in self._effects if matches(*settings))


def two_weights(weights, _):
    return weights.instances >= 2


def both_cores(_, head):
    return head.instances * head.threads == 2


def crowded(weights, head):
    return weights.instances + head.instances * head.threads > 4


PLANTED = ((two_weights, 1.25), (both_cores, 1.2), (crowded, 0.8))
OPTIMUM = (TunedSettings(WEIGHTS, instances=2), TunedSettings(HEAD, threads=2))


def run(surface, **options):
    search = Search(START, surface, CORES, **options)
    return changes(START, search.run()), search


@pytest.mark.parametrize("seed", range(12))
def test_search_finds_the_planted_optimum_when_measurements_are_noisy(seed):
    found, search = run(NoisySurface(*PLANTED, seed=seed))
    assert found == OPTIMUM
    assert search.is_complete


def test_search_leaves_models_alone_when_they_take_too_little_time_to_matter():
    found, search = run(NoisySurface(*PLANTED, shares={WEIGHTS: 0.02, HEAD: 0.9}))
    assert found == OPTIMUM[1:]
    assert search.left_alone == (WEIGHTS,)


@pytest.mark.parametrize("seed", range(20))
def test_search_keeps_the_default_when_nothing_is_better(seed):
    found, search = run(NoisySurface((crowded, 0.8), seed=seed))
    assert found == ()
    assert not any(trial.won for trial in search.trials)


@pytest.mark.parametrize("seed", range(12))
def test_search_takes_the_simplest_when_several_are_as_good(seed):
    # Four instances are 1 % better than two, which is not worth a change.
    surface = NoisySurface((two_weights, 1.25), (lambda weights, _: weights.instances == 4, 1.01), seed=seed)
    assert run(surface)[0] == (TunedSettings(WEIGHTS, instances=2),)


@pytest.mark.parametrize("seed", range(12))
def test_search_takes_a_less_simple_value_when_it_is_much_better(seed):
    surface = NoisySurface(
        (lambda _, head: head.threads == 2, 1.1), (lambda _, head: head.instances == 2, 1.3), (crowded, 0.8), seed=seed
    )
    (found,) = run(surface)[0]
    assert (found.model, found.instances) == (HEAD, 2)


@pytest.mark.parametrize("seed", range(12))
def test_search_never_takes_a_value_when_it_is_slower_than_the_default(seed):
    def two(instances, threads):
        return lambda _, head: (head.instances, head.threads) == (instances, threads)

    surface = NoisySurface((two(2, 1), 1.06), (two(1, 2), 0.985), (crowded, 0.8), noise=0.07, seed=seed)
    assert run(surface)[0] in {(), (TunedSettings(HEAD, instances=2),)}


def test_search_returns_what_won_so_far_when_the_time_is_up():
    surface = NoisySurface(*PLANTED, noise=0.01)
    search = Search(START, surface, CORES, time_is_up=lambda: any(trial.won for trial in search.trials))
    assert changes(START, search.run()) == (TunedSettings(WEIGHTS, instances=2),)
    assert not search.is_complete


def test_search_drops_a_challenger_when_it_cannot_serve():
    class Refusing(NoisySurface):
        def pair(self, incumbent, challenger):
            under, over = super().pair(incumbent, challenger)
            return under, 0.0 if challenger[0].instances == 4 else over

    found, search = run(Refusing(*PLANTED))
    assert found == OPTIMUM
    (refused,) = [trial for trial in search.trials if trial.value == TunedSettings(WEIGHTS, 4)]
    assert refused.ratio.mean == pytest.approx(1e-3)
    assert refused.ratio.pairs == 3


def test_candidates_start_with_what_takes_least_of_the_machine():
    assert candidates(START[1], cores=2) == [
        TunedSettings(HEAD, 1, 2),
        TunedSettings(HEAD, 2, 1),
        TunedSettings(HEAD, 2, 2),
        TunedSettings(HEAD, 4, 1),
    ]
    assert candidates(TunedSettings(WEIGHTS, 2, None), cores=1) == [
        TunedSettings(WEIGHTS, 1),
        TunedSettings(WEIGHTS, 4),
    ]


def test_change_leaves_batching_and_other_models_as_they_were():
    assert changed(START, TunedSettings(HEAD, 1, 2)) == (START[0], TunedSettings(HEAD, 1, 2, 0, ()))


def written(folder, name, text):
    (folder / name).mkdir()
    text_format.Parse(text, model_config_pb2.ModelConfig())
    (folder / name / "config.pbtxt").write_text(text)


def test_settings_and_limits_are_those_of_the_configs(tmp_path):
    step = 'ensemble_scheduling { step [ { model_name: "scoring_head" model_version: -1 } ] }'
    limit = 'parameters { key: "max_events" value { string_value: "64" } }'
    written(tmp_path, "recommend", f'name: "recommend" platform: "ensemble" {step} {limit}')
    written(tmp_path, HEAD, f'name: "{HEAD}" backend: "onnxruntime" instance_group [ {{ count: 2 kind: KIND_CPU }} ]')
    assert read_settings(tmp_path, ["recommend"]) == (TunedSettings(HEAD, 2, 1),)
    limits = read_limits(tmp_path, ["recommend"])
    assert (limits.max_events, limits.max_candidates) == (64, 1024)


def test_settings_are_refused_when_a_model_runs_on_a_gpu(tmp_path):
    step = 'ensemble_scheduling { step [ { model_name: "scoring_head" model_version: -1 } ] }'
    written(tmp_path, "recommend", f'name: "recommend" platform: "ensemble" {step}')
    written(tmp_path, HEAD, f'name: "{HEAD}" backend: "onnxruntime" instance_group [ {{ kind: KIND_GPU }} ]')
    with pytest.raises(TuneError, match=r"got instance groups \['KIND_GPU'\]; expected one of KIND_CPU"):
        read_settings(tmp_path, ["recommend"])
