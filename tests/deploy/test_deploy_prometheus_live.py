"""A real Prometheus scrapes a real server: rules record, no alert fires, every query of the dashboard answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deadlines import PATIENT
from ebbtide.client import InterestClient, event
from ebbtide.interest import meters
from ports import free_port

from .test_deploy_prometheus import DASHBOARD, DEPLOY, PANELS, RECORDED

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000
Query = Callable[[str], list[dict[str, Any]]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def query(server, tmp_path_factory) -> Iterator[Query]:
    """Asks a Prometheus that scrapes the server and has the rules."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed: Debian's package `prometheus` has it")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    config = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / "rules.yaml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [urllib.parse.urlsplit(server.metrics_url).netloc]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        program,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def ask(expression: str) -> list[dict[str, Any]]:
        text = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{text}", timeout=300) as answer:
            return json.load(answer)["data"]["result"]

    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        try:
            until(lambda: is_there(ask, "up == 1"), (folder / "log"))
            yield ask
        finally:
            running.terminate()


def is_there(ask: Query, expression: str) -> bool:
    try:
        return bool(ask(expression))
    except OSError:
        return False


def until(condition: Callable[[], bool], log: Path | None = None) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("not within a minute" + ("" if log is None else f": {log.read_text()[-2000:]}"))


def test_prometheus_records_shows_and_does_not_alert_when_the_server_is_well(server, catalog, query):
    seen = [event(item_id=item_id, time_ms=NOW_MS - DAY_MS) for item_id in catalog.item_id[:3]]
    current = [event(item_id=catalog.item_id[5], time_ms=NOW_MS)]

    def is_recorded() -> bool:
        with InterestClient(server.grpc_url, config=PATIENT) as client:
            client.observe("somebody", seen)
            for _ in range(5):
                client.recommend(user_id="somebody", current=current, alpha=0.25)
                client.recommend()
        wanted = set(RECORDED) - {"ebbtide:alpha:mean1h"}
        return all(query(name) for name in wanted) and bool(query("ebbtide:alpha:mean1h > 0"))

    until(is_recorded)
    for panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$namespace", ".*")
            # Nobody observed these a week ago, and this export has no popularity to follow.
            if "offset 1w" not in expression and meters.POPULARITY_READ.name not in expression:
                assert query(expression), f"{panel['title']}: {expression}"
    namespaces = DASHBOARD["templating"]["list"][1]["query"]["query"]
    assert namespaces.startswith(f"label_values({meters.ANSWERS.name}")
    assert query('ALERTS{alertstate="firing"}') == []
