"""Facts about the machine that the figures depend on."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any

from benchmarks.serving.load import VERSION as PERF_ANALYZER
from ebbtide.loadtest.machine import machine_facts

_PACKAGES = (
    *("numpy", "onnxruntime", "nvidia-pytriton", "torch", "grpcio", "tritonclient", "tokenizers", "transformers"),
    *("sentence-transformers", "faiss-cpu", "usearch"),
)


def facts() -> dict[str, Any]:
    """The date (UTC), processor, memory and versions; packages that are not installed are left out."""
    machine = machine_facts(_PACKAGES)
    installed = {name: version for name, version in machine.pop("versions").items() if version is not None}
    day = datetime.now(timezone.utc).date().isoformat()
    return {"date": day, **machine, "perf_analyzer": PERF_ANALYZER, "versions": installed}


def load_average() -> float:
    """The load average of the last minute; above zero before a run, another program uses the cores."""
    return round(os.getloadavg()[0], 2)
