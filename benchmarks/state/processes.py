"""Processor time and memory of a process and all that it started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence

import psutil

_SAMPLE_S = 0.2


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of processor time that processes and their children have used."""
    return sum(times.user + times.system for process in _trees(pids) if (times := _cpu_times(process)) is not None)


def run_measured(command: Sequence[str]) -> tuple[float, int, str]:
    """Runs a program; returns seconds, the peak of its memory in bytes, and its output.

    The memory is the proportional set size of the program and all its children together: what they share counts once,
    files that they map count too.

    Raises:
        RuntimeError: The program failed.
    """
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_pss, _trees([process.pid]))))
            time.sleep(_SAMPLE_S)
        seconds = time.perf_counter() - began
        output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {process.returncode}:\n{output}")
    return seconds, peak, output


def _trees(pids: Iterable[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def _cpu_times(process: psutil.Process) -> psutil._ntuples.pcputimes | None:
    try:
        return process.cpu_times()
    except psutil.NoSuchProcess:
        return None


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
