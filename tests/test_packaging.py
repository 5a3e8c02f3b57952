"""What the wheel holds, and that the source roots stay parts of one namespace."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = (
    *("interest", "store", "data", "train", "export", "client", "serve", "gateway", "cli"),
    *("check", "verify", "deploy", "tune", "loadtest", "capacity"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (path,) = folder.glob("ebbtide-*.whl")
    return path


def test_wheel_holds_every_stage_and_the_served_models_but_no_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for stage in STAGES:
        assert f"ebbtide/{stage}/__init__.py" in names
        assert f"ebbtide/{stage}/py.typed" in names
    assert "ebbtide/export/model_repository/adaptive_weights/model.py" in names
    assert "ebbtide/serve/backends/onnxruntime/model.py" in names
    assert "ebbtide/__init__.py" not in names
    assert not [name for name in names if name.endswith((".parquet", ".pkl", ".pt", ".pyc"))]


def test_wheel_imports_every_stage_when_installed(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    modules = ", ".join(f"ebbtide.{stage}" for stage in STAGES)
    code = f"import {modules}; import ebbtide.export.repository as r; print(ebbtide.client.__file__, r.__file__)"
    # First on the path, so that it wins over the editable install.
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split())


def test_no_source_root_claims_the_namespace():
    assert not list(ROOT.glob("*/ebbtide/__init__.py"))


def test_shipped_data_comes_with_its_licence():
    text = (ROOT / "examples" / "movielens-small" / "README.md").read_text(encoding="utf-8")
    assert "GroupLens" in text
    assert "no commercial" in text


PAIRS = {
    "README.md": "README.zh-CN.md",
    "docs/prepare.md": "docs/zh-CN/prepare.md",
    "docs/domains.md": "docs/zh-CN/domains.md",
    "docs/online-interest.md": "docs/zh-CN/online-interest.md",
}


@pytest.mark.parametrize("name", PAIRS)
def test_chinese_page_shows_the_same_commands_when_the_english_one_changes(name):
    english, chinese = ((ROOT / page).read_text(encoding="utf-8") for page in (name, PAIRS[name]))
    code, theirs = ([line for line in page.splitlines() if line.startswith("    ")] for page in (english, chinese))
    assert code == theirs
    headings, theirs = (sum(line.startswith("#") for line in page.splitlines()) for page in (english, chinese))
    assert headings == theirs


def test_every_chinese_page_has_an_english_one():
    chinese = {str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "zh-CN").glob("*.md")}
    assert chinese == set(PAIRS.values()) - {"README.zh-CN.md"}
