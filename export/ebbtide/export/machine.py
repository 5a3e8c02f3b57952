"""The processor on which an export measures, and its vector instructions, on which the figures depend."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VECTOR_UNITS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Vector instructions for which ONNX Runtime has specific kernels."""


@dataclass(frozen=True)
class Machine:
    """The processor of a machine."""

    processor: str
    vector_units: tuple[str, ...]
    """Names as in ``/proc/cpuinfo`` of Linux; empty if this file does not exist."""

    @classmethod
    def this(cls) -> Machine:
        """The machine that this process runs on."""
        text = _CPUINFO.read_text(encoding="utf-8") if _CPUINFO.is_file() else ""
        found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        flags = {*found.get("flags", "").split(), *found.get("Features", "").split()}
        processor = found.get("model name") or platform.processor() or platform.machine()
        return cls(processor, tuple(unit for unit in _VECTOR_UNITS if unit in flags))
