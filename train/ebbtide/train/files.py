"""Files as the operating system's settings want them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def default_mode(path: Path) -> Iterator[None]:
    """Gives a file that is written inside the mode of any new file, as the process's umask says.

    safetensors makes files that only their owner can read, whatever the umask; servers run as another user.
    """
    path.unlink(missing_ok=True)
    path.touch()
    mode = path.stat().st_mode & 0o777
    yield
    path.chmod(mode)
