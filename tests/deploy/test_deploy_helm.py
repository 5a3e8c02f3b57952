"""The Helm chart, rendered by helm: the same as the Kustomize overlays, schemas, features, refused values."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ebbtide.interest.meters import is_on

from .conftest import GATEWAY, SECURE, TRACES, selects

pytestmark = pytest.mark.skipif(
    not (Path(sys.executable).parent / "helm").exists(), reason="no helm for this kind of machine"
)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "ebbtide"
SCHEMAS = Path(__file__).parent / "schemas"
CUSTOM = ("PodMonitor", "PrometheusRule")
VERSIONS = ["1.30", "1.37"]
COPIES = {"rules.yaml": ROOT / "deploy" / "prometheus", "ebbtide.json": ROOT / "deploy" / "grafana"}

SYNC = (
    "--set=repository.source=sync,repository.sync.source=store:ebbtide-models/exports/v1",
    "--set=repository.sync.settings.RCLONE_CONFIG_STORE_TYPE=s3",
    "--set=repository.sync.settings.RCLONE_CONFIG_STORE_PROVIDER=AWS",
    "--set=repository.sync.settings.RCLONE_CONFIG_STORE_REGION=eu-central-1",
    "--set-string=repository.sync.settings.RCLONE_CONFIG_STORE_ENV_AUTH=true",
    "--set=repository.credentialsSecret=ebbtide-repository-credentials",
)
S3 = (
    "--set=repository.source=s3,repository.s3.url=s3://ebbtide-models/exports/v1,repository.s3.region=eu-central-1",
    "--set=repository.credentialsSecret=ebbtide-repository-credentials",
)
OVERLAYS = {"cpu": (), "gpu": ("--set=gpu.enabled=true",), "cpu-sync": SYNC, "cpu-s3": S3}
"""The values with which the chart says the same as each overlay."""
STATE = ("--set=state.address=rediss://redis.example.com:6380/0,state.secret=ebbtide-state",)
FEATURES = {
    **OVERLAYS,
    "gateway": GATEWAY,
    "gateway-secure": SECURE,
    "traces": (*SECURE, *TRACES),
    "traces-sync": (*SYNC, *TRACES),
    "state": STATE,
    "state-s3": (*STATE, *S3),
    "no-monitoring": ("--set=monitoring.enabled=false",),
    "dashboard": ("--set=monitoring.dashboard=true,monitoring.labels.release=kube-prometheus-stack",),
    "no-autoscaling": ("--set=autoscaling.enabled=false,replicas=3",),
    "claim": ("--set=repository.volume.existingClaim=models",),
    "nodes": (
        "--set=nodeSelector.pool=recommender,imagePullSecrets={registry},tolerations[0].key=dedicated",
        "--set=repository.volume.storageClass=nfs,serviceAccount.annotations.role=reader,gpu.enabled=true",
    ),
}
OWN_LABELS = ("app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart")


@pytest.fixture(params=FEATURES)
def featured(request, render_chart):
    """The chart with each feature in turn."""
    return render_chart(*FEATURES[request.param])


def without(tree: Any, keys: tuple[str, ...]) -> Any:
    """A copy in which no mapping has one of the keys."""
    if isinstance(tree, dict):
        return {key: without(value, keys) for key, value in tree.items() if key not in keys}
    return [without(entry, keys) for entry in tree] if isinstance(tree, list) else tree


def comparable(rendered: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Resources by kind and name, without what Helm adds and with environments as pods see them."""
    maps = {entry["metadata"]["name"]: entry["data"] for entry in rendered.of_kind("ConfigMap")}
    found = {}
    for resource in rendered.resources:
        # Helm makes the namespace itself (--create-namespace); the chart gives settings to the pod, not to a ConfigMap.
        if resource["kind"] in ("Namespace", "ConfigMap"):
            continue
        copy = without(resource, OWN_LABELS)
        copy["metadata"] = without(copy["metadata"], ("namespace", "annotations"))
        if resource["kind"] == "Deployment":
            pod = copy["spec"]["template"]["spec"]
            pod["volumes"].sort(key=lambda volume: volume["name"])
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                container["volumeMounts"].sort(key=lambda mount: mount["name"])
                settle_environment(container, maps)
        found[resource["kind"], resource["metadata"]["name"]] = copy
    return found


def settle_environment(container: dict[str, Any], maps: dict[str, dict[str, str]]) -> None:
    """Replaces `env` and references to ConfigMaps by one mapping; Secrets remain references."""
    sources = container.pop("envFrom", [])
    variables = {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container.pop("env", [])}
    for source in sources:
        variables |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
    container["env"] = variables
    # A missing Secret stops the chart's pods, since a value names it; the overlay's is optional.
    container["secrets"] = [source["secretRef"]["name"] for source in sources if "secretRef" in source]


