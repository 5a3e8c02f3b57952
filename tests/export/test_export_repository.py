"""The exported folder: its content, what its id depends on, and which folders an export may replace."""

from __future__ import annotations

import ast
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.export.errors import LimitError, OutputFolderError, RepositoryError
from ebbtide.export.manifest import read_manifest
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import ExportReport, export_repository, require_replaceable
from ebbtide.export.sources import model_sources
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits
from ebbtide.train.bundle import InterestBundle

from .conftest import Export

ROOT = Path(__file__).parents[2]
SERVED_IMPORTS = {"cryptography", "hiredis", "lmdb", "numpy", "redis", "tokenizers", "triton_python_backend_utils"}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_folder_holds_known_kinds_of_files_when_exported(repository: Path) -> None:
    suffixes = {path.suffix for path in files(repository) if path.name != ".gitkeep"}
    assert suffixes == {".bin", ".json", ".onnx", ".pbtxt", ".py", ".safetensors"}
    assert {path.name for path in repository.iterdir()} == {*served_models.MODELS, contract.MANIFEST_FILE}
    for path in files(repository):
        start = path.read_bytes()[:2]
        assert start not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"), f"{path} looks like a pickle"


def test_files_are_readable_by_every_user_when_exported(repository: Path) -> None:
    closed = [path for path in repository.rglob("*") if not path.stat().st_mode & stat.S_IROTH]
    assert closed == []


def test_folder_names_no_path_of_this_machine_when_exported(repository: Path) -> None:
    paths = {str(ROOT), str(Path.home()), sys.prefix, str(repository.parent), "site-packages"}
    for path in files(repository):
        content = path.read_bytes()
        assert [index for index in paths if index.encode() in content] == [], path


def test_python_models_import_only_what_is_there_when_exported(repository: Path) -> None:
    for name, model in served_models.MODELS.items():
        folder = repository / name / "1"
        sources = sorted(folder.rglob("*.py"))
        assert bool(sources) == (model.kind is served_models.Kind.PYTHON)
        for source in sources:
            for imported in imports(source):
                top = imported.partition(".")[0]
                if top == "ebbtide" or (folder / f"{top}.py").is_file():
                    path = folder / Path(*imported.split("."))
                    found = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
                    assert found, f"{source} imports {imported}"
                else:
                    assert top in SERVED_IMPORTS | set(sys.stdlib_module_names), f"{source} imports {imported}"
        assert not (folder / "ebbtide" / "__init__.py").exists()


def imports(source: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            found.add(node.module)
    return found


def test_ensembles_keep_an_empty_version_when_exported(repository: Path) -> None:
    for name, model in served_models.MODELS.items():
        if model.kind is served_models.Kind.ENSEMBLE:
            assert [path.name for path in (repository / name / "1").iterdir()] == [".gitkeep"]


def test_manifest_tells_what_was_measured_when_exported(repository: Path, export_report: ExportReport) -> None:
    (content,) = read_manifest(repository).values()
    assert content["fingerprint"] == export_report.fingerprint
    assert content["head_difference"] == export_report.head_difference
    assert content["options"]["limits"]["max_events"] == Limits().max_events
    assert export_report.size_bytes > 0
    assert set(export_report.seconds) >= {"encoder", "scoring head", "check of the encoder"}


def test_sources_are_those_of_the_tree_when_installed_editable() -> None:
    assert model_sources() == ROOT / "model_repository"


@pytest.mark.parametrize("content", ["nothing", "empty", "export"])
def test_folder_may_be_replaced_when_it_is_ours_or_empty(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    if content != "nothing":
        out.mkdir()
    if content == "export":
        (out / contract.MANIFEST_FILE).touch()
        (out / served_models.ENCODER.name).mkdir()
    require_replaceable(out)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["notes.txt"], "notes.txt in it"),
        ([contract.MANIFEST_FILE, "other_model"], "other_model in it"),
        ([served_models.ENCODER.name], f"no {contract.MANIFEST_FILE} in it"),
    ],
)
def test_folder_is_left_alone_when_something_else_is_in_it(
    bundle: InterestBundle, tmp_path: Path, entries: list[str], message: str
) -> None:
    for entry in entries:
        (tmp_path / entry).mkdir()
    with pytest.raises(OutputFolderError, match=message):
        export_repository(bundle, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(entries)


def test_file_is_left_alone_when_it_stands_in_the_way(bundle: InterestBundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(OutputFolderError, match="got a file"):
        export_repository(bundle, out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_n": 0}, "top_n: got 0; expected at least 1"),
        ({"limits": Limits(max_texts=0)}, "limits.max_texts: got 0"),
        ({"limits": Limits(max_exclude_items=-1)}, "limits.max_exclude_items: got -1; expected at least 0"),
    ],
)
def test_options_are_refused_when_a_number_cannot_be_served(settings: dict[str, object], message: str) -> None:
    with pytest.raises(LimitError, match=message):
        ExportOptions(**settings)


def test_export_is_refused_when_the_encoder_is_another(
    tmp_path: Path, make_bundle: Callable[..., InterestBundle]
) -> None:
    other = make_bundle()
    encoder = other.config.encoder.model_copy(update={"fingerprint": "0" * 64})
    config = other.config.model_copy(update={"encoder": encoder})
    changed = InterestBundle(config, other.catalog, other.model, other.prior_columns)
    with pytest.raises(RepositoryError, match="expected 0000000000000000"):
        export_repository(changed, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_earlier_export_is_replaced_when_the_new_one_is_sound(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    parts: list[str] = []
    first = export(tiny_bundle, tmp_path / "out", version=2)
    second = export(tiny_bundle, tmp_path / "out", ExportOptions(top_n=10_000), report=parts.append)
    assert first.folder == second.folder
    assert second.top_n == len(tiny_bundle.catalog)
    assert [path.name for path in (tmp_path / "out" / served_models.SCORING_HEAD.name).glob("[0-9]*")] == ["1"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    checks = [f"check of {part}" for part in ("the scoring head", "whole requests", "the encoder")]
    assert parts == ["tables", "configs and Python models", "scoring head", "encoder", *checks, "warm-up"]
