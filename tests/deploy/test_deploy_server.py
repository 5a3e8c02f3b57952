"""The truth: endpoints, ports and clients against a real server that runs with the image's own options."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import grpc
import pytest

from deadlines import PATIENT
from ebbtide.client import InterestClient, event
from ebbtide.interest import served_models

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def test_every_model_is_ready_when_started_with_the_images_options(fetch):
    for name in served_models.MODELS:
        assert fetch("http", f"/v2/models/{name}/ready")[0] == 200


def test_recommendations_are_answered_when_started_with_the_images_options(server, catalog):
    now = datetime.now(timezone.utc)
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        answer = client.recommend(
            history=[event(item_id=catalog.item_id[0], time=now - timedelta(days=3))],
            current=[event(text="space opera with robots", time=now)],
            top_n=5,
        )
    assert len(answer.items) == 5


def test_release_names_the_tested_triton_when_the_server_tells_its_version(fetch, deploy):
    version = re.search(r'"version":"([\d.]+)"', fetch("http", "/v2")[1])[1]
    assert f"Triton {version})" in (deploy / "docker" / "Dockerfile").read_text(encoding="utf-8")


def test_ports_are_the_servers_defaults_when_the_image_exposes_them(image, server_options):
    defaults = {name: int(re.search(r"Default is (\d+)", server_options[f"{name}-port"])[1]) for name in PORTS}
    assert defaults == PORTS
    assert image.only("EXPOSE").split() == [str(port) for port in PORTS.values()]


def test_health_check_asks_what_the_server_answers_when_it_is_ready(image, fetch):
    port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/\S+)", image.health_command[-1]).groups()
    assert int(port) == PORTS["http"]
    assert fetch("http", path)[0] == 200


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probe_is_answered_when_kubernetes_asks(probe, rendered, fetch):
    asked = rendered.triton[probe]["httpGet"]
    assert fetch(asked["port"], asked["path"])[0] == 200


def test_probe_would_fail_when_its_path_were_wrong(fetch):
    assert fetch("http", "/v2/health/started")[0] != 200


def test_metrics_are_served_when_prometheus_asks(rendered, fetch):
    (monitor,) = rendered.of_kind("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    status, body = fetch(endpoint["port"], endpoint["path"])
    assert status == 200
    assert "nv_inference_request_success" in body


def test_grpc_health_service_answers_when_a_mesh_asks_it(server):
    # grpc.health.v1.Health/Check of the whole server; field 1 = 1 is SERVING.
    with grpc.insecure_channel(server.grpc_url) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=300) == b"\x08\x01"


def test_models_can_be_loaded_again_when_a_deployment_switches_versions(server, fetch):
    with grpc.insecure_channel(server.grpc_url) as channel:
        load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
        # RepositoryModelLoadRequest: field 2 is the model's name.
        load(b"\x12\x09recommend", timeout=300)
    assert fetch("http", "/v2/models/recommend/ready")[0] == 200
