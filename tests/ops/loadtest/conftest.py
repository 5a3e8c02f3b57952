"""Real sessions of the shipped log, and a real Triton with a two-step ensemble whose first step is slowed."""

import re
import urllib.request
from pathlib import Path

import pytest

from deadlines import until
from ebbtide.cli.session_log import read_session_log
from ebbtide.loadtest import build_workload
from ebbtide.serve import ServerConfig
from servers import mark_complete, serving

MOVIELENS = Path(__file__).parents[3] / "examples" / "movielens-small"

PENDING = re.compile(r"^nv_inference_pending_request_count\{.*\} (\S+)$", re.MULTILINE)
SLOW_STEP_MS = 10
SLOW_STEP = f"""
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        time.sleep({SLOW_STEP_MS / 1e3})
        answers = []
        for request in requests:
            count = np.float32(pb_utils.get_input_tensor_by_name(request, "event_item").as_numpy().size)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("interest", np.array([[count]]))]))
        return answers
"""
FAST_STEP = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        values = [pb_utils.get_input_tensor_by_name(request, "interest").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("score", value)]) for value in values]
"""
LIMITS = """
parameters { key: "max_candidates" value { string_value: "70" } }
"""
EVENTS = """
input [
  { name: "event_item" data_type: TYPE_INT64 dims: [-1] },
  { name: "event_time" data_type: TYPE_INT64 dims: [-1] },
  { name: "now" data_type: TYPE_INT64 dims: [1] }
]
max_batch_size: 8
"""
PYTHON = 'backend: "python"\ninstance_group [{ kind: KIND_CPU }]\n'
CONFIGS = {
    "adaptive_weights": PYTHON + EVENTS + 'output [{ name: "interest" data_type: TYPE_FP32 dims: [1] }]\n',
    "scoring_head": PYTHON + 'max_batch_size: 8\ninput [{ name: "interest" data_type: TYPE_FP32 dims: [1] }]\n'
    'output [{ name: "score" data_type: TYPE_FP32 dims: [1] }]\n',
    "recommend": 'platform: "ensemble"\n'
    + LIMITS
    + EVENTS
    + """
output [{ name: "score" data_type: TYPE_FP32 dims: [1] }]
ensemble_scheduling { step [
  { model_name: "adaptive_weights" model_version: -1
    input_map { key: "event_item" value: "event_item" } input_map { key: "event_time" value: "event_time" }
    input_map { key: "now" value: "now" } output_map { key: "interest" value: "interest" } },
  { model_name: "scoring_head" model_version: -1
    input_map { key: "interest" value: "interest" } output_map { key: "score" value: "score" } }
] }
""",
}


@pytest.fixture(scope="session")
def slowed_repository(tmp_path_factory):
    """A repository that takes the requests of `recommend`, and sleeps in one step."""
    folder = tmp_path_factory.mktemp("slowed")
    for name, config in CONFIGS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
        if name != "recommend":
            (version / "model.py").write_text(SLOW_STEP if name == "adaptive_weights" else FAST_STEP)
    mark_complete(folder)
    return folder


@pytest.fixture(scope="session")
def server(slowed_repository):
    with serving(ServerConfig(slowed_repository)) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_backlog(request):
    """The shared server has answered what a test has left waiting, cancelled or not, before the next one asks."""
    yield
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        until(lambda: not any(float(count) for count in PENDING.findall(page_of(running.metrics_url))))


def page_of(url):
    with urllib.request.urlopen(url) as page:  # noqa: S310 - the server's own URL
        return page.read().decode()


@pytest.fixture(scope="session")
def sessions():
    """The shipped log, its last fifth held out."""
    columns = ("userId", "movieId", "timestamp", None, None)
    replayed, notes = read_session_log(
        None, MOVIELENS / "ratings.parquet", MOVIELENS / "movies.parquet", None, "{title} ({year})", columns
    )
    assert notes == []
    return replayed


@pytest.fixture(scope="session")
def workload(sessions):
    return build_workload(sessions, {"recommend": 1.0}, requests=300)
