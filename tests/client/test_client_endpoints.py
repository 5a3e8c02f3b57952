"""Addresses: what a caller writes, and what gRPC is told."""

import pytest

from ebbtide.client import InvalidArgumentError
from ebbtide.client._endpoints import parse_endpoint


@pytest.mark.parametrize(
    ("url", "target", "servers", "loopback"),
    [
        ("localhost:8001", "localhost:8001", (), True),
        ("127.0.0.7:8001", "127.0.0.7:8001", (), True),
        ("[::1]:8001", "[::1]:8001", (), True),
        ("triton.example:8001", "triton.example:8001", (), False),
        ("localhost.example:8001", "localhost.example:8001", (), False),
        ("dns:///triton:8001", "dns:///triton:8001", (), False),
        ("dns:///localhost:8001", "dns:///localhost:8001", (), True),
        ("unix:/run/triton.sock", "unix:/run/triton.sock", (), True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", "ipv4:127.0.0.1:1,10.0.0.1:2", ("ipv4:127.0.0.1:1", "ipv4:10.0.0.1:2"), False),
        (
            ["10.0.0.1:8001", "10.0.0.2:8001"],
            "ipv4:10.0.0.1:8001,10.0.0.2:8001",
            ("10.0.0.1:8001", "10.0.0.2:8001"),
            False,
        ),
        (("[::1]:1", "[::1]:2"), "ipv6:[::1]:1,[::1]:2", ("[::1]:1", "[::1]:2"), True),
        (["triton:8001"], "triton:8001", (), False),
    ],
)
def test_endpoint_is_what_grpc_resolves_when_it_is_an_address(url, target, servers, loopback):
    endpoint = parse_endpoint(url)
    assert (endpoint.target, endpoint.servers, endpoint.loopback) == (target, servers, loopback)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://localhost:8001", "without a scheme"),
        ("localhost", "host:port"),
        ("localhost:", "host:port"),
        ("a:1,b:2", "host:port"),
        ("", "host:port"),
        ([], "no addresses"),
        (["10.0.0.1:1", "triton:2"], "dns:///"),
        (["10.0.0.1:1", "[::1]:2"], "not both"),
    ],
)
def test_endpoint_is_refused_when_it_is_no_address(url, words):
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        parse_endpoint(url)
    assert caught.value.field.startswith("url")
