"""The committed stubs are what the one command makes of the proto files."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).with_name("buf")
STUBS = ("interest_pb2.py", "interest_pb2.pyi", "interest_pb2_grpc.py", "interest_pb2_grpc.pyi")


def test_stubs_equal_the_committed_ones_when_generated_again(tmp_path):
    subprocess.run([sys.executable, REPOSITORY / "scripts" / "generate_stubs.py", "--out", tmp_path], check=True)
    made = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    committed = {f"ebbtide/v1/{name}": (REPOSITORY / "client/ebbtide/v1" / name).read_bytes() for name in STUBS}
    assert made == committed, "run: python scripts/generate_stubs.py"


def test_schema_passes_the_linter():
    result = subprocess.run([BUF, "lint", REPOSITORY / "proto"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_schema_speaks_to_older_programs_when_compared_with_the_first_release():
    released = Path(__file__).parent / "released"
    command = [BUF, "breaking", REPOSITORY / "proto", "--against", released]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
