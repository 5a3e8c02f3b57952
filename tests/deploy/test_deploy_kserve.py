"""The KServe resources against KServe's own models, Kubernetes' schemas, and the image."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import promql_parser
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KSERVE = DEPLOY / "kserve"
SERVICES = ["inferenceservice.yaml", "inferenceservice-standard.yaml"]
SCHEMAS = json.loads((Path(__file__).parent / "schemas" / "kserve.json").read_text(encoding="utf-8"))
CLASSES = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
NOT_A_CONTAINER = {
    "modelFormat",
    "protocolVersion",
    "runtime",
    "runtimeVersion",
    "storage",
    "storageUri",
    "confidential",
}
"""Fields of a predictor's model that are KServe's own; the rest are a container's."""


def load(name: str) -> dict:
    return yaml.safe_load((KSERVE / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runtime() -> dict:
    return load("servingruntime.yaml")


@pytest.fixture(params=SERVICES)
def service(request) -> dict:
    return load(request.param)


def validate(resource: dict) -> None:
    jsonschema.validate(resource, {**SCHEMAS, "$ref": f"#/$defs/{CLASSES[resource['kind']]}"})


def as_pod(spec: dict) -> dict:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def test_resources_fit_kserves_models(runtime, service):
    validate(runtime)
    validate(service)


def test_validation_fails_when_a_field_of_a_service_is_misspelt(service):
    service["spec"]["predictor"]["model"]["storageURI"] = "s3://bucket"
    with pytest.raises(jsonschema.ValidationError, match="storageURI"):
        validate(service)


def test_pods_fit_kubernetes_when_kserve_puts_them_together(runtime, service):
    container, volumes = runtime["spec"]["containers"][0], runtime["spec"]["volumes"]
    model = service["spec"]["predictor"]["model"]
    merged = {**container, **{key: value for key, value in model.items() if key not in NOT_A_CONTAINER}}
    kubernetes_validate.validate(as_pod({"containers": [merged], "volumes": volumes}), "1.37", strict=True)
    assert {mount["name"] for mount in merged["volumeMounts"]} == {volume["name"] for volume in volumes}


def test_service_names_the_runtime_and_a_format_it_supports(runtime, service):
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    supported = [(entry["name"], entry["version"]) for entry in runtime["spec"]["supportedModelFormats"]]
    assert (model["modelFormat"]["name"], model["modelFormat"]["version"]) in supported


def test_repository_lies_where_the_image_looks_when_kserve_mounts_it(runtime, image):
    # KServe's place for models; the runtime gives no arguments, so the image's own must name it.
    assert image.option("model-repository") == "/mnt/models"
    assert not runtime["spec"]["containers"][0].keys() & {"args", "command"}


def test_grpc_port_is_the_servers_when_kserve_opens_it(service, image):
    (port,) = service["spec"]["predictor"]["model"]["ports"]
    assert port["containerPort"] == int(image.only("EXPOSE").split()[1])
    standard = "serving.kserve.io/deploymentMode" in service["metadata"]["annotations"]
    assert port["name"] == ("grpc-port" if standard else "h2c")


def test_scraped_port_is_the_metrics_port_when_prometheus_asks(runtime, image):
    assert runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == image.only("EXPOSE").split()[2]


def test_kserve_image_is_that_of_the_plain_manifests(runtime, render):
    assert runtime["spec"]["containers"][0]["image"] == render("cpu").triton["image"]


def test_kserve_probes_and_stops_as_the_plain_manifests_do(render, image):
    predictor = load("inferenceservice-standard.yaml")["spec"]["predictor"]
    plain = render("cpu").triton
    http = int(image.only("EXPOSE").split()[0])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        expected = {**plain[probe], "httpGet": {**plain[probe]["httpGet"], "port": http}}
        assert predictor["model"][probe] == expected
    assert predictor["model"]["lifecycle"] == plain["lifecycle"]
    assert predictor["terminationGracePeriodSeconds"] == render("cpu").pod["spec"]["terminationGracePeriodSeconds"]


def test_keda_reads_a_recorded_series_and_the_same_aim_when_it_scales(render):
    (metric,) = load("inferenceservice-standard.yaml")["spec"]["predictor"]["autoScaling"]["metrics"]
    recorded = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    query = promql_parser.parse(metric["external"]["metric"]["query"])
    assert query.expr.name in [rule["record"] for rule in recorded]
    (autoscaler,) = render("cpu").of_kind("HorizontalPodAutoscaler")
    (aim,) = [entry["pods"]["target"] for entry in autoscaler["spec"]["metrics"] if entry["type"] == "Pods"]
    assert metric["external"]["target"]["value"] == aim["averageValue"]
