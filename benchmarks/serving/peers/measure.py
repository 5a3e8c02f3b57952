"""Compares `recommend` with three services that give the same recommendations; see `benchmarks.serving.peers`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.serving.agreement import ask, require_agreement
from benchmarks.serving.exported import exported
from benchmarks.serving.load import PerfAnalyzer, Turn
from benchmarks.serving.peers.operator_ensemble import write_operators
from benchmarks.serving.recommend import IN_FLIGHT, OURS, turn_seconds
from benchmarks.serving.settings import Settings
from benchmarks.serving.systems import free_ports, service, triton
from benchmarks.serving.turns import Rounds, ratio, raw, take_turns
from benchmarks.serving.users import real_requests
from ebbtide.interest import served_models
from ebbtide.train.bundle import InterestBundle

_TUNING_S = 3.0
Start = Callable[..., AbstractContextManager[str]]


@dataclass(frozen=True)
class Peer:
    """A service and the settings to try."""

    title: str
    start: Start
    """Starts the service with one of `variants` as keyword arguments; yields the gRPC address."""
    variants: tuple[dict[str, int], ...]
    """Settings to try; a quick run uses the first."""


def peers(settings: Settings, bundle: InterestBundle) -> dict[str, Peer]:
    """The three peers, by key."""

    def grpc_aio(**options: int) -> AbstractContextManager[str]:
        ports = free_ports()
        return service(
            "grpc_service",
            ["--bundle", str(settings.bundle.absolute()), "--port", str(ports.grpc), *_flags(options)],
            ports,
        )

    def pytriton(**options: int) -> AbstractContextManager[str]:
        ports = free_ports()
        listed = [str(port) for port in (ports.grpc, ports.http, ports.metrics)]
        return service(
            "pytriton_service",
            ["--bundle", str(settings.bundle.absolute()), "--ports", *listed, *_flags(options)],
            ports,
        )

    def operators(instances: int) -> AbstractContextManager[str]:
        repository = settings.work / f"operators-{instances}"
        if not repository.is_dir():
            write_operators(bundle, repository, instances)
        return triton(repository)

    return {
        "p1": Peer(
            "grpc.aio, PyTorch eager",
            grpc_aio,
            (
                {"max_batch": 64, "torch_threads": 1},
                {"max_batch": 64, "torch_threads": 2},
                {"max_batch": 8, "torch_threads": 1},
                {"max_batch": 1, "torch_threads": 1},
            ),
        ),
        "p2": Peer(
            "PyTriton, PyTorch eager",
            pytriton,
            (
                {"instances": 1, "torch_threads": 1, "queue_delay_us": 0},
                {"instances": 1, "torch_threads": 2, "queue_delay_us": 0},
                {"instances": 2, "torch_threads": 1, "queue_delay_us": 0},
                {"instances": 1, "torch_threads": 1, "queue_delay_us": 1_000},
            ),
        ),
        "p3": Peer("one Python model per operator", operators, ({"instances": 1}, {"instances": 2})),
    }


def measure(settings: Settings) -> dict[str, Any]:
    """Ratios of Ebbtide's throughput and p99 to each peer's, with `IN_FLIGHT` requests in flight."""
    load = PerfAnalyzer.set_up()
    bundle = InterestBundle.load(settings.bundle)
    requests = real_requests(bundle)
    data = requests.write_json(settings.work / "requests.json")
    seconds = turn_seconds(settings)
    found: dict[str, Any] = {}
    with ExitStack() as running:
        urls = {OURS: running.enter_context(triton(exported(settings)))}
        expected = ask(urls[OURS], requests)
        for key, peer in peers(settings, bundle).items():
            best, tried = (peer.variants[0], []) if settings.quick else _best_variant(peer, load, data)
            urls[key] = running.enter_context(peer.start(**best))
            difference = require_agreement(peer.title, ask(urls[key], requests), expected)
            found[key] = {"title": peer.title, "settings": best, "tried": tried, "largest_score_difference": difference}
        for url in urls.values():
            load.warm_up(url, served_models.RECOMMEND.name, data, IN_FLIGHT)
        turn = partial(load.turn, model=served_models.RECOMMEND.name, data=data, concurrency=IN_FLIGHT, seconds=seconds)
        rounds = take_turns({name: partial(turn, url) for name, url in urls.items()}, settings.repeats)
    for key in found:
        found[key] = {**_ratios(rounds, key), **found[key]}
    return {**found, "turn_s": seconds, f"concurrency_{IN_FLIGHT}": raw(rounds)}


def _ratios(rounds: Rounds, peer: str) -> dict[str, float]:
    ours, other = rounds[OURS], rounds[peer]
    return {
        "throughput_ratio": ratio([turn.requests_per_s for turn in ours], [turn.requests_per_s for turn in other]),
        "p99_ratio": ratio([turn.p99_ms for turn in ours], [turn.p99_ms for turn in other]),
    }


def _best_variant(peer: Peer, load: PerfAnalyzer, data: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """The settings with the highest throughput, and the figures of each setting."""
    tried: list[tuple[Turn, dict[str, int]]] = []
    for variant in peer.variants:
        with peer.start(**variant) as url:
            load.warm_up(url, served_models.RECOMMEND.name, data, IN_FLIGHT)
            tried.append((load.turn(url, served_models.RECOMMEND.name, data, IN_FLIGHT, _TUNING_S), variant))
    _, best = max(tried, key=lambda one: one[0].requests_per_s)
    return best, [{**variant, **turn.raw()} for turn, variant in tried]


def _flags(options: dict[str, int]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
