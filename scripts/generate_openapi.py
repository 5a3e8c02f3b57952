"""Generates the OpenAPI document of the gateway: ``python scripts/generate_openapi.py``, after the stubs.

It reads ``proto/ebbtide/v1/interest.proto``, for its comments, and writes ``serve/ebbtide/gateway/openapi.json``.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from ebbtide.gateway.http import OPENAPI_FILE
from ebbtide.gateway.openapi import openapi

REPOSITORY = Path(__file__).resolve().parent.parent
PROTO_ROOT = REPOSITORY / "proto"
SCHEMA = "ebbtide/v1/interest.proto"
OUT = REPOSITORY / "serve" / "ebbtide" / "gateway" / OPENAPI_FILE


def document() -> str:
    """The document as text.

    Raises:
        subprocess.CalledProcessError: protoc refused the schema; its message is on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "schema.binpb"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--proto_path={PROTO_ROOT}",
                f"--proto_path={importlib.resources.files('grpc_tools') / '_proto'}",
                "--include_source_info",
                f"--descriptor_set_out={out}",
                SCHEMA,
            ],
            check=True,
        )
        (source,) = FileDescriptorSet.FromString(out.read_bytes()).file
    return json.dumps(openapi(source, version="1"), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Parses the command line and writes the document."""
    parser = argparse.ArgumentParser(description="Generate the OpenAPI document of the gateway.")
    parser.add_argument("--out", type=Path, default=OUT, help="file to write (default: in the gateway's package)")
    parser.parse_args().out.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
