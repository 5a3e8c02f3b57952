"""The Kubernetes overlays, rendered by kubectl's own kustomize: schemas, references, security, shutdown."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from ebbtide.interest import served_models

SCHEMAS = Path(__file__).parent / "schemas"
CUSTOM = ("PodMonitor", "PrometheusRule")
VERSIONS = ["1.30", "1.33", "1.37"]
"""The oldest that is promised, one between, the newest that the package knows."""
UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def quantity(text: str) -> int:
    """A Kubernetes quantity of memory, in bytes."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)?", str(text)).groups()
    return int(number) * UNITS.get(unit, 1)


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def containers(pod: dict) -> list[dict]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def claims(pod: dict) -> set[str]:
    sources = [volume.get("persistentVolumeClaim", {}) for volume in pod["spec"]["volumes"]]
    return {source["claimName"] for source in sources if source}


def ports(container: dict) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container.get("ports", [])}


@pytest.mark.parametrize("version", VERSIONS)
def test_resources_fit_the_api_of_each_kubernetes_version(rendered, version):
    for resource in rendered.resources:
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, version, strict=True)


def test_validation_fails_when_a_field_of_a_deployment_is_misspelt(render):
    deployment = json.loads(json.dumps(render("cpu").one("Deployment", "ebbtide")))
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 50
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("kind", CUSTOM)
def test_custom_resources_fit_their_definition(rendered, kind):
    schemas = json.loads((SCHEMAS / "monitoring.json").read_text(encoding="utf-8"))
    for resource in rendered.of_kind(kind):
        jsonschema.validate(resource, {**schemas, "$ref": f"#/$defs/{kind}"})
    assert rendered.of_kind(kind)


def test_every_resource_is_in_the_overlays_own_namespace(rendered):
    (namespace,) = rendered.of_kind("Namespace")
    others = [entry for entry in rendered.resources if entry is not namespace]
    assert {entry["metadata"]["namespace"] for entry in others} == {namespace["metadata"]["name"]}


def test_service_finds_pods_and_ports_when_it_selects(rendered):
    for name in ("ebbtide", "ebbtide-headless"):
        spec = rendered.one("Service", name)["spec"]
        found = [key for key, pod in rendered.workloads.items() if selects(spec["selector"], pod["metadata"]["labels"])]
        assert found == ["ebbtide"]
        for port in spec["ports"]:
            assert port["port"] == ports(rendered.triton)[port["targetPort"]]


def test_headless_service_gives_every_pod_when_a_client_balances(rendered):
    assert rendered.one("Service", "ebbtide-headless")["spec"]["clusterIP"] == "None"
    assert rendered.one("Service", "ebbtide")["spec"].get("clusterIP") is None


def test_container_ports_are_those_that_the_image_exposes(rendered, image):
    assert [str(port) for port in ports(rendered.triton).values()] == image.only("EXPOSE").split()


