"""What the client adds to an empty environment that has tritonclient: megabytes, and time to import."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_HEAVY = ("torch", "transformers", "onnx", "onnxruntime")
_IMPORTS = 15


def measure_install() -> tuple[dict[str, Any], dict[str, Any]]:
    """Installs tritonclient, and then this project beside it.

    Returns:
        What the installation weighs, and what its import takes.
    """
    with tempfile.TemporaryDirectory(prefix="ebbtide-install-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder) / "bin" / "python"
        bare = _megabytes(folder)
        _install(python, "tritonclient[grpc]")
        triton = _megabytes(folder)
        _install(python, str(ROOT))
        ours = _megabytes(folder)
        check = f"import importlib.util; print(*[name for name in {_HEAVY} if importlib.util.find_spec(name)])"
        heavy = subprocess.run([python, "-c", check], check=True, capture_output=True, text=True).stdout.split()
        install = {
            "tritonclient_megabytes": round(triton - bare, 1),
            "client_megabytes": round(ours - bare, 1),
            "megabytes_over_tritonclient": round(ours - triton, 2),
            "heavy_packages": heavy,
        }
        return install, _measure_import(python)


def _install(python: Path, what: str) -> None:
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", what], check=True)


def _megabytes(folder: str) -> float:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6


def _measure_import(python: Path) -> dict[str, float]:
    """The quickest of many fresh interpreters, taking turns."""
    seconds: dict[str, list[float]] = {"sys": [], "tritonclient.grpc": [], "ebbtide.client": []}
    for _ in range(_IMPORTS):
        for module, times in seconds.items():
            began = time.perf_counter()
            subprocess.run([python, "-c", f"import {module}"], check=True)
            times.append(time.perf_counter() - began)
    bare, triton, ours = (min(times) for times in seconds.values())
    return {
        "tritonclient_s": round(triton - bare, 4),
        "client_s": round(ours - bare, 4),
        "time_over_tritonclient": round((ours - bare) / (triton - bare), 3),
    }
