"""Finds the Triton that the wheel nvidia-pytriton carries and lays it out so that it can be started.

The wheel holds everything, but not where tritonserver looks for it: the stub of the running Python must lie next to
``libtriton_python.so``, and the stand-in ONNX Runtime backend beside the Python backend. So a tree is built in the
user's cache folder, and what is installed stays as it is.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import importlib.metadata
import importlib.resources
import json
import platform
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from platformdirs import user_cache_path

from ebbtide.serve.errors import (
    EmbeddedServerError,
    ServerNotInstalledError,
    UnsupportedNumpyError,
    UnsupportedPythonError,
)

PACKAGE = "nvidia-pytriton"
PYTHONS = ((3, 10), (3, 11), (3, 12))
"""Pythons for which the wheel has a stub and PyPI has a NumPy before 2."""

_INSTALL = 'pip install "ebbtide[serve]"'
_STUB = "triton_python_backend_stub"
_LAYOUT = 1
"""Part of the tree's name: a change in what `_layout` builds needs a new one."""


@dataclass(frozen=True)
class EmbeddedServer:
    """A tritonserver on this machine that is ready to be started."""

    version: str
    """Version of the wheel that contains the server."""
    root: Path
    """The tree in the cache folder; the next ones lie in it."""
    library_path: tuple[Path, ...]
    """Folders for ``LD_LIBRARY_PATH``: the wheel's libraries, and the running Python's own."""

    @property
    def executable(self) -> Path:
        """The server's program."""
        return self.root / "bin" / "tritonserver"

    @property
    def backend_directory(self) -> Path:
        """Backends, each in a folder of its name (``--backend-directory``)."""
        return self.root / "backends"

    @property
    def cache_directory(self) -> Path:
        """Response cache implementations (``--cache-directory``)."""
        return self.root / "caches"

    @property
    def python(self) -> Path:
        """The ``python3`` that must come first on ``PATH``: the stub takes its packages from it."""
        return self.root / "python" / "bin" / "python3"

    def at(self, root: Path) -> EmbeddedServer:
        """The same server, reached through another path."""
        return replace(self, root=root)


def embedded_server() -> EmbeddedServer:
    """Checks the environment and returns the embedded server, laid out in the cache folder.

    Raises:
        ServerNotInstalledError: the wheel is missing, incomplete, or not for this machine.
        UnsupportedPythonError: the running Python is not 3.10 to 3.12, or has no shared library.
        UnsupportedNumpyError: NumPy 2 is installed, or none.
        EmbeddedServerError: the cache folder can't be written.
    """
    check_platform(sys.platform, platform.machine())
    check_python(sys.version_info[:2])
    check_numpy(_version_of("numpy"))
    version = _version_of(PACKAGE)
    if version is None:
        raise ServerNotInstalledError(f"{PACKAGE}, which carries tritonserver, is not installed: run {_INSTALL}")
    installed = _installed_folder()
    tree = _layout(installed, version)
    return EmbeddedServer(
        version=version,
        root=tree,
        library_path=(_libraries_folder(), *_python_library_folders()),
    )


def check_platform(system: str, machine: str) -> None:
    """Refuses machines for which no wheel exists; `system` as in ``sys.platform``."""
    if system != "linux" or machine not in ("x86_64", "aarch64"):
        raise ServerNotInstalledError(
            f"the embedded Triton exists for Linux on x86_64 and aarch64, this is {system} on {machine}: "
            "serve the exported model repository with NVIDIA's Triton container instead"
        )


def check_python(version: tuple[int, ...]) -> None:
    """Refuses a Python with which the stub can't work; `version` is (major, minor)."""
    if tuple(version) in PYTHONS:
        return
    seen = ".".join(str(part) for part in version)
    supported = f"{PYTHONS[0][0]}.{PYTHONS[0][1]} to {PYTHONS[-1][0]}.{PYTHONS[-1][1]}"
    raise UnsupportedPythonError(
        f"the embedded Triton runs on Python {supported}, this is Python {seen}. Its Python stub needs NumPy before "
        "version 2, and no such NumPy was released for Python 3.13 or newer. "
        f"Make an environment with Python 3.12 and run {_INSTALL} there; the client runs here all the same"
    )


def check_numpy(version: str | None) -> None:
    """Refuses a NumPy with which the stub dies; `version` is None where NumPy is missing."""
    if version is None:
        raise UnsupportedNumpyError(f"NumPy is not installed: run {_INSTALL}")
    if int(version.split(".", 1)[0]) >= 2:
        raise UnsupportedNumpyError(
            f"NumPy {version} is installed, the embedded Triton needs a NumPy before 2: its Python stub is built "
            "against NumPy 1 and dies with NumPy 2 ('Stub process is not healthy'). "
            'Run: pip install "numpy>=1.26,<2"'
        )


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _located(suffix: str) -> Path:
    """The installed file of the wheel whose path ends with `suffix`."""
    for file in importlib.metadata.files(PACKAGE) or ():
        if file.as_posix().endswith(suffix):
            path = Path(str(file.locate()))
            if path.exists():
                return path
    raise ServerNotInstalledError(
        f"{PACKAGE} {_version_of(PACKAGE)} is installed but has no file '*{suffix}': "
        f"run pip install --force-reinstall {PACKAGE}"
    )


def _installed_folder() -> Path:
    return _located("tritonserver/bin/tritonserver").parents[1]


