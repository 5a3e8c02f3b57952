"""A start in which a process of a model hangs is tried again, once."""

import pytest
import tritonclient.grpc as triton

from ebbtide.serve import ServerConfig, ServerStartError, TritonServer, server, stalls

HANGS = """
import pathlib, time


class TritonPythonModel:
    def initialize(self, args):
        began = pathlib.Path({began!r})
        with began.open("a") as file:
            file.write("x")
        if len(began.read_text()) <= {hangs}:
            time.sleep(3600)

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
    """Adds a model that hangs in its first loads; the file has a letter for each load."""

    def add(hangs):
        began = tmp_path / "began"
        models.write_python(repository, "other")
        (repository / "other" / "1" / "model.py").write_text(HANGS.format(began=str(began), hangs=hangs))
        return began

    return add


def test_server_is_started_again_when_a_model_hangs_as_it_loads(repository, began, caplog):
    loads = began(hangs=1)
    with caplog.at_level("WARNING", "ebbtide.serve"), TritonServer(ServerConfig(repository)) as running:
        assert triton.InferenceServerClient(running.grpc_url).is_model_ready("other")
    assert loads.read_text() == "xx"
    assert caplog.messages == [SAID]


def test_model_has_the_whole_time_when_it_hangs_again(repository, began, caplog):
    loads = began(hangs=2)
    with pytest.raises(ServerStartError, match="was not ready after startup_timeout_s=5"):
        TritonServer(ServerConfig(repository, startup_timeout_s=5.0)).start()
    assert loads.read_text() == "xx"
    assert caplog.messages == [SAID]


def test_start_is_no_stall_when_a_model_works(repository, began, caplog):
    loads = began(hangs=0)
    model = repository / "other" / "1" / "model.py"
    works = "until = time.monotonic() + 4\n        while time.monotonic() < until:\n            pass"
    model.write_text(model.read_text().replace("if len(began", f"{works}\n        if len(began"))
    with TritonServer(ServerConfig(repository)):
        assert loads.read_text() == "x"
    assert caplog.messages == []