def containers(pod: dict) -> list[dict]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def ports(container: dict) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


def selectors(rendered: Any) -> list[dict[str, str]]:
    """The labels by which each resource finds pods of the release."""
    specs = [resource["spec"] for resource in rendered.resources if "spec" in resource]
    found = [spec.get("selector") or spec.get("podSelector") or {} for spec in specs]
    return [entry.get("matchLabels", entry) for entry in found if entry]


@pytest.mark.parametrize("values", FEATURES.values(), ids=FEATURES)
def test_linter_passes_with_each_feature(values, run_tool):
    done = run_tool("helm", "lint", "--strict", CHART, *values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_resources_fit_the_api_of_each_kubernetes_version(featured, version):
    for resource in featured.resources:
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, version, strict=True)


def test_custom_resources_fit_their_definition(featured):
    schemas = json.loads((SCHEMAS / "monitoring.json").read_text(encoding="utf-8"))
    for kind in CUSTOM:
        for resource in featured.of_kind(kind):
            jsonschema.validate(resource, {**schemas, "$ref": f"#/$defs/{kind}"})


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_chart_says_the_same_as_the_overlay(overlay, render, render_chart):
    chart, kustomized = comparable(render_chart(*OVERLAYS[overlay])), comparable(render(overlay))
    assert chart.keys() == kustomized.keys()
    for key, resource in kustomized.items():
        assert chart[key] == resource, key


def test_every_overlay_has_values_of_the_chart():
    assert {path.name for path in (ROOT / "deploy" / "kubernetes" / "overlays").iterdir()} == OVERLAYS.keys()


@pytest.mark.parametrize(("name", "folder"), COPIES.items())
def test_files_of_the_chart_are_those_beside_it(name, folder):
    # Helm reads no files outside a chart: copy the original when it changes.
    assert (CHART / "files" / name).read_bytes() == (folder / name).read_bytes()


def test_versions_are_the_projects():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert chart["version"] == chart["appVersion"] == version


def test_names_and_labels_keep_releases_apart_when_two_share_a_namespace(render_chart):
    first, second = render_chart(*SECURE), render_chart(*SECURE, "--name-template=shop")
    assert {resource["metadata"]["name"] for resource in second.resources} == {
        resource["metadata"]["name"].replace("ebbtide", "shop-ebbtide", 1) for resource in first.resources
    }
    for selector in selectors(first):
        assert any(selects(selector, pod["metadata"]["labels"]) for pod in first.workloads.values())
        assert not any(selects(selector, pod["metadata"]["labels"]) for pod in second.workloads.values())


def test_references_resolve_inside_the_release(featured):
    names = {(entry["kind"], entry["metadata"]["name"]) for entry in featured.resources}
    for pod in featured.workloads.values():
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
        for volume in pod["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName", "models")
            assert claim == "models" or ("PersistentVolumeClaim", claim) in names
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in names
        for container in containers(pod):
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert container.get(probe, {}).get("httpGet", {}).get("port", "http") in {"http", *ports(container)}
    for service in featured.of_kind("Service"):
        (pod,) = [
            pod
            for pod in featured.workloads.values()
            if selects(service["spec"]["selector"], pod["metadata"]["labels"])
        ]
        for port in service["spec"]["ports"]:
            assert port["port"] == ports(pod["spec"]["containers"][0])[port["targetPort"]]


def test_servers_send_traces_with_options_that_the_server_has(render_chart, server_options):
    for values in (TRACES, (*SYNC, *TRACES)):
        rendered = render_chart(*values)
        repository, *traces = rendered.triton["args"]
        assert repository.startswith("--model-repository=/mnt/")
        assert "--trace-config=opentelemetry,url=http://otel-collector.monitoring:4318/v1/traces" in traces
        assert {argument[2:].partition("=")[0] for argument in traces} == {"trace-config"} <= server_options.keys()
        (rule,) = rendered.one("NetworkPolicy", "ebbtide-traces")["spec"]["egress"]
        assert {"protocol": "TCP", "port": 4318} in rule["ports"]


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("redis://redis", 6379),
        ("rediss://redis.example.com:6380/0", 6380),
        ("redis+cluster://redis:7000", 7000),
        ("redis://[fd00::1]/3", 6379),
        ("redis://[fd00::1]:6381", 6381),
    ],
)
def test_servers_reach_the_store_when_its_address_names_a_port_or_none(address, port, render_chart):
    rendered = render_chart(f"--set=state.address={address}")
    assert {"name": "EBBTIDE_STATE", "value": address} in rendered.triton["env"]
    (rule,) = rendered.one("NetworkPolicy", "ebbtide-state")["spec"]["egress"]
    assert {"protocol": "TCP", "port": port} in rule["ports"]


