"""Facts about the machine that the figures depend on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.load import VERSION as PERF_ANALYZER

_PACKAGES = (
    *("numpy", "onnxruntime", "nvidia-pytriton", "torch", "grpcio", "tritonclient", "tokenizers", "transformers"),
    *("sentence-transformers", "faiss-cpu", "usearch"),
)


def facts() -> dict[str, Any]:
    """The date (UTC), processor, memory and versions; packages that are not installed are left out."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "perf_analyzer": PERF_ANALYZER,
        "versions": {name: version for name in _PACKAGES if (version := _version(name)) is not None},
    }


def load_average() -> float:
    """The load average of the last minute; above zero before a run, other programs use the cores."""
    return round(os.getloadavg()[0], 2)


def _cpu_model() -> str:
    named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return named[0].split(":", 1)[1].strip() if named else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
