"""Generates the Python stubs of the typed schema: ``python scripts/generate_stubs.py``.

It reads ``proto/ebbtide/v1/*.proto`` and writes messages, service and their types to ``client/ebbtide/v1/``. The path
of a proto file is the import path of its stubs, so the output of protoc needs no changes. ``pyproject.toml`` pins the
versions of grpcio-tools and mypy-protobuf (extra ``dev``).
"""

from __future__ import annotations

import argparse
import importlib.resources
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PROTO_ROOT = REPOSITORY / "proto"
STUB_ROOT = REPOSITORY / "client"
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def generate(stub_root: Path) -> None:
    """Generates the stubs of every proto file below ``stub_root``, each in the folder of its proto package.

    Raises:
        SystemExit: A plugin of the ``dev`` extra is missing.
        subprocess.CalledProcessError: protoc refused a file; its message is on standard error.
    """
    scripts_folder = Path(sys.executable).parent
    missing = [plugin for plugin in PLUGINS if not (scripts_folder / plugin).exists()]
    if missing:
        raise SystemExit(
            f"got no {' and no '.join(missing)} in {scripts_folder}; expected both plugins: pip install 'ebbtide[dev]'"
        )
    protos = sorted(path.relative_to(PROTO_ROOT).as_posix() for path in PROTO_ROOT.rglob("*.proto"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={importlib.resources.files('grpc_tools') / '_proto'}",
            *(f"--plugin={plugin}={scripts_folder / plugin}" for plugin in PLUGINS),
            f"--python_out={stub_root}",
            f"--grpc_python_out={stub_root}",
            f"--mypy_out=quiet:{stub_root}",
            f"--mypy_grpc_out=quiet:{stub_root}",
            *protos,
        ],
        check=True,
    )


def main() -> None:
    """Parses the command line and generates the stubs."""
    parser = argparse.ArgumentParser(description="Generate the Python stubs of proto/.")
    parser.add_argument("--out", type=Path, default=STUB_ROOT, help="source root to write to (default: client/)")
    generate(parser.parse_args().out)


if __name__ == "__main__":
    main()
