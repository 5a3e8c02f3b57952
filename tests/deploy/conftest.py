"""What the deployment files say, parsed once, and a real server started as the image starts it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from ebbtide.data.catalog import Catalog
from ebbtide.export.repository import ExportReport
from ebbtide.interest.meters import METRICS_VARIABLE
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.serve.distribution import embedded_server
from ebbtide.serve.launch import environment
from ebbtide.train.bundle import InterestBundle
from servers import serving

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "kubernetes" / "overlays").iterdir())
Manifest = dict[str, Any]
GATEWAY = ("--set=gateway.enabled=true",)
SECURE = (*GATEWAY, "--set=gateway.tlsSecret=gateway-tls,gateway.tokenSecret=gateway-token")
TRACES = ("--set=traces.collector=http://otel-collector.monitoring:4318",)
"""Values of the chart that several files of tests give."""


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a program that came with a wheel, from the running environment."""
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="session")
def deploy() -> Path:
    return DEPLOY


@pytest.fixture(scope="session")
def run_tool() -> Callable[..., subprocess.CompletedProcess[str]]:
    return tool


class Rendered:
    """The resources of one overlay, or of the Helm chart, as they are sent to the cluster."""

    def __init__(self, overlay: str, *command: object) -> None:
        done = tool(*command)
        assert done.returncode == 0, done.stderr
        self.overlay = overlay
        self.resources: list[Manifest] = list(yaml.safe_load_all(done.stdout))

    def of_kind(self, kind: str) -> list[Manifest]:
        return [resource for resource in self.resources if resource["kind"] == kind]

    def one(self, kind: str, name: str) -> Manifest:
        found = [resource for resource in self.of_kind(kind) if resource["metadata"]["name"] == name]
        assert len(found) == 1, f"{self.overlay}: {len(found)} resources {kind}/{name}; expected 1"
        return found[0]

    @property
    def pod(self) -> Manifest:
        """The pod template of the server."""
        return self.one("Deployment", "ebbtide")["spec"]["template"]

    @property
    def triton(self) -> Manifest:
        return next(entry for entry in self.pod["spec"]["containers"] if entry["name"] == "triton")

    @property
    def workloads(self) -> dict[str, Manifest]:
        """Every pod template by the name of its deployment."""
        return {entry["metadata"]["name"]: entry["spec"]["template"] for entry in self.of_kind("Deployment")}


@pytest.fixture(scope="session")
def render() -> Callable[[str], Rendered]:
    return cache(
        lambda overlay: Rendered(overlay, "kubectl", "kustomize", DEPLOY / "kubernetes" / "overlays" / overlay)
    )


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


@pytest.fixture(scope="session")
def render_chart() -> Callable[..., Rendered]:
    """The Helm chart with these arguments of `helm template`; the release and its namespace are `ebbtide`."""
    chart = DEPLOY / "helm" / "ebbtide"
    start = ("helm", "template", chart, "--name-template=ebbtide", "--namespace=ebbtide")
    return cache(lambda *arguments: Rendered("chart", *start, *arguments))


@pytest.fixture(scope="session", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest, render: Callable[[str], Rendered]) -> Rendered:
    """Each overlay in turn."""
    return render(request.param)


@dataclass(frozen=True)
class Image:
    """What the Dockerfile says."""

    instructions: tuple[tuple[str, str], ...]
    """Name and arguments, continuation lines joined."""

    def every(self, name: str) -> list[str]:
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def only(self, name: str) -> str:
        (arguments,) = self.every(name)
        return arguments

    def argument(self, name: str) -> str:
        """The default of a build argument."""
        return next(value for key, _, value in (entry.partition("=") for entry in self.every("ARG")) if key == name)

    @property
    def entrypoint(self) -> list[str]:
        return json.loads(self.only("ENTRYPOINT"))

    @property
    def options(self) -> list[str]:
        """The options of tritonserver, the repository's included."""
        return [*self.entrypoint[self.entrypoint.index("tritonserver") + 1 :], *json.loads(self.only("CMD"))]

    def option(self, name: str) -> str:
        return next(value for key, _, value in (entry.partition("=") for entry in self.options) if key == f"--{name}")

    def backend_option(self, name: str) -> int:
        """A setting of the Python backend, in bytes."""
        start = f"--backend-config=python,{name}="
        return next(int(entry.removeprefix(start)) for entry in self.options if entry.startswith(start))

    @property
    def health_command(self) -> list[str]:
        return json.loads(self.only("HEALTHCHECK").partition("CMD")[2])


@pytest.fixture(scope="session")
def read_image() -> Callable[[Path], Image]:
    def read(path: Path) -> Image:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
        joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
        parts = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
        return Image(tuple((name, arguments.strip()) for name, arguments in parts))

    return read


@pytest.fixture(scope="session")
def image(read_image: Callable[[Path], Image]) -> Image:
    return read_image(DEPLOY / "docker" / "Dockerfile")


@pytest.fixture(scope="session")
def server_options() -> Mapping[str, str]:
    """What `tritonserver --help` of the embedded server says: each option's name and text."""
    server = embedded_server()
    done = subprocess.run(
        [str(server.executable), "--help"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=environment(server, ServerConfig(ROOT)),
    )
    found = re.findall(r"^  --([\w-]+)(.*?)(?=^  --|\Z)", done.stdout + done.stderr, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


@pytest.fixture(scope="session")
def export_report(tiny_export: ExportReport) -> ExportReport:
    return tiny_export


@pytest.fixture(scope="session")
def catalog(tiny_bundle: InterestBundle) -> Catalog:
    return tiny_bundle.catalog


@pytest.fixture(scope="session")
def server(
    image: Image, export_report: ExportReport, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A real export behind the embedded server, with the image's own options, on free ports."""
    own = ("--model-repository=", "--model-control-mode=", "--load-model=")
    config = ServerConfig(
        export_report.folder,
        model_control=image.option("model-control-mode"),
        load_models=(image.option("load-model"),),
        extra_args=tuple(option for option in image.options if not option.startswith(own)),
        state=f"embedded:{tmp_path_factory.mktemp('states')}",
        environment={METRICS_VARIABLE: "on"},
        log_file=tmp_path_factory.mktemp("log") / "tritonserver.log",
    )
    with serving(config) as running:
        yield running


@pytest.fixture(scope="session")
def fetch(server: TritonServer) -> Callable[[str, str], tuple[int, str]]:
    """Status and body of a path on the server's port of that name."""
    roots = {"http": server.http_url, "metrics": server.metrics_url.removesuffix("/metrics")}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(port: str, path: str) -> tuple[int, str]:
        try:
            with opener.open(roots[port] + path, timeout=300) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    return get
