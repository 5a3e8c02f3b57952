"""A start in which a process of a model hangs is tried again, once."""

import pytest
import tritonclient.grpc as triton

from ebbtide.serve import ServerConfig, TritonServer, server, stalls

WAITS = """
import pathlib, time


class TritonPythonModel:
    def initialize(self, args):
        began = pathlib.Path({began!r})
        with began.open("a") as file:
            file.write("x")
        loads = len(began.read_text())
        time.sleep({waits_s}[loads - 1])

    def execute(self, requests):
        return []
"""
SAID = (
    "the server did nothing for 2 s while it was starting, with 1 of 2 models loaded (not: other); it is started again"
)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    for module in (stalls, server):
        monkeypatch.setattr(module, "STALLED_S", 2.0)


@pytest.fixture
def began(repository, models, tmp_path):
    """Adds a model that waits for some seconds in each of its loads; the file has a letter for each."""

    def add(*waits_s):
        began = tmp_path / "began"
        models.write_python(repository, "other")
        (repository / "other" / "1" / "model.py").write_text(WAITS.format(began=str(began), waits_s=waits_s))
        return began

    return add


def test_server_is_started_again_when_a_model_hangs_as_it_loads(repository, began, caplog):
    loads = began(3600, 0)
    with caplog.at_level("WARNING", "ebbtide.serve"), TritonServer(ServerConfig(repository)) as running:
        assert triton.InferenceServerClient(running.grpc_url).is_model_ready("other")
    assert loads.read_text() == "xx"
    assert caplog.messages == [SAID]


def test_model_has_the_whole_time_when_it_waits_again(repository, began, caplog):
    loads = began(3600, 5)
    with TritonServer(ServerConfig(repository)) as running:
        assert triton.InferenceServerClient(running.grpc_url).is_model_ready("other")
    assert loads.read_text() == "xx"
    assert caplog.messages == [SAID]


def test_start_is_no_stall_when_a_model_works(repository, began, caplog):
    loads = began(0)
    model = repository / "other" / "1" / "model.py"
    works = "until = time.monotonic() + 4\n        while time.monotonic() < until:\n            pass"
    model.write_text(model.read_text().replace("loads = len(began", f"{works}\n        loads = len(began"))
    with TritonServer(ServerConfig(repository)):
        assert loads.read_text() == "x"
    assert caplog.messages == []
