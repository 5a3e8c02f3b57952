"""Follows a starting server: its log while it loads, its repository index after it answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ebbtide.interest import admin_key, contract, triton_texts

_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Progress:
    """Progress of a starting server."""

    loaded: tuple[str, ...]
    """Models that are loaded, in the order in which they became ready."""
    failed: tuple[str, ...]
    expected: int
    """Models that the server was asked to load."""
    elapsed_s: float


class LogFollower:
    """Reads the lines that are appended to a log file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._start = self._offset
        self._rest = b""
        self._unparsed = ""
        self.loaded: list[str] = []
        self.failed: list[str] = []
        self.errors: list[str] = []
        """Messages of level error."""
        self.port_taken = False

    def read(self) -> None:
        """Reads the lines written since the last call."""
        with self._path.open("rb") as log:
            log.seek(self._offset)
            data = log.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._take(line.decode(errors="replace"))

    def tail(self, lines: int) -> str:
        """The last lines written since this follower was made, without the server's wide tables and its usage."""
        with self._path.open("rb") as log:
            log.seek(self._start)
            text = log.read().decode(errors="replace")
        shown = [
            line
            for line in text.partition(triton_texts.LOG_USAGE)[0].splitlines()
            if not triton_texts.LOG_TABLE.match(line)
        ]
        return "\n".join(shown[-lines:])

    def reason(self, name: str) -> str:
        """Why a model was not loaded, if the log says it."""
        for message in self.errors:
            if f"'{name}'" in message:
                return message
        return "it was not loaded, and the log does not say why"

    def _take(self, line: str) -> None:
        for pattern, names in ((triton_texts.LOG_LOADED, self.loaded), (triton_texts.LOG_LOAD_FAILED, self.failed)):
            match = pattern.search(line)
            if match and (name := next(filter(None, match.groups()))) not in names:
                names.append(name)
        self.port_taken = self.port_taken or triton_texts.LOG_PORT_TAKEN.search(line) is not None
        if match := triton_texts.LOG_CONFIG_NOT_PARSED.search(line):
            self._unparsed = match.group(1)
        elif match := triton_texts.LOG_ERROR.match(line):
            message = match.group(1).replace("\\n", "\n").replace('\\"', '"')
            # The parser's line precedes the one that names the model.
            if self._unparsed and triton_texts.CONFIG_NOT_READ in message:
                message, self._unparsed = f"{message}: {self._unparsed}", ""
            self.errors.append(message)


def models_in(repository: Path) -> list[str]:
    """The models that a server with model control "none" tries to load."""
    return sorted(folder.name for folder in repository.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def is_whole_export(repository: Path) -> bool:
    """Whether every model in a repository is of one export, by the export's manifest."""
    exported = exported_models(repository)
    return bool(exported) and exported.issuperset(models_in(repository))


def exported_models(repository: Path) -> frozenset[str]:
    """The models that an export wrote, by its manifest; none where there is no manifest."""
    try:
        return frozenset(json.loads((repository / contract.MANIFEST_FILE).read_text(encoding="utf-8"))["models"])
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def answers(host: str, port: int, path: str) -> bool:
    """Whether an HTTP GET is answered with 200."""
    try:
        return request(host, port, "GET", path)[0] == http.client.OK
    except (OSError, http.client.HTTPException):
        return False


def refused_models(
    host: str, port: int, expected: Iterable[str], log: LogFollower, key: str | None = None
) -> dict[str, str]:
    """The server's message for each model that is not ready, root causes first.

    The repository index has the reason only if a backend refused the model. For a config that cannot be parsed, a
    folder without versions, and an ensemble of refused models, the reason is read from the log.

    Args:
        host: Address of the server.
        port: Its HTTP port.
        expected: Names of the models.
        log: The server's log.
        key: Of its administration; None if it needs none.
    """
    headers = {} if key is None else {admin_key.HEADER: key}
    _, body = request(host, port, "POST", "/v2/repository/index", b"{}", headers)
    entries = json.loads(body)
    ready = {entry["name"] for entry in entries if entry.get("state") == "READY"}
    reasons = {
        str(entry["name"]): str(entry["reason"])
        for entry in entries
        if entry.get("state") == "UNAVAILABLE" and entry.get("reason", triton_texts.UNLOADED) != triton_texts.UNLOADED
    }
    for name in expected:
        if name not in ready and name not in reasons:
            reasons[name] = log.reason(name)
    failures = {name: without_stack(reason) for name, reason in reasons.items()}
    return dict(sorted(failures.items(), key=lambda item: ("depends on" in item[1], item[0])))


def without_stack(reason: str) -> str:
    """A message without the Python stack, and without the errors of other models, that follow it; the log has both."""
    return (
        triton_texts.PYTHON_STACK.sub("", triton_texts.NESTED_REFUSAL.sub(r"\1", reason))
        .replace(triton_texts.PYTHON_EXCEPTION, "")
        .strip()
    )


def request(
    host: str, port: int, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of an HTTP answer.

    Raises:
        TimeoutError: There was none within two seconds.
        OSError: The port cannot be reached.
        HTTPException: The answer is not of HTTP.
    """
    # http.client takes no proxy from the environment, and a proxy must never see loopback.
    connection = http.client.HTTPConnection(host, port, timeout=_PROBE_TIMEOUT_S)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
