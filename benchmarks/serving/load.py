"""Closed-loop load by NVIDIA's perf_analyzer: a C++ program, so that what is measured is the server and not its caller.

It comes in the wheel of an older tritonclient; the two libraries that it wants beside it come with the embedded Triton.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "2.41.0"
"""The last release of tritonclient whose wheel has the program."""
HOME = ROOT / "artifacts" / "perf_analyzer" / VERSION
_PROGRAM = f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"
_LIBRARIES = {"libb64-": "libb64.so.0d", "libcudart-": "libcudart.so.12"}
_SERVER_PACKAGE = "nvidia-pytriton"
_WINDOWS = 3
"""The fewest windows after which perf_analyzer stops; it reports over all of them."""
_ANY_SPREAD_PERCENT = "1000000"
_MARGIN_S = 60.0
_WARM_UP_REQUESTS = 500


class LoadError(RuntimeError):
    """The load generator is missing, or a server failed under it."""


@dataclass(frozen=True)
class Turn:
    """What one turn of load found."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float

    def raw(self) -> dict[str, float]:
        """As it is kept in the report."""
        return asdict(self)


@dataclass(frozen=True)
class PerfAnalyzer:
    """The program, ready to be run."""

    program: Path
    libraries: Path
    """Folder for ``LD_LIBRARY_PATH``."""

    @classmethod
    def set_up(cls, home: Path = HOME) -> PerfAnalyzer:
        """Finds the program in a folder, or brings it there.

        Raises:
            LoadError: The wheel can't be had, or the embedded Triton is not installed.
        """
        program, libraries = home / "perf_analyzer", home / "lib"
        if not program.is_file():
            home.mkdir(parents=True, exist_ok=True)
            _extract_program(program)
        libraries.mkdir(exist_ok=True)
        for start, name in _LIBRARIES.items():
            link = libraries / name
            link.unlink(missing_ok=True)
            link.symlink_to(_server_library(start))
        return cls(program, libraries)

    def turn(self, url: str, model: str, data: Path, concurrency: int, seconds: float) -> Turn:
        """Keeps so many requests in flight for a while.

        Args:
            url: ``host:port`` of a gRPC endpoint that speaks the KServe v2 protocol.
            model: Asked with a batch of 1 and for all its outputs.
            data: See `benchmarks.serving.users`; its requests come in turn.
            concurrency: Requests in flight.
            seconds: Length of the measurement.

        Raises:
            LoadError: A request failed, or the program did.
        """
        row = self._run(url, model, data, concurrency, ("-p", str(round(seconds * 1000 / _WINDOWS))), seconds)
        return Turn(
            round(float(row["Inferences/Second"]), 1),
            round(float(row["p50 latency"]) / 1e3, 4),
            round(float(row["p99 latency"]) / 1e3, 4),
        )

    def warm_up(self, url: str, model: str, data: Path, concurrency: int) -> None:
        """Asks until enough was answered for allocators, shared memory and batches of every size.

        Raises:
            LoadError: A request failed, or the program did.
        """
        windows = ("--measurement-mode", "count_windows", "--measurement-request-count", str(_WARM_UP_REQUESTS))
        self._run(url, model, data, concurrency, windows, 0.0)

    def _run(
        self, url: str, model: str, data: Path, concurrency: int, windows: tuple[str, ...], seconds: float
    ) -> dict[str, str]:
        """The figures of one run, by perf_analyzer's names for them."""
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.csv"
            command = [
                *(str(self.program), "-m", model, "-u", url, "-i", "grpc", "--input-data", str(data)),
                *("--concurrency-range", str(concurrency), "-f", str(report)),
                *(*windows, "-r", str(_WINDOWS), "-s", _ANY_SPREAD_PERCENT),
                # One thread for each request in flight would take the server's cores for switching between them.
                *(("--async", "--max-threads", "2") if concurrency > 1 else ("--sync",)),
            ]
            environment = {**os.environ, "LD_LIBRARY_PATH": str(self.libraries)}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=4 * seconds + _MARGIN_S
            )
            if done.returncode or not report.is_file():
                raise LoadError(
                    f"perf_analyzer on {model} at {url}: got status {done.returncode}; expected 0. Output:\n"
                    f"{done.stdout[-2_000:]}{done.stderr[-2_000:]}"
                )
            with report.open() as lines:
                (row,) = csv.DictReader(lines)
        return row


def _extract_program(program: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        index = ("--platform", "manylinux1_x86_64", "--dest", folder, f"tritonclient=={VERSION}")
        done = subprocess.run([*wheel, *index], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise LoadError(
                f"perf_analyzer: pip got no wheel tritonclient=={VERSION} for manylinux1_x86_64: put its file "
                f"{_PROGRAM} at {program}. Output:\n{done.stderr[-2_000:]}"
            )
        partial = program.with_suffix(".partial")
        with zipfile.ZipFile(wheels[0]) as archive:
            partial.write_bytes(archive.read(_PROGRAM))
    partial.chmod(0o755)
    partial.rename(program)


def _server_library(start: str) -> Path:
    for file in importlib.metadata.files(_SERVER_PACKAGE) or ():
        if file.name.startswith(start):
            return Path(str(file.locate())).resolve()
    raise LoadError(
        f"perf_analyzer: {_SERVER_PACKAGE} has no {start}*, which the program needs: install ebbtide[serve]"
    )
