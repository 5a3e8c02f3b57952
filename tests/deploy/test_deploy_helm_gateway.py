"""The gateway of the Helm chart: its arguments start a real one; who may reach it, and how it stops."""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme

from ebbtide.gateway import GatewayConfig
from ports import free_port

from .conftest import GATEWAY, SECURE, TRACES, selects

pytestmark = pytest.mark.skipif(
    not (Path(sys.executable).parent / "helm").exists(), reason="no helm for this kind of machine"
)


def gateway_of(rendered: Any) -> dict:
    (container,) = rendered.workloads["ebbtide-gateway"]["spec"]["containers"]
    return container


def test_gateway_is_as_confined_as_the_servers(render_chart):
    rendered = render_chart(*SECURE)
    server, gateway = rendered.pod["spec"], rendered.workloads["ebbtide-gateway"]["spec"]
    for setting in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
        assert gateway[setting] == server[setting]
    assert gateway_of(rendered)["securityContext"] == rendered.triton["securityContext"]
    assert {budget["metadata"]["name"] for budget in rendered.of_kind("PodDisruptionBudget")} == {
        "ebbtide",
        "ebbtide-gateway",
    }


@pytest.mark.parametrize("values", [GATEWAY, (*SECURE, *TRACES)], ids=["plain", "secure"])
def test_gateway_starts_with_the_charts_arguments_and_answers_its_probes(values, render_chart, server, tmp_path):
    container = gateway_of(render_chart(*values))
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    (tmp_path / "tls.crt").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    (tmp_path / "tls.key").write_bytes(certificate.private_key_pem.bytes())
    (tmp_path / "token").write_text("a-token-of-the-test\n", encoding="utf-8")
    # Only addresses and folders differ from those in a cluster.
    grpc_port, http_port, collector = free_port(), free_port(), free_port()
    moved = {
        "dns:///ebbtide-headless:8001": server.grpc_url,
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=9001": f"--port={grpc_port}",
        "--http-port=9002": f"--http-port={http_port}",
        TRACES[0].replace("--set=traces.collector", "--traces"): f"--traces=http://127.0.0.1:{collector}",
    }
    arguments = [moved.get(argument, argument) for argument in container["args"]]
    for mount in ("/mnt/tls", "/mnt/token"):
        arguments = [argument.replace(mount, str(tmp_path)) for argument in arguments]
    context = ssl.create_default_context()
    authority.configure_trust(context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    program = Path(sys.executable).parent / "ebbtide"
    process = subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            url = f"{asked['scheme'].lower()}://127.0.0.1:{http_port}{asked['path']}"
            assert status_of(url, opener, process) == 200
        scheme = asked["scheme"].lower()
        assert status_of(f"{scheme}://127.0.0.1:{http_port}/metrics", opener, process) == 200
    finally:
        process.terminate()
        assert process.wait(300) == 0


def status_of(url: str, opener: urllib.request.OpenerDirector, process: subprocess.Popen[bytes]) -> int:
    """The status of a page, once it is there and no longer says that the gateway is not ready."""
    while True:
        assert process.poll() is None, "the gateway ended"
        try:
            with opener.open(url, timeout=300) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 503:
                    return error.code
        except urllib.error.URLError:
            pass
        time.sleep(0.1)


def test_image_of_the_command_line_has_what_the_gateway_needs(read_image, deploy, run_tool):
    tools = read_image(deploy / "docker" / "tools.Dockerfile")
    assert tools.entrypoint == ["ebbtide"]
    assert "[cli,gateway,observability,state]" in tools.only("RUN")
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'polars', 'pytriton']))\n"
    done = run_tool("python", "-c", code + "import ebbtide.gateway, ebbtide.cli.gateway")
    assert done.returncode == 0, done.stderr


def test_gateway_speaks_tls_everywhere_when_it_has_a_certificate(render_chart):
    plain, secure = render_chart(*GATEWAY), render_chart(*SECURE)
    for rendered, scheme in ((plain, "HTTP"), (secure, "HTTPS")):
        container = gateway_of(rendered)
        assert {container[f"{probe}Probe"]["httpGet"]["scheme"] for probe in ("startup", "readiness", "liveness")} == {
            scheme
        }
        (endpoint,) = rendered.one("PodMonitor", "ebbtide-gateway")["spec"]["podMetricsEndpoints"]
        assert endpoint.get("scheme", "http") == scheme.lower()
    mounts = {mount["name"]: mount["mountPath"] for mount in gateway_of(secure)["volumeMounts"]}
    files = [argument.partition("=")[2] for argument in gateway_of(secure)["args"] if "=/" in argument]
    assert {str(Path(file).parent) for file in files} == {mounts["tls"], mounts["token"]}


def test_gateway_outlives_its_calls_when_it_is_stopped(render_chart):
    rendered = render_chart(*GATEWAY)
    _, seconds = gateway_of(rendered)["lifecycle"]["preStop"]["exec"]["command"]
    grace_s = rendered.workloads["ebbtide-gateway"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > int(seconds) + GatewayConfig().drain_s


def test_gateway_reaches_the_servers_and_strangers_reach_only_a_gateway_with_a_token(render_chart):
    plain, secure = render_chart(*GATEWAY), render_chart(*SECURE)
    labels = secure.workloads["ebbtide-gateway"]["metadata"]["labels"]
    callers = secure.one("NetworkPolicy", "ebbtide")["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert selects(callers, labels)
    egress = secure.one("NetworkPolicy", "ebbtide-gateway")["spec"]["egress"]
    (peer,) = egress[1]["to"]
    assert selects(peer["podSelector"]["matchLabels"], secure.pod["metadata"]["labels"])
    (open_to_all,) = secure.one("NetworkPolicy", "ebbtide-gateway")["spec"]["ingress"]
    assert "from" not in open_to_all
    for rule in plain.one("NetworkPolicy", "ebbtide-gateway")["spec"]["ingress"]:
        # Another label than that of the servers' callers, who would reach Triton itself.
        assert all("ebbtide.dev/client" not in str(peer) for peer in rule["from"])
