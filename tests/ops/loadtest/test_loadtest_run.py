"""Whole load tests against a real Triton: accounting, the server's own times, the reports, the command."""

import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from ebbtide.interest.contract import Limits
from ebbtide.loadtest import (
    Generator,
    Load,
    LoadTestError,
    Options,
    RateProfile,
    Slo,
    build_workload,
    load_test,
    served_limits,
)
from ebbtide.loadtest.calibrate import calibrate
from ebbtide.loadtest.report.html import html_report
from ebbtide.loadtest.report.markdown import markdown_report
from ebbtide.loadtest.server_time import time_shares
from ebbtide.serve import ServerConfig, TritonServer
from servers import once_answered

SLOW_STEP_MS = 10
OVERLOAD_S = np.repeat(np.arange(0.0, 10.0, 0.05), 10)
"""Twice as many requests as the server can answer."""


@pytest.fixture(scope="module")
def result(server, workload):
    """An open run and a closed one, with an objective that cannot be held with a sleep of 10 ms."""
    loads = [Load(2.0, RateProfile(40)), Load(1.5, concurrency=4)]
    options = Options(loads, warm_up_s=0.3, slo=Slo.parse("p50<5ms"), command="ebbtide loadtest <&>")
    with Generator(server.grpc_url, workload, timeout_s=60) as generator:
        return load_test(server.grpc_url, workload, generator, options)


def accounted(found):
    return found["sent"] == found["answered"] + found["failed"] + found["cancelled"]


def test_every_request_is_accounted_for_when_all_goes_well(result):
    assert result["sent"] == result["answered"] > 80
    assert result["failed"] == result["cancelled"] == result["unaccounted"] == result["unsent"] == 0
    assert sum(run["sent"] for run in result["runs"]) == result["sent"]
    assert all(accounted(run) for run in result["runs"])
    for run in result["runs"]:
        windows = run["windows"]
        lengths = np.minimum(windows["width_s"], run["duration_s"] - np.array(windows["begin_s"]))
        assert round(float(np.dot(windows["rate"], lengths))) == run["sent"]


def test_server_counts_what_was_answered_when_a_run_ends(result):
    headline = next(run for run in result["runs"] if run["headline"])
    models = {model["name"]: model for model in result["models"]}
    assert set(models) == {"recommend", "adaptive_weights", "scoring_head"}
    assert all(model["requests"] == headline["answered"] for model in models.values())
    assert models["recommend"]["steps"] == ["adaptive_weights", "scoring_head"]


@pytest.mark.usefixtures("result")
def test_slowed_step_has_most_of_the_time(server):
    shares = time_shares(server.grpc_url, ["recommend"])
    assert set(shares) == {"adaptive_weights", "scoring_head"}
    assert shares["adaptive_weights"] > shares["scoring_head"] > 0


def test_report_names_the_step_when_one_is_slowed(result):
    (sentence,) = result["slowest_steps"]
    found = re.fullmatch(
        r"recommend: adaptive_weights takes ([\d.]+) of ([\d.]+) ms on the server, ([\d.]+) of them (.+)", sentence
    )
    assert found, sentence
    assert float(found[1]) >= SLOW_STEP_MS
    models = {model["name"]: model for model in result["models"]}
    assert models["adaptive_weights"]["parts_ms"]["infer"] >= SLOW_STEP_MS
    assert sentence in html_report(result)
    assert sentence in markdown_report(result)


def test_objective_is_broken_when_the_server_sleeps_longer_than_it_allows(result):
    assert result["slo"]["held"] is False
    assert result["slo"]["percentiles"][0]["found_ms"] > SLOW_STEP_MS
    assert result["latency_ms"]["p50"] <= result["latency_ms"]["p90"] <= result["latency_ms"]["p999"]


def test_server_process_is_watched_when_it_is_on_this_machine(result):
    usage = result["runs"][0]["usage"]
    assert usage["note"] == ""
    assert len(usage["server_cores"]) == len(usage["at_s"]) >= 3
    assert min(usage["server_memory_mib"]) > 10


def test_latency_counts_from_the_due_time_when_the_server_falls_behind(server, workload):
    # The slow step takes one request after the other, so most of a hundred at once wait.
    with Generator(server.grpc_url, workload, timeout_s=60) as generator:
        phase = generator.open_model(np.zeros(100), 1.0)
    assert phase.counts.answered == 100
    assert float(phase.records["took_s"].max()) > 5 * SLOW_STEP_MS / 1e3
    assert (phase.records["late_s"] >= 0).all()
    assert (phase.records["took_s"] > phase.records["late_s"]).all()


def test_requests_under_way_count_as_cancelled_when_interrupted(server, workload):
    with Generator(server.grpc_url, workload, timeout_s=60) as generator:
        interrupt = once_answered(server.grpc_url, "recommend", 30, lambda: os.kill(os.getpid(), signal.SIGINT))
        phase = generator.open_model(OVERLOAD_S, 10.0)
        interrupt.join()
    counts = phase.counts
    assert phase.interrupted
    assert counts.unaccounted == 0
    assert counts.answered > 0
    assert counts.cancelled > 0
    assert counts.unsent == OVERLOAD_S.size - counts.sent > 0


