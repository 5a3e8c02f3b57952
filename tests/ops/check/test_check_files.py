"""Model files of backends that the test server does not have: the checker only tests that the file exists."""

from __future__ import annotations

import pytest

from ebbtide.check import check_repository
from ebbtide.check.repository import read_version

FILES = [
    ('backend: "tensorrt"', "model.plan"),
    ('platform: "tensorrt_plan"', "model.plan"),
    ('backend: "pytorch"', "model.pt"),
    ('platform: "pytorch_libtorch"', "model.pt"),
    ('backend: "openvino"', "model.xml"),
    ('platform: "tensorflow_graphdef"', "model.graphdef"),
    ('backend: "tensorflow" platform: "tensorflow_savedmodel"', "model.savedmodel"),
    ('backend: "pytorch" default_model_filename: "mine.pt"', "mine.pt"),
]
TENSORS = 'input { name: "x" data_type: TYPE_FP32 dims: 3 } output { name: "y" data_type: TYPE_FP32 dims: 3 }'


@pytest.mark.parametrize(("backend", "name"), FILES)
def test_model_file_is_required_under_the_name_that_the_backend_opens(tmp_path, backend, name):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(f"{backend} {TENSORS}")
    (finding,) = check_repository(tmp_path).findings
    assert finding.rule == "model-file-missing"
    assert finding.message == f"got nothing in 1/; expected {name}"
    (tmp_path / "m" / "1" / name).write_text("x")
    assert check_repository(tmp_path).findings == ()


def test_no_model_file_is_required_when_the_backend_is_unknown(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(f'backend: "mine" {TENSORS}')
    assert check_repository(tmp_path).findings == ()


@pytest.mark.parametrize(
    ("name", "number", "is_plain"),
    [
        ("1", 1, True),
        ("0", 0, True),
        ("12", 12, True),
        ("007", None, False),
        ("old", None, False),
        ("2.old", 2, False),
        ("+3", 3, False),
        (" 4", 4, False),
        ("-1", -1, False),
        ("9223372036854775808", 2**63, False),
        ("٣", None, False),
    ],
)
def test_version_is_read_as_c_reads_digits(name, number, is_plain):
    version = read_version(name)
    assert (version.number, version.is_plain) == (number, is_plain)
