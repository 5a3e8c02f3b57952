"""TLS, mutual TLS, tokens and metadata; and that no secret shows up anywhere."""

import asyncio
import logging

import grpc
import pytest
import trustme

from ebbtide.client import (
    AsyncInterestClient,
    BearerToken,
    ClientConfig,
    DeadlineExceededError,
    Hooks,
    InterestClient,
    InvalidArgumentError,
    PermissionDeniedError,
    RetryConfig,
    TlsConfig,
    UnauthenticatedError,
    UnavailableError,
)
from ebbtide.serve import ServerConfig
from servers import serving

SECRET = "s3cret-token"  # noqa: S105
ONE_ATTEMPT = RetryConfig(max_attempts=1)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def client_pem(authority):
    return authority.issue_cert("client@ebbtide.example")


@pytest.fixture(scope="module")
def guarded(authority, small_repository, tmp_path_factory):
    """A Triton that wants mutual TLS, and a header for inference and another for model configurations."""
    folder = tmp_path_factory.mktemp("pem")
    certificate = authority.issue_cert("triton.example")
    certificate.cert_chain_pems[0].write_to_path(folder / "server.pem")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    options = (
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={folder / 'server.pem'}",
        f"--grpc-server-key={folder / 'server.key'}",
        f"--grpc-root-cert={folder / 'ca.pem'}",
        "--grpc-restricted-protocol=inference:key=open",
        "--grpc-restricted-protocol=model-config:key=sesame",
    )
    with serving(ServerConfig(small_repository, extra_args=options)) as running:
        yield running


@pytest.fixture
def tls(authority, client_pem):
    return TlsConfig(
        root_certificates=authority.cert_pem.bytes(),
        client_certificate=client_pem.cert_chain_pems[0].bytes(),
        client_key=client_pem.private_key_pem.bytes(),
        server_name="triton.example",
    )


HEADER = {"triton-grpc-protocol-key": "open"}


def test_call_is_answered_when_both_sides_know_each_other(connect, guarded, tls, caplog):
    with connect(guarded.grpc_url, config=ClientConfig(tls=tls, metadata=HEADER)) as client:
        assert client.embed(["quick"]).tolist() == [[5, 0]]
    # The header of model configurations is another one, so that the contract stays unchecked.
    assert [record.levelname for record in caplog.records if record.name == "ebbtide.client"] == ["WARNING"]