def test_selectors_match_only_the_servers_pods(rendered):
    selectors = [
        rendered.one("Deployment", "ebbtide")["spec"]["selector"]["matchLabels"],
        rendered.one("PodDisruptionBudget", "ebbtide")["spec"]["selector"]["matchLabels"],
        *(policy["spec"]["podSelector"]["matchLabels"] for policy in rendered.of_kind("NetworkPolicy")),
        *(monitor["spec"]["selector"]["matchLabels"] for monitor in rendered.of_kind("PodMonitor")),
        *(spread["labelSelector"]["matchLabels"] for spread in rendered.pod["spec"]["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        found = [key for key, pod in rendered.workloads.items() if selects(selector, pod["metadata"]["labels"])]
        assert found == ["ebbtide"], selector


def test_network_policy_admits_only_clients_and_prometheus(rendered):
    spec = rendered.one("NetworkPolicy", "ebbtide")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    clients, prometheus = spec["ingress"]
    # Nothing beside our own label: a label that kustomize adds to selectors would shut every client out.
    assert [peer["podSelector"]["matchLabels"] for peer in clients["from"]] == [{"ebbtide.dev/client": "true"}] * 2
    assert {port["port"] for port in clients["ports"]} == {"http", "grpc"}
    (port,) = prometheus["ports"]
    (monitor,) = rendered.of_kind("PodMonitor")
    assert port["port"] == monitor["spec"]["podMetricsEndpoints"][0]["port"]
    named = {entry["port"] for rule in spec["ingress"] for entry in rule["ports"]}
    assert named == ports(rendered.triton).keys()


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_tools_may_call_the_servers_and_write_their_volume_when_a_version_is_deployed(overlay, render):
    found = render(overlay)
    tools = found.workloads["ebbtide-tools"]
    clients = found.one("NetworkPolicy", "ebbtide")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert selects(clients, tools["metadata"]["labels"])
    assert claims(tools) == claims(found.pod) != set()
    (mount,) = [entry for entry in containers(tools)[0]["volumeMounts"] if entry["name"] == "repository"]
    assert not mount.get("readOnly")
    assert mount["mountPath"] in found.triton["args"][0]


def test_egress_is_open_only_where_models_are_fetched(rendered):
    assert rendered.one("NetworkPolicy", "ebbtide")["spec"].get("egress", []) == []
    extra = {policy["metadata"]["name"] for policy in rendered.of_kind("NetworkPolicy")} - {"ebbtide"}
    assert extra == ({"ebbtide-object-storage"} if rendered.overlay in ("cpu-sync", "cpu-s3") else set())


def test_pods_meet_the_restricted_standard_when_the_namespace_enforces_it(rendered):
    (namespace,) = rendered.of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}
    for pod in rendered.workloads.values():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod["spec"].get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        assert all(volume.keys() - {"name"} <= allowed for volume in pod["spec"].get("volumes", []))
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}


def test_pods_run_as_the_images_user(rendered, image):
    user, group = map(int, image.only("USER").split(":"))
    for pod in rendered.workloads.values():
        security = pod["spec"]["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (user, group, group)


def test_pods_hold_no_token_when_the_account_is_read(rendered):
    account = rendered.one("ServiceAccount", rendered.pod["spec"]["serviceAccountName"])
    assert account["automountServiceAccountToken"] is False
    assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in rendered.workloads.values())


def test_volumes_and_mounts_resolve_when_pods_start(rendered):
    defined = {claim["metadata"]["name"] for claim in rendered.of_kind("PersistentVolumeClaim")}
    for pod in rendered.workloads.values():
        mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
        assert claims(pod) <= defined


def test_repository_is_mounted_read_only_where_the_server_looks_when_it_starts(rendered, image):
    arguments = rendered.triton.get("args", [f"--model-repository={image.option('model-repository')}"])
    (repository,) = [entry.partition("=")[2] for entry in arguments]
    if repository.startswith("s3://"):
        return
    holding = [
        mount for mount in rendered.triton["volumeMounts"] if Path(repository).is_relative_to(mount["mountPath"])
    ]
    assert [mount.get("readOnly") for mount in holding] == [True]
    # A volume's root may hold lost+found, which Triton would take for a model.
    assert (repository != holding[0]["mountPath"]) == bool(claims(rendered.pod))


def test_environment_resolves_when_it_comes_from_other_resources(rendered):
    maps = {entry["metadata"]["name"]: entry["data"] for entry in rendered.of_kind("ConfigMap")}
    for container in containers(rendered.pod):
        sources = container.get("envFrom", [])
        names = set()
        for source in sources:
            if "configMapRef" in source:
                names |= maps[source["configMapRef"]["name"]].keys()
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []))))
        assert used <= names


def test_server_options_stand_in_the_image_alone_when_manifests_are_read(rendered, server_options):
    # Anything else would be a second place for the same number.
    for argument in rendered.triton.get("args", []):
        assert argument.startswith("--model-repository=")
    assert "command" not in rendered.triton
    assert "model-repository" in server_options


def test_images_are_pinned_to_a_tag(rendered, image):
    for pod in rendered.workloads.values():
        for container in containers(pod):
            name, _, tag = container["image"].rpartition(":")
            assert "/" in name
            assert tag not in ("", "latest")
    assert rendered.triton["image"].endswith(f"ebbtide-triton:{image.argument('TRITON_RELEASE')}")