def _libraries_folder() -> Path:
    # The folder is named by the tool that repaired the wheel, so it is found by a library in it.
    for file in importlib.metadata.files(PACKAGE) or ():
        if ".libs/libtritonserver" in file.as_posix():
            return Path(str(file.locate())).parent
    raise ServerNotInstalledError(
        f"{PACKAGE} {_version_of(PACKAGE)} is installed without its libraries: "
        f"run pip install --force-reinstall {PACKAGE}"
    )


def _python_library_folders() -> tuple[Path, ...]:
    """Where ``libpython`` lies, which the stub links: no folder where the system's loader finds it by itself."""
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    name = f"lib{python}.so.1.0"
    candidates = [Path(sys.base_prefix) / "lib"]
    for variable in ("LIBDIR", "LIBPL"):
        value = sysconfig.get_config_var(variable)
        if value:
            candidates.append(Path(value))
    for folder in candidates:
        if (folder / name).exists():
            return (folder,)
    if ctypes.util.find_library(python):
        return ()
    raise UnsupportedPythonError(
        f"{name} was not found, and the embedded Triton's Python stub links it: this Python "
        f"({sys.executable}) was built without --enable-shared. Use a Python of uv or conda, or the official Docker "
        f"image, or install your distribution's package lib{python}"
    )


def _base_python() -> Path:
    """The interpreter below any virtual environment."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return base if base.exists() else Path(sys.executable).resolve()


def _package_folders() -> tuple[str, ...]:
    """Where the running Python finds installed packages, in its order."""
    paths = sysconfig.get_paths()
    on_path = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    return tuple(dict.fromkeys(str(Path(path).absolute()) for path in (*on_path, paths["purelib"], paths["platlib"])))


def _python_environment() -> dict[str, str]:
    """Files of a small virtual environment that shows the stub the packages of the running Python.

    The stub for Python 3.11 and newer runs its interpreter isolated: it ignores ``PYTHONPATH`` and
    ``PYTHONDONTWRITEBYTECODE``, so both are said here. Without the second, it leaves a ``__pycache__`` in the model
    repository, which looks like a change of the model.
    """
    lines = ["import sys; sys.dont_write_bytecode = True"]
    lines += [f"import site; site.addsitedir({folder!r})" for folder in _package_folders()]
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {
        "python/pyvenv.cfg": f"home = {_base_python().parent}\ninclude-system-site-packages = false\n",
        f"python/lib/python{version}/site-packages/ebbtide.pth": "\n".join(lines) + "\n",
    }


def _layout(installed: Path, version: str) -> Path:
    """The tree in the cache folder; built once, and again where it is not whole."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    sources: dict[str, Path] = {
        "bin/tritonserver": installed / "bin" / "tritonserver",
        f"backends/python/{_STUB}": installed / "python_backend_stubs" / python / _STUB,
        "caches/local/libtritoncache_local.so": installed / "caches" / "local" / "libtritoncache_local.so",
    }
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        sources[f"backends/python/{name}"] = installed / "backends" / "python" / name
    for source in sources.values():
        if not source.exists():
            raise ServerNotInstalledError(
                f"{PACKAGE} {version} is installed but {source} is missing: run pip install --force-reinstall {PACKAGE}"
            )
    sources["python/bin/python3"] = _base_python()
    written = {**_onnxruntime_backend(), **_python_environment()}
    # The tree points into one environment, so another one with the same versions needs its own tree.
    described = json.dumps([_LAYOUT, {name: str(source) for name, source in sources.items()}, written])
    identity = hashlib.sha256(described.encode()).hexdigest()[:16]
    files = [*sources, *written]
    root = user_cache_path("ebbtide") / "triton"
    tree = root / f"pytriton-{version}-py{python}-{identity}"
    if _is_whole(tree, files):
        return tree
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{tree.name}-", dir=root))
    except OSError as error:
        raise EmbeddedServerError(
            f"the cache folder {root} can't be written ({error}): set XDG_CACHE_HOME to a folder that can"
        ) from error
    try:
        for relative, source in sources.items():
            _index(source, staging / relative)
        for relative, text in written.items():
            target = staging / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        _publish(staging, tree, files)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return tree


def _onnxruntime_backend() -> dict[str, str]:
    """The files of the stand-in backend, by their places in the tree."""
    folder = importlib.resources.files("ebbtide.serve") / "backends" / "onnxruntime"
    return {
        f"backends/onnxruntime/{file.name}": file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".py")
    }


def _is_whole(tree: Path, files: list[str]) -> bool:
    # exists() follows the link, so a tree whose environment was removed is not whole.
    return all((tree / path).exists() for path in files)


def _index(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Triton refuses a backend library whose link leads out of the backend's folder, so only executables are links.
    if target.name in ("tritonserver", "python3"):
        try:
            target.symlink_to(source)
        except OSError:
            # Some network and container file systems have no symbolic links.
            shutil.copy2(source, target)
    else:
        shutil.copy2(source, target)


def _publish(staging: Path, tree: Path, files: list[str]) -> None:
    """Renames the finished tree into place; another process may have done so already."""
    for _ in range(2):
        try:
            staging.rename(tree)
        except OSError:
            if _is_whole(tree, files):
                return
            shutil.rmtree(tree, ignore_errors=True)
        else:
            return
    raise EmbeddedServerError(f"{tree} could not be put in place: remove {tree.parent} and try again")