def test_store_is_as_in_the_component_when_it_has_a_secret(render_chart, deploy):
    rendered = render_chart("--set=state.address=redis://redis:6379/0,state.secret=ebbtide-state")
    folder = deploy / "kubernetes" / "components" / "redis-state"
    patch, policy = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8"))
        for name in ("deployment.yaml", "networkpolicy.yaml")
    )
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    assert rendered.triton["envFrom"] == container["envFrom"]
    assert without(rendered.one("NetworkPolicy", "ebbtide-state"), OWN_LABELS)["spec"] == policy["spec"]


def test_models_show_metrics_as_with_the_component_when_the_values_say_so(render_chart, deploy):
    (patched,) = yaml.safe_load_all((deploy / "kubernetes/components/model-metrics/deployment.yaml").read_text())
    (container,) = patched["spec"]["template"]["spec"]["containers"]
    assert render_chart(*SECURE, "--set=monitoring.models=true").triton["env"] == container["env"]
    assert is_on({entry["name"]: entry["value"] for entry in container["env"]})
    assert "env" not in render_chart(*SECURE).triton


def test_servers_open_no_connection_when_no_value_needs_one(render_chart):
    assert {policy["metadata"]["name"] for policy in render_chart().of_kind("NetworkPolicy")} == {"ebbtide"}


def test_autoscaler_asks_only_for_metrics_that_are_recorded(render_chart):
    (autoscaler,) = render_chart(*FEATURES["no-monitoring"]).of_kind("HorizontalPodAutoscaler")
    assert [metric["type"] for metric in autoscaler["spec"]["metrics"]] == ["Resource"]
    rendered = render_chart(*FEATURES["no-autoscaling"])
    assert rendered.of_kind("HorizontalPodAutoscaler") == []
    assert rendered.one("Deployment", "ebbtide")["spec"]["replicas"] == 3


def test_scrape_jobs_are_watched_when_the_release_has_another_name(render_chart):
    rendered = render_chart(*GATEWAY, "--name-template=shop")
    (rule,) = [
        rule
        for group in rendered.of_kind("PrometheusRule")[0]["spec"]["groups"]
        for rule in group["rules"]
        if rule.get("alert") == "EbbtideDown"
    ]
    pattern = re.search(r'job=~"([^"]+)"', rule["expr"])[1]
    # The operator calls a job NAMESPACE/NAME.
    jobs = [f"shop/{monitor['metadata']['name']}" for monitor in rendered.of_kind("PodMonitor")]
    assert len(jobs) == 2
    assert all(re.fullmatch(pattern, job) for job in jobs)


def test_pods_run_where_and_with_what_the_values_say(render_chart):
    rendered = render_chart(*FEATURES["nodes"])
    assert rendered.pod["spec"]["nodeSelector"] == {"pool": "recommender"}
    assert [entry["key"] for entry in rendered.pod["spec"]["tolerations"]] == ["nvidia.com/gpu", "dedicated"]
    assert all(pod["spec"]["imagePullSecrets"] == [{"name": "registry"}] for pod in rendered.workloads.values())
    assert rendered.one("ServiceAccount", "ebbtide")["metadata"]["annotations"] == {"role": "reader"}
    assert rendered.one("PersistentVolumeClaim", "ebbtide-repository")["spec"]["storageClassName"] == "nfs"