def test_pod_outlives_requests_under_way_when_it_is_stopped(rendered, image):
    sleep, seconds = rendered.triton["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    needed = int(seconds) + int(image.option("exit-timeout-secs"))
    assert rendered.pod["spec"]["terminationGracePeriodSeconds"] > needed


def test_startup_may_take_longer_than_liveness_allows_when_models_load(rendered):
    allowed = {
        probe: rendered.triton[probe]["periodSeconds"] * rendered.triton[probe]["failureThreshold"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert allowed["startupProbe"] >= 300
    assert allowed["livenessProbe"] >= 60
    assert allowed["readinessProbe"] <= 10


def test_shared_memory_holds_every_python_model_when_it_grows(rendered, image):
    volumes = {volume["name"]: volume for volume in rendered.pod["spec"]["volumes"]}
    (name,) = [mount["name"] for mount in rendered.triton["volumeMounts"] if mount["mountPath"] == "/dev/shm"]  # noqa: S108
    shared = volumes[name]["emptyDir"]
    models = sum(model.kind is served_models.Kind.PYTHON for model in served_models.MODELS.values())
    assert shared["medium"] == "Memory"
    assert quantity(shared["sizeLimit"]) >= 4 * models * image.backend_option("shm-default-byte-size")
    # It counts as memory of the pod.
    assert quantity(shared["sizeLimit"]) < quantity(rendered.triton["resources"]["limits"]["memory"])


def test_autoscaler_owns_the_replicas_when_it_runs(rendered):
    (autoscaler,) = rendered.of_kind("HorizontalPodAutoscaler")
    target = autoscaler["spec"]["scaleTargetRef"]
    deployment = rendered.one(target["kind"], target["name"])
    assert "replicas" not in deployment["spec"]
    budget = rendered.one("PodDisruptionBudget", "ebbtide")["spec"]
    assert autoscaler["spec"]["minReplicas"] > budget["maxUnavailable"]
    # Utilisation is a share of the request.
    assert "cpu" in rendered.triton["resources"]["requests"]


def test_gpu_is_requested_only_in_the_gpu_overlay(rendered):
    limits = rendered.triton["resources"]["limits"]
    assert ("nvidia.com/gpu" in limits) == (rendered.overlay == "gpu")
    tolerated = [entry["key"] for entry in rendered.pod["spec"].get("tolerations", [])]
    assert tolerated == (["nvidia.com/gpu"] if rendered.overlay == "gpu" else [])


def test_store_of_states_is_reached_when_an_overlay_has_its_component(render, deploy, tmp_path):
    folder = deploy / "kubernetes"
    entries = [os.path.relpath(folder / name, tmp_path) for name in ("overlays/cpu", "components/redis-state")]
    kustomization = {"namespace": "ebbtide", "resources": entries[:1], "components": entries[1:]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization), encoding="utf-8")
    rendered = render(str(tmp_path))
    for resource in rendered.resources:
        if resource["kind"] not in CUSTOM:
            kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)
    assert rendered.triton["envFrom"] == [{"secretRef": {"name": "ebbtide-state"}}]
    policy = rendered.one("NetworkPolicy", "ebbtide-state")["spec"]
    assert selects(policy["podSelector"]["matchLabels"], rendered.pod["metadata"]["labels"])
    assert {"protocol": "TCP", "port": 6379} in policy["egress"][0]["ports"]


def test_models_show_metrics_when_an_overlay_has_the_component(render, deploy, tmp_path):
    folder = deploy / "kubernetes"
    entries = [os.path.relpath(folder / name, tmp_path) for name in ("overlays/cpu", "components/model-metrics")]
    kustomization = {"namespace": "ebbtide", "resources": entries[:1], "components": entries[1:]}
    (tmp_path / "kustomization.yaml").write_text(json.dumps(kustomization), encoding="utf-8")
    assert {"name": "EBBTIDE_METRICS", "value": "on"} in render(str(tmp_path)).triton["env"]
