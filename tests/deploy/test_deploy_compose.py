"""The compose files against the compose specification, the image, and the files that they mount."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from compose_spec import PyCompose

from ebbtide.interest import served_models

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "compose"
FILES = sorted(path.name for path in FOLDER.glob("docker-compose*.yaml"))
VARIABLE = re.compile(r"\$\{(?P<name>\w+):-(?P<default>[^}]*)\}")
UNITS = {"m": 2**20, "g": 2**30}


def interpolated(name: str) -> str:
    """A file with every variable at its default, as compose reads it where none is set."""
    return VARIABLE.sub(lambda match: match["default"], (FOLDER / name).read_text(encoding="utf-8"))


def size(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]]


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    return yaml.safe_load(interpolated("docker-compose.yaml"))["services"]


def test_compose_has_a_file_for_the_cpu_and_one_for_the_gpu():
    assert FILES == ["docker-compose.gpu.yaml", "docker-compose.yaml"]


@pytest.mark.parametrize("name", FILES)
def test_compose_file_fits_the_specification_when_variables_are_unset(name):
    text = interpolated(name)
    assert "$" not in text
    assert "triton" in PyCompose.from_yaml(text).service_names()


def test_compose_file_is_refused_when_a_key_is_misspelt():
    with pytest.raises(ValueError, match="read_onl"):
        PyCompose.from_yaml(interpolated("docker-compose.yaml").replace("read_only", "read_onl"))


def test_gpu_file_changes_only_services_of_the_main_file(services):
    added = yaml.safe_load(interpolated("docker-compose.gpu.yaml"))["services"]
    assert added.keys() <= services.keys()
    (device,) = added["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_ports_are_published_only_on_loopback(services, image):
    for service in services.values():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:")
    inside = [port.rpartition(":")[2] for port in services["triton"]["ports"]]
    assert inside == image.only("EXPOSE").split()


def test_repository_is_mounted_read_only_where_the_image_looks(services, image):
    (mount,) = services["triton"]["volumes"]
    assert mount["target"] == image.option("model-repository")
    assert mount["read_only"] is True
    assert mount["bind"]["create_host_path"] is False
    assert (FOLDER / mount["source"]).resolve() == ROOT / "artifacts" / "repository"


def test_mounted_files_exist(services):
    for service in ("prometheus", "grafana"):
        sources = [volume.partition(":")[0] for volume in services[service]["volumes"]]
        files = [FOLDER / source for source in sources if source.startswith(".")]
        assert files
        assert all(file.exists() for file in files)


def test_compose_server_runs_the_image_without_other_options(services, image):
    triton = services["triton"]
    assert "command" not in triton
    assert "entrypoint" not in triton
    assert "healthcheck" not in triton
    assert (FOLDER / triton["build"]["context"] / "Dockerfile").is_file()
    assert triton["image"].endswith(f":{image.argument('TRITON_RELEASE')}")


def test_container_outlives_requests_under_way_when_it_is_stopped(services, image):
    grace_s = int(services["triton"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > int(image.option("exit-timeout-secs"))


def test_shared_memory_holds_every_python_model_when_it_grows(services, image):
    models = sum(model.kind is served_models.Kind.PYTHON for model in served_models.MODELS.values())
    assert size(services["triton"]["shm_size"]) >= 4 * models * image.backend_option("shm-default-byte-size")


def test_services_have_few_rights_and_bounded_resources(services):
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()


def test_prometheus_scrapes_the_server_and_loads_the_rules_when_started(services, image):
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    ((target,),) = [entry["targets"] for entry in job["static_configs"]]
    host, _, port = target.partition(":")
    assert host in services
    assert port == image.only("EXPOSE").split()[-1]
    mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert set(config["rule_files"]) <= mounted
    assert (
        f"--config.file={next(path for path in mounted if path.endswith('prometheus.yaml'))}"
        in (services["prometheus"]["command"])
    )


def test_grafana_finds_prometheus_and_the_dashboard_when_started(services):
    provisioning = FOLDER.parent / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))[
        "datasources"
    ]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert services[host]["ports"][0].endswith(f":{port}")
    scraped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "ebbtide.yaml").read_text(encoding="utf-8"))[
        "providers"
    ]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in mounted
    assert home.rpartition("/")[0] == provider["options"]["path"]