def test_models_stay_when_the_release_is_uninstalled(render_chart):
    claim = render_chart().one("PersistentVolumeClaim", "ebbtide-repository")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_volume_is_not_made_when_a_claim_exists(render_chart):
    rendered = render_chart(*FEATURES["claim"])
    assert rendered.of_kind("PersistentVolumeClaim") == []
    claimed = [
        volume["persistentVolumeClaim"]["claimName"]
        for pod in rendered.workloads.values()
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claimed == ["models", "models"]


def test_dashboard_is_whole_when_grafana_loads_it(render_chart):
    (config,) = render_chart(*FEATURES["dashboard"]).of_kind("ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    original = (COPIES["ebbtide.json"] / "ebbtide.json").read_text(encoding="utf-8")
    assert json.loads(config["data"]["ebbtide.json"]) == json.loads(original)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("repository.source=nfs", 'repository.source must be one of the following: "volume", "sync", "s3"'),
        ("repository.source=s3", "repository.s3.url: String length must be greater"),
        ("repository.source=sync", "repository.sync.source: String length must be greater"),
        ("repository.s3.url=gs://models", "repository.s3.url: Does not match pattern"),
        ("repository.sync.settings.RCLONE_TRANSFERS=8", "Additional property RCLONE_TRANSFERS is not allowed"),
        ("gateway.replica=3", "gateway: Additional property replica is not allowed"),
        ("gateway.replicas=0", "gateway.replicas: Must be greater than or equal to 1"),
        ("gateway.replicas=null", "gateway: replicas is required"),
        ("gateway.enabled=yes", "gateway.enabled: Invalid type. Expected: boolean, given: string"),
        ("gateway.tlsSecret=Gateway_TLS", "gateway.tlsSecret: Does not match pattern"),
        ("images.triton.tag=latest", "images.triton.tag: Must not validate the schema (not)"),
        ("images.tools.repository=", "images.tools.repository: Does not match pattern"),
        ("resources.limits.memory=4GB", "resources.limits.memory: Does not match pattern"),
        ("resources.requests.cpu=two", "resources.requests.cpu: Does not match pattern"),
        ("state.secret=ebbtide-state", "state.address: String length must be greater"),
        ("state.address=redis://user:password@redis:6379", "state.address: Does not match pattern"),
        ("state.address=embedded:/mnt/states", "state.address: Does not match pattern"),
        ("traces.collector=otel-collector:4318", "traces.collector: Does not match pattern"),
        ("traces.rate=0", "traces.rate: Must be greater than or equal to 1"),
        ("autoscaling.queueMs=0", "autoscaling.queueMs: Must be greater than or equal to 1"),
        ("autoscaling.minReplicas=20", "autoscaling.minReplicas is 20, above autoscaling.maxReplicas (10)"),
    ],
)
def test_value_is_refused_with_its_name_when_it_is_wrong(setting, message, run_tool):
    done = run_tool("helm", "template", "ebbtide", CHART, f"--set={setting}")
    assert done.returncode != 0
    assert message in done.stderr


def test_values_of_the_guide_are_accepted(tmp_path, render_chart):
    guide = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^    # values.yaml of your own\n((?:    .*\n)+)", guide, re.MULTILINE)
    values = tmp_path / "values.yaml"
    values.write_text(textwrap.dedent(block), encoding="utf-8")
    rendered = render_chart("--values", values)
    assert {volume["name"] for volume in rendered.workloads["ebbtide-gateway"]["spec"]["volumes"]} >= {"tls", "token"}
    assert rendered.triton["image"].startswith("registry.internal/")


def test_chart_is_refused_when_the_cluster_is_too_old(run_tool):
    done = run_tool("helm", "template", "ebbtide", CHART, "--kube-version=1.29.9")
    assert done.returncode != 0
    assert ">=1.30.0" in done.stderr


def test_every_group_of_values_is_explained():
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    # A group is a name at the margin, with the comment above it and what stands below.
    groups = re.findall(r"^((?:#.*\n)*)(\w+):(.*\n(?:[ ].*\n|\n)*)", text, re.MULTILINE)
    assert [name for _, name, _ in groups] == list(yaml.safe_load(text))
    assert [name for above, name, below in groups if "#" not in above + below] == []


@pytest.mark.parametrize("values", FEATURES.values(), ids=FEATURES)
def test_notes_name_addresses_and_pods_that_exist(values, tmp_path, run_tool, render_chart):
    # `helm template` prints no notes, and `helm install` needs a cluster: here they are rendered as a block of YAML.
    chart = shutil.copytree(CHART, tmp_path / "ebbtide")
    notes = chart / "templates" / "NOTES.txt"
    block = "notes: |\n  .\n" + "".join(f"  {line}\n" for line in notes.read_text(encoding="utf-8").splitlines())
    (chart / "templates" / "notes.yaml").write_text(block, encoding="utf-8")
    arguments = ("--namespace", "shop", "--show-only", "templates/notes.yaml")
    done = run_tool("helm", "template", "ebbtide", chart, *values, *arguments)
    assert done.returncode == 0, done.stderr
    text = yaml.safe_load(done.stdout)["notes"]
    rendered = render_chart(*values)
    services = {service["metadata"]["name"] for service in rendered.of_kind("Service")}
    addressed = set(re.findall(r"([\w-]+)\.shop\.svc", text))
    assert addressed
    assert addressed <= services
    named = set(re.findall(r"deployment/([\w-]+)", text))
    assert "ebbtide" in named <= rendered.workloads.keys()
    assert "placeholder" in text
