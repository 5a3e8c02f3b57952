"""Installs NVIDIA's perf_analyzer, an independent load generator, and runs closed-loop load with it.

The program is in the wheel of an older tritonclient; the two libraries that it needs come with the embedded Triton.
"""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ebbtide.loadtest import LoadTestError
from ebbtide.loadtest.perf_analyzer import Measured, measure

ROOT = Path(__file__).parents[2]
VERSION = "2.41.0"
"""The last release of tritonclient whose wheel has the program."""
HOME = ROOT / "artifacts" / "perf_analyzer" / VERSION
_PROGRAM = f"tritonclient-{VERSION}.data/data/bin/perf_analyzer"
_LIBRARIES = {"libb64-": "libb64.so.0d", "libcudart-": "libcudart.so.12"}
_SERVER_PACKAGE = "nvidia-pytriton"
_WINDOWS = 3
"""Minimum number of windows before perf_analyzer stops; it reports over all windows."""
_ANY_SPREAD_PERCENT = "1000000"
_MARGIN_S = 60.0
_WARM_UP_REQUESTS = 500


@dataclass(frozen=True)
class Turn:
    """The figures of one turn."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float

    def raw(self) -> dict[str, float]:
        """The figures as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class PerfAnalyzer:
    """The installed program."""

    program: Path
    libraries: Path
    """Folder for ``LD_LIBRARY_PATH``."""

    @classmethod
    def set_up(cls, home: Path = HOME) -> PerfAnalyzer:
        """Returns the program in a folder; the first call installs it.

        Raises:
            LoadTestError: The wheel cannot be downloaded, or the embedded Triton is not installed.
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
        """Keeps a number of requests in flight for a time and measures them.

        Args:
            url: ``host:port`` of a gRPC endpoint that speaks the KServe v2 protocol.
            model: Name of the model; requests have a batch size of 1 and ask for all outputs.
            data: File of requests (`benchmarks.serving.users`); they are sent in its order, repeatedly.
            concurrency: Number of requests in flight.
            seconds: Length of the measurement.

        Raises:
            LoadTestError: A request failed, or the program failed.
        """
        windows = ("-p", str(round(seconds * 1000 / _WINDOWS)))
        measured = self._run(url, model, data, concurrency, windows, seconds)
        return Turn(round(measured.throughput, 1), round(measured.p50_ms, 4), round(measured.p99_ms, 4))

    def warm_up(self, url: str, model: str, data: Path, concurrency: int) -> None:
        """Sends enough requests to warm up allocators, shared memory and batches of every size.

        Raises:
            LoadTestError: A request failed, or the program failed.
        """
        windows = ("--measurement-mode", "count_windows", "--measurement-request-count", str(_WARM_UP_REQUESTS))
        self._run(url, model, data, concurrency, windows, 0.0)

    def _run(
        self, url: str, model: str, data: Path, concurrency: int, windows: tuple[str, ...], seconds: float
    ) -> Measured:
        # With one thread per request in flight, thread switches would use the server's cores.
        threads = ("--async", "--max-threads", "2") if concurrency > 1 else ("--sync",)
        return measure(
            self.program,
            url,
            model,
            data,
            concurrency,
            windows=(*windows, "-r", str(_WINDOWS), "-s", _ANY_SPREAD_PERCENT, *threads),
            environment={"LD_LIBRARY_PATH": str(self.libraries)},
            timeout_s=4 * seconds + _MARGIN_S,
        )


def _extract_program(program: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheel = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        index = ("--platform", "manylinux1_x86_64", "--dest", folder, f"tritonclient=={VERSION}")
        done = subprocess.run([*wheel, *index], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise LoadTestError(
                f"perf_analyzer: got no wheel tritonclient=={VERSION} for manylinux1_x86_64: put its file "
                f"{_PROGRAM} at {program}. Its output:\n{done.stderr[-2_000:]}"
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
    raise LoadTestError(
        f"perf_analyzer: {_SERVER_PACKAGE} has no {start}*, which the program needs: install ebbtide[serve]"
    )
