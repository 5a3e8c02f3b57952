"""Every benchmark that runs in the project's own environment can be imported."""

import importlib

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "benchmarks.client",
        "benchmarks.export",
        "benchmarks.export_head",
        "benchmarks.loadtest",
        "benchmarks.replay",
        "benchmarks.responsible",
        "benchmarks.quality.__main__",
        "benchmarks.quality.worlds",
        "benchmarks.serving.catalog",
        "benchmarks.serving.encoder",
        "benchmarks.serving.memory",
        "benchmarks.serving.peers.grpc_service",
        "benchmarks.serving.peers.measure",
        "benchmarks.serving.pipeline",
        "benchmarks.serving.__main__",
        "benchmarks.slate",
        "benchmarks.training.__main__",
        "benchmarks.training.scale",
        "benchmarks.tune",
    ],
)
def test_benchmark_has_a_main_or_a_measurement_when_it_is_imported(module):
    found = importlib.import_module(module)
    assert any(callable(getattr(found, name, None)) for name in ("main", "measure"))
