"""The page in Chromium, against a real server of the shipped data: what it shows is what the client says."""

import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format

from deadlines import PATIENT
from ebbtide.cli.studio import running_studio
from ebbtide.client import InterestClient, rule
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.v1 import ExplainRequest, RecommendRequest, SlateCauseKind
from ports import free_port

REPOSITORY = Path(__file__).parents[2]
ARTIFACTS = REPOSITORY / "artifacts"
PYTHON = ARTIFACTS / "browser-venv" / "bin" / "python"
USER = "648"
"""Of the shipped log: a long history with a pause."""
CHROMIUM = shutil.which("chromium")


class Driver:
    """The browser, which goes through its steps in a process of its own."""

    def __init__(self, url, folder):
        arguments = [PYTHON, Path(__file__).with_name("browser_driver.py"), CHROMIUM, url, folder, USER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(arguments, text=True, **pipes)

    def step(self, name):
        """What the page shows after a step."""
        line = self.process.stdout.readline()
        try:
            found = json.loads(line)
        except ValueError:
            pytest.fail(line + self.process.stdout.read())
        assert found["step"] == name
        return found

    def end(self):
        self.process.kill()
        # Closes the pipes, too.
        self.process.communicate()

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()


def compared(client, shown):
    """Compares the lists of the page with the client's answers to the same requests; returns the answers."""
    answers = []
    for body, rows in zip(shown["asked"], shown["lists"], strict=True):
        request = json_format.Parse(body, ExplainRequest())
        answer = client.explain(request)
        assert rows == [[item.item_id, f"{item.score:.3f}".replace("-", "−")] for item in answer.items]
        answers.append(answer)
    assert shown["alpha"].startswith(f"alpha {answers[0].alpha_used:.2f}")
    assert len(shown["events"]) == min(60, len(answers[0].events))
    return answers


def moved(items):
    """What the page says of the items of a slate that diversity moved."""
    for rank, item in enumerate(items, 1):
        by = item.score_rank - rank
        assert {cause.kind for cause in item.moved_by} == ({SlateCauseKind.SLATE_CAUSE_KIND_DIVERSITY} if by else set())
        way = "up" if by > 0 else "down"
        yield [f"moved {way} {abs(by)} by diversity (rank {item.score_rank} by score)"] if by else []


def ids(shown):
    return [item_id for item_id, _ in shown["lists"][0]]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")
@pytest.mark.skipif(not PYTHON.exists(), reason="Playwright has an environment of its own: make test-slow")
@pytest.mark.skipif(not (ARTIFACTS / "repository").exists(), reason="needs the demo's export: make demo")
def test_page_shows_what_the_client_says_and_recovers_when_the_server_is_back(tmp_path):
    grpc_port, http_port, metrics_port = free_port(), free_port(), free_port()
    config = ServerConfig(
        ARTIFACTS / "repository",
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        state=f"embedded:{tmp_path}",
    )
    pictures = ARTIFACTS / "studio-pictures"
    pictures.mkdir(exist_ok=True)
    with ExitStack() as stack:
        server = TritonServer(config)
        server.start()
        stack.callback(server.stop)
        url = stack.enter_context(running_studio(f"127.0.0.1:{grpc_port}", ARTIFACTS / "bundle", "127.0.0.1", 0))
        client = stack.enter_context(InterestClient(server.grpc_url, config=PATIENT))
        driver = Driver(url, pictures)
        stack.callback(driver.end)

        loaded = driver.step("loaded")
        compared(client, loaded)
        added = driver.step("event added")
        compared(client, added)
        assert added["asked"][0].count("item_id") == loaded["asked"][0].count("item_id") + 1
        assert ids(added) != ids(loaded)
        dragged = driver.step("time dragged")
        (late,) = compared(client, dragged)
        assert ids(dragged) != ids(added)
        assert int(dragged["now"]) - int(added["now"]) > 4 * 365 * 86_400_000
        assert max(event.decay for event in late.events) < 0.7
        assert dragged["calls"] == ["/v1/explain"] * len(dragged["drag_ms"])
        (again,) = compared(client, driver.step("event after the pause"))
        assert again.events[-1].decay > 0.9
        (session_only,) = compared(client, driver.step("alpha 0"))
        assert session_only.alpha_used == 0
        first, second = compared(client, driver.step("compared"))
        assert (first.alpha_used, second.alpha_used > 0) == (0, True)
        (nobody,) = compared(client, driver.step("new user"))
        assert not nobody.events
        diverse = driver.step("diversity")
        compared(client, diverse)
        recommended = client.recommend(json_format.Parse(diverse["asked"][0], RecommendRequest()))
        assert recommended.slate_candidates
        assert ids(diverse) == [item.item_id for item in recommended.items]
        assert ids(diverse) != ids(loaded)
        assert diverse["reasons"] == [[*moved(recommended.items)]]
        driver.step("set a rule")
        client.set_rules([rule("spring-sale", pin=2, item_ids=ids(diverse)[-1:])])
        driver.go_on()
        ruled = driver.step("rule")
        compared(client, ruled)
        assert ids(ruled)[1] == ids(diverse)[-1]
        named = [row for row, reasons in enumerate(ruled["reasons"][0]) if any("rule" in reason for reason in reasons)]
        assert named == [1]
        assert "moved by the rule “spring-sale” (not in the score)" in ruled["reasons"][0][1]
        looked_at = driver.step("looked at")
        assert looked_at["serious"] == []
        assert looked_at["focused"] != "BODY"

        driver.step("stop the server")
        server.stop()
        driver.go_on()
        assert "does not answer" in driver.step("stopped")["said"]
        server.start()
        driver.go_on()
        back = driver.step("back")
        # The page's connection is back; this client's may still wait for its next attempt.
        client.wait_until_ready(timeout_s=60)
        compared(client, back)
        assert back["faults"] == []
        assert driver.process.wait(300) == 0

    figures = {
        "first_paint_ms": loaded["first_paint_ms"],
        "drag_p50_ms": float(np.percentile(dragged["drag_ms"], 50)),
        "drag_p95_ms": float(np.percentile(dragged["drag_ms"], 95)),
        "cores": os.cpu_count(),
    }
    (pictures / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(figures)