def test_call_is_answered_when_certificates_are_files(connect, guarded, authority, client_pem, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client_pem.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    tls = TlsConfig(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.pem", "triton.example")
    with connect([guarded.grpc_url, guarded.grpc_url], config=ClientConfig(tls=tls, metadata=HEADER)) as client:
        assert client.embed(["quick"]).tolist() == [[5, 0]]


def test_call_raises_permission_denied_when_a_header_is_missing(connect, guarded, tls):
    with connect(guarded.grpc_url, config=ClientConfig(tls=tls)) as client:
        with pytest.raises(PermissionDeniedError, match="triton-grpc-protocol-key") as caught:
            client.embed(["quick"])
        assert caught.value.attempts == 1
        assert client.embed(["quick"], metadata=HEADER).tolist() == [[5, 0]]


def test_call_raises_permission_denied_when_the_fingerprint_cannot_be_checked(connect, guarded, tls):
    config = ClientConfig(tls=tls, metadata=HEADER, expected_fingerprint="cafe")
    with connect(guarded.grpc_url, config=config) as client, pytest.raises(PermissionDeniedError):
        client.embed(["quick"])


@pytest.mark.parametrize("fault", ["plaintext", "no client certificate", "other authority", "other name"])
def test_call_raises_unavailable_when_the_two_sides_do_not_trust_each_other(connect, guarded, tls, authority, fault):
    wrong = {
        "plaintext": None,
        "no client certificate": TlsConfig(authority.cert_pem.bytes(), server_name="triton.example"),
        "other authority": TlsConfig(trustme.CA().cert_pem.bytes(), server_name="triton.example"),
        "other name": TlsConfig(
            tls.root_certificates, tls.client_certificate, tls.client_key, server_name="else.example"
        ),
    }[fault]
    config = ClientConfig(tls=wrong, metadata=HEADER, retry=ONE_ATTEMPT)
    with connect(guarded.grpc_url, config=config) as client, pytest.raises(UnavailableError, match="TLS"):
        client.embed(["quick"])


@pytest.mark.parametrize(
    ("arguments", "field"),
    [({"client_key": b"k"}, "client_certificate"), ({"client_certificate": b"c"}, "client_key")],
)
def test_tls_is_refused_when_half_of_the_clients_pair_is_missing(arguments, field):
    with pytest.raises(InvalidArgumentError) as caught:
        TlsConfig(**arguments)
    assert caught.value.field == field


def test_tls_is_refused_when_a_file_is_missing_or_a_name_is_needed(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"root_certificates: got .*none\.pem"):
        InterestClient(config=ClientConfig(tls=TlsConfig(tmp_path / "none.pem")))
    with pytest.raises(InvalidArgumentError, match="server_name"):
        InterestClient(["10.0.0.1:1", "10.0.0.2:1"], config=ClientConfig(tls=TlsConfig()))


def test_token_is_sent_with_each_attempt_when_it_is_a_string(connect, serve, vectors):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"), vectors)
    with connect(url, config=ClientConfig(token=BearerToken(SECRET))) as client:
        client.embed(["a"])
    assert [metadata["authorization"] for metadata in servicer.metadata] == [f"Bearer {SECRET}"] * 2


async def awaited_token():
    return next(TOKENS)


TOKENS = iter(f"token-{number}" for number in range(100))


@pytest.mark.parametrize("provider", [lambda: next(TOKENS), awaited_token], ids=["plain", "async"])
def test_provider_is_asked_for_each_attempt_when_there_is_one(connect, serve, vectors, provider):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"), vectors)
    config = ClientConfig(token=BearerToken(provider), check_contract=False)
    if connect.kind is InterestClient and provider is awaited_token:
        with pytest.raises(InvalidArgumentError, match="AsyncInterestClient"):
            connect(url, config=config)
        hidden = ClientConfig(token=BearerToken(lambda: provider()))
        with connect(url, config=hidden) as client, pytest.raises(InvalidArgumentError, match="AsyncInterestClient"):
            client.embed(["a"])
        return
    with connect(url, config=config) as client:
        client.embed(["a"])
    sent = [metadata["authorization"] for metadata in servicer.metadata]
    assert len(set(sent)) == 2
    assert all(value.startswith("Bearer token-") for value in sent)


def test_deadline_covers_the_provider_when_it_is_slow(serve, vectors):
    url, _ = serve(vectors)

    async def run():
        config = ClientConfig(token=BearerToken(lambda: asyncio.sleep(60, "token")), check_contract=False)
        async with AsyncInterestClient(url, config=config) as client:
            with pytest.raises(DeadlineExceededError, match="token provider"):
                await client.embed(["a"], timeout_s=0.1)

    asyncio.run(run())


def test_call_raises_unauthenticated_at_once_when_the_token_has_expired(connect, serve):
    url, servicer = serve((grpc.StatusCode.UNAUTHENTICATED, "token expired"))
    config = ClientConfig(token=BearerToken(SECRET))
    with connect(url, config=config) as client, pytest.raises(UnauthenticatedError, match="token expired"):
        client.embed(["a"])
    assert servicer.calls == 1


def test_token_stays_here_when_it_would_leave_the_machine_unencrypted(connect):
    url = "triton.example:8001"
    for config in (ClientConfig(token=BearerToken(SECRET)), ClientConfig(metadata={"authorization": SECRET})):
        with pytest.raises(InvalidArgumentError, match="without TLS") as caught:
            connect(url, config=config)
        assert SECRET not in str(caught.value)
    with connect(url) as client, pytest.raises(InvalidArgumentError, match="without TLS"):
        client.recommend(metadata={"authorization": SECRET})
    for config in (
        ClientConfig(token=BearerToken(SECRET, allow_plaintext=True)),
        ClientConfig(token=BearerToken(SECRET), tls=TlsConfig()),
    ):
        connect(url, config=config).__exit__(None, None, None)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut", 5])
def test_token_is_refused_without_being_shown_when_no_header_can_carry_it(token):
    with pytest.raises(InvalidArgumentError) as caught:
        BearerToken(token)
    assert not token or str(token) not in str(caught.value)


def test_no_secret_is_shown_when_everything_is_logged_and_printed(connect, serve, tls, caplog):
    caplog.set_level(logging.DEBUG)
    url, _ = serve((grpc.StatusCode.UNAVAILABLE, "busy"), (grpc.StatusCode.INTERNAL, "broken"))
    records = []
    hooks = Hooks(records.append, records.append, records.append, records.append)
    config = ClientConfig(
        token=BearerToken(SECRET), metadata={"x-key": "s3cret-key"}, hooks=(hooks,), retry=RetryConfig(max_attempts=2)
    )
    with connect(url, config=config) as client:
        with pytest.raises(Exception, match="broken") as caught:
            client.embed(["a"])
        shown = [repr(client), repr(config), repr(tls), str(caught.value), repr(caught.value), *map(repr, records)]
    shown += [record.getMessage() + str(record.exc_text) for record in caplog.records]
    assert records
    assert not [text for text in shown if "s3cret" in text or "PRIVATE KEY" in text]