def test_every_request_is_accounted_for_when_the_server_dies_in_the_middle(slowed_repository, workload):
    options = Options([Load(2.0, RateProfile(60), "constant")], warm_up_s=0, timeout_s=2)
    with TritonServer(ServerConfig(slowed_repository)) as mortal:

        class Deadly(Generator):
            """Kills the server in the run itself, once it has answered some requests."""

            def open_model(self, send_s, duration_s):
                killer = once_answered(mortal.grpc_url, "recommend", 30, lambda: os.kill(mortal.pid, signal.SIGKILL))
                phase = super().open_model(send_s, duration_s)
                killer.join()
                return phase

        generator = Deadly(mortal.grpc_url, workload, timeout_s=2)
        with generator:
            result = load_test(mortal.grpc_url, workload, generator, options)
    assert result["sent"] == 120
    assert accounted(result)
    assert result["answered"] > 0
    assert result["failed"] > 0
    assert result["unaccounted"] == 0
    assert "UNAVAILABLE" in result["errors"]
    assert result["models"] == []
    assert "the server no longer answers, so its own statistics are missing" in result["notes"]
    assert "UNAVAILABLE" in html_report(result)


def test_requests_fail_by_deadline_when_it_is_shorter_than_the_sleep(server, workload):
    with Generator(server.grpc_url, workload, timeout_s=0.005) as generator:
        phase = generator.closed_model(2, 0.3)
    assert phase.counts.failed == phase.sent > 0
    assert phase.counts.unaccounted == 0


def test_generator_sends_more_than_the_slowed_server_when_nothing_is_done(server, workload):
    with Generator(server.grpc_url, workload, timeout_s=60) as generator:
        calibration = calibrate(generator, server.grpc_url)
        phase = generator.closed_model(1, 0.5)
    assert calibration.throughput > phase.throughput
    assert phase.counts.answered == phase.sent > 0


def test_load_test_is_refused_in_words_when_nobody_is_at_the_address(workload):
    with (
        Generator("127.0.0.1:1", workload, timeout_s=1) as generator,
        pytest.raises(LoadTestError, match=r"127\.0\.0\.1:1: UNAVAILABLE"),
    ):
        load_test("127.0.0.1:1", workload, generator, Options([Load(1.0, concurrency=1)]))


def test_limits_are_those_that_the_server_states(server):
    assert served_limits(server.grpc_url, ["recommend"]) == Limits(max_candidates=70)


def test_load_test_is_refused_in_words_when_the_server_lacks_the_endpoint(server, sessions):
    workload = build_workload(sessions, {"embed": 1.0}, requests=5)
    with Generator(server.grpc_url, workload, timeout_s=1) as generator, pytest.raises(LoadTestError, match="embed at"):
        load_test(server.grpc_url, workload, generator, Options([Load(1.0, concurrency=1)]))


class Reader(HTMLParser):
    """What a page refers to, and whether its elements close."""

    def __init__(self):
        super().__init__()
        self.open, self.references, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_report_is_one_file_without_scripts_or_references(result):
    page = html_report(result)
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    # Charts refer to their own markers and clips only.
    assert all(reference.startswith("#") for reference in reader.references)
    assert page.count("url(") == page.count("url(#")
    assert "script" not in reader.tags
    assert "@import" not in page
    # Throughput and latency, its distribution, two over time, processor, the server's split.
    assert reader.tags.count("svg") == 6
    assert "prefers-color-scheme: dark" in page
    assert "ebbtide loadtest &lt;&amp;&gt;" in page


def test_json_is_strict_when_written(result):
    text = json.dumps(result, allow_nan=False)
    assert json.loads(text) == result


WITHOUT_TORCH = """
import sys


class NoTorch:
    def find_spec(self, name, *_):
        if name == "torch":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoTorch())
from ebbtide.cli.main import main

main()
"""
"""The extra that load tests need does not bring it."""


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "loadtest", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_command_writes_every_format_that_is_asked_for_and_compares_two_results(server, tmp_path):
    files = [tmp_path / name for name in ("out.json", "out.html", "out.md")]
    done = run_command(
        *(server.grpc_url, "--duration", "2s", "--rate", "50", "--warm-up", "none", "--slo", "p99<60s"),
        *("--requests", "100", "--timeout", "60s", "--json", files[0], "--html", files[1], "--markdown", files[2]),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(files[0].read_text())
    assert accounted(result)
    assert set(result["latency_ms"]) >= {"p50", "p90", "p99", "p999"}
    assert result["throughput"] > 0
    assert result["slo"]["held"] is True
    assert {model["name"] for model in result["models"]} == {"recommend", "adaptive_weights", "scoring_head"}
    assert result["command"].startswith(f"ebbtide loadtest {server.grpc_url} --duration 2s --rate 50")
    assert files[1].read_text().startswith("<!doctype html>")
    assert "| endpoint |" in files[2].read_text()

    compared = run_command("--compare", files[0], files[0])
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.count("no significant difference") == 4


def test_command_fails_when_the_objective_is_broken(server):
    done = run_command(
        server.grpc_url, "--duration", "1s", "--concurrency", "2", "--warm-up", "none", "--slo", "p50<1ms"
    )
    assert done.returncode == 1
    assert "is not held" in done.stdout


def test_result_notes_other_clients_when_they_use_the_server(server, workload):
    class Accompanied(Generator):
        """Another client sends three requests during the run."""

        def open_model(self, send_s, duration_s):
            with Generator(server.grpc_url, workload, timeout_s=60) as other:
                other.open_model(np.zeros(3), 0.1)
            return super().open_model(send_s, duration_s)

    with Accompanied(server.grpc_url, workload, timeout_s=60) as generator:
        options = Options([Load(0.5, RateProfile(40), "constant")], warm_up_s=0)
        result = load_test(server.grpc_url, workload, generator, options)
    assert result["sent"] == 20
    note = "the server also answered 3 requests of recommend from other clients; its own times include them"
    assert note in result["notes"]
