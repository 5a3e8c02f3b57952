"""Files of an export that have changed: the server refuses the model and names the file, and so does the checker."""

import json
import shutil

import pytest

from commands import run
from ebbtide.export.errors import RepositoryError
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.serve import ModelLoadError, ServerConfig, TritonServer

TABLES = {
    "adaptive_weights": "catalog.safetensors",
    "adaptive_weights_text": "interest.safetensors",
    "candidate_head": "factors.safetensors",
    "explainer": "item_ids.safetensors",
    "observer": "popularity.safetensors",
    "interest_reader": "catalog.safetensors",
    "tokenizer": "tokenizer.json",
}
GRAPHS = {"encoder": "model.onnx", "scoring_head": "model.onnx"}
REFUSED_BY = {"encoder": "tokenizer", "scoring_head": "adaptive_weights"}
"""The model that tells of an ONNX model's file."""


def flip(path):
    """Changes one bit near the end of a file: a number of a table, no text that a parser would miss."""
    content = bytearray(path.read_bytes())
    content[-len(content) // 10] ^= 1
    path.write_bytes(content)


@pytest.fixture(params=[TABLES, GRAPHS], ids=["tables", "graphs"])
def damaged(request, tiny_export, tmp_path):
    """A repository with a flipped bit in a file of several models, and these files."""
    repository = tmp_path / "repository"
    shutil.copytree(tiny_export.folder, repository)
    for model, name in request.param.items():
        flip(repository / model / "1" / name)
    return repository, request.param


def test_server_refuses_models_and_names_the_file_when_a_bit_has_flipped(damaged):
    repository, files = damaged
    with pytest.raises(ModelLoadError) as caught:
        TritonServer(ServerConfig(repository, state="none")).start()
    for model, name in files.items():
        reason = caught.value.failures[REFUSED_BY.get(model, model)]
        assert f"{model}/1/{name}: got SHA-256" in reason


def test_checker_names_the_file_when_a_bit_has_flipped(damaged):
    repository, files = damaged
    done = run("check", repository, "--format", "json")
    assert done.returncode == 1
    found = {one["file"] for one in json.loads(done.stdout)["findings"] if one["rule"] == "file-changed"}
    assert found == {f"{model}/1/{name}" for model, name in files.items()}


def test_export_is_not_used_in_process_when_a_bit_has_flipped(damaged):
    with pytest.raises(RepositoryError, match="got SHA-256"):
        InProcessPipeline(damaged[0])
