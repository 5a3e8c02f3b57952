"""How a load test reaches its server: address, encryption and token. Secrets appear in no report."""

from __future__ import annotations

import json
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbtide.client import BearerToken, TlsConfig
from ebbtide.client._endpoints import parse_endpoint
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.client.security import authorization
from ebbtide.loadtest.errors import LoadTestError

ACCESS_VARIABLE = "EBBTIDE_LOADTEST_ACCESS"
"""Environment variable with the path of the file from which a worker process reads its `Access`."""

_PEM_FIELDS = ("root_certificates", "client_certificate", "client_key")


@dataclass(frozen=True)
class Access:
    """Encryption and token of the calls to the server under test; the default is neither."""

    tls: TlsConfig | None = None
    token: BearerToken | None = None

    def metadata(self, target: str) -> list[tuple[str, str]]:
        """What every call to an address carries.

        Raises:
            LoadTestError: The token would travel unencrypted to another machine, or waits for something.
        """
        if self.token is None:
            return []
        if self.tls is None and not self.token.allow_plaintext and not _is_loopback(target):
            raise LoadTestError(
                f"token: got one for {target}, without encryption; expected TLS, or an address on this machine"
            )
        try:
            return [("authorization", authorization(self._token()))]
        except InvalidArgumentError as error:
            raise LoadTestError(str(error)) from error

    def _token(self) -> object:
        value = None if self.token is None else self.token.value
        return value() if callable(value) else value


def write_access(access: Access, path: Path) -> Path:
    """Writes an access for a worker process, into a file that nobody else may read.

    Raises:
        LoadTestError: A certificate or key cannot be read.
    """
    written: dict[str, Any] = {}
    tls, token = access.tls, access.token
    try:
        if tls is not None:
            sources = {name: getattr(tls, name) for name in _PEM_FIELDS}
            written["tls"] = {name: _pem(one).decode("ascii") for name, one in sources.items() if one is not None}
            written["tls"]["server_name"] = tls.server_name
    except (OSError, ValueError) as error:
        raise LoadTestError(f"tls: {error}; expected readable PEM files") from error
    if token is not None:
        written["token"] = access._token()
        written["allow_plaintext"] = token.allow_plaintext
    path.touch(mode=0o600)
    path.write_text(json.dumps(written), encoding="utf-8")
    return path


def read_access(path: str | None) -> Access:
    """The access that `write_access` wrote; the default one where there is no file.

    Raises:
        LoadTestError: The file cannot be read.
    """
    if not path:
        return Access()
    try:
        written = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadTestError(f"{ACCESS_VARIABLE}: {error}; expected a JSON file with tls and token") from error
    tls = written.get("tls")
    pems = {} if tls is None else {name: tls[name].encode("ascii") for name in _PEM_FIELDS if name in tls}
    token = (
        None if written.get("token") is None else BearerToken(written["token"], bool(written.get("allow_plaintext")))
    )
    return Access(None if tls is None else TlsConfig(**pems, server_name=tls.get("server_name")), token)


def host_and_port(target: str) -> tuple[str, int]:
    """The two parts of an address.

    Raises:
        LoadTestError: It is none.
    """
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise LoadTestError.of_field("address", target, "host:port as in localhost:8001")
    return host.strip("[]"), int(port)


def tls_context(tls: TlsConfig) -> ssl.SSLContext:
    """The settings of an encrypted connection that speaks HTTP/2.

    Raises:
        LoadTestError: A certificate or key cannot be read, or they do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        if tls.root_certificates is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=_pem(tls.root_certificates).decode("ascii"))
    except (OSError, ValueError) as error:
        raise LoadTestError(f"root_certificates: {error}; expected a readable PEM file of certificates") from error
    if tls.client_certificate is not None and tls.client_key is not None:
        # OpenSSL reads a chain with its key from files only; in memory, where the system has such a folder.
        with tempfile.TemporaryDirectory(prefix="ebbtide-tls-") as folder:
            try:
                paths = [Path(folder) / name for name in ("certificate.pem", "key.pem")]
                for path, source in zip(paths, (tls.client_certificate, tls.client_key), strict=True):
                    path.touch(mode=0o600)
                    path.write_bytes(_pem(source))
                context.load_cert_chain(str(paths[0]), str(paths[1]))
            except OSError as error:
                raise LoadTestError(
                    f"client_certificate, client_key: {error}; expected readable PEM files that belong together"
                ) from error
    return context


def _pem(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


def _is_loopback(target: str) -> bool:
    try:
        return parse_endpoint(target).loopback
    except InvalidArgumentError as error:
        raise LoadTestError.of_field("address", target, "host:port as in localhost:8001") from error
