"""Configuration is checked on construction and becomes gRPC's own channel arguments."""

import json
import math

import pytest

from ebbtide.client import UNSET, ClientConfig, InvalidArgumentError, KeepAliveConfig, RetryConfig


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        (ClientConfig, {"timeout_s": math.inf}),
        (ClientConfig, {"timeout_s": 0}),
        (ClientConfig, {"timeout_s": None}),
        (ClientConfig, {"max_message_bytes": 0}),
        (ClientConfig, {"max_reconnect_backoff_ms": 99}),
        (RetryConfig, {"max_attempts": 0}),
        (RetryConfig, {"max_attempts": 6}),
        (RetryConfig, {"initial_backoff_ms": 1}),
        (RetryConfig, {"multiplier": 0.5}),
        (RetryConfig, {"max_backoff_ms": 49}),
        (KeepAliveConfig, {"time_ms": 0}),
        (KeepAliveConfig, {"timeout_ms": 0}),
    ],
)
def test_config_names_the_field_when_a_value_is_out_of_bounds(config, arguments):
    with pytest.raises(InvalidArgumentError) as caught:
        config(**arguments)
    assert [caught.value.field] == list(arguments)


def test_deadline_is_the_calls_own_when_given():
    config = ClientConfig(timeout_s=2.0)
    assert config.deadline_s(UNSET) == 2.0
    assert config.deadline_s(0.5) == 0.5
    with pytest.raises(InvalidArgumentError, match="timeout_s: got None"):
        config.deadline_s(None)


def test_channel_retries_only_unavailable_when_configured():
    config = ClientConfig(retry=RetryConfig(max_attempts=4, initial_backoff_ms=20, multiplier=1.5, max_backoff_ms=500))
    (method,) = json.loads(dict(config._channel_args())["grpc.service_config"])["methodConfig"]
    assert method["retryPolicy"] == {
        "maxAttempts": 4,
        "initialBackoff": "0.020s",
        "maxBackoff": "0.500s",
        "backoffMultiplier": 1.5,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }


def test_channel_has_no_retry_policy_when_one_attempt_is_allowed():
    arguments = dict(ClientConfig(retry=RetryConfig(max_attempts=1))._channel_args())
    assert arguments["grpc.enable_retries"] == 0
    assert "grpc.service_config" not in arguments


def test_channel_pings_when_keepalive_is_configured():
    assert "grpc.keepalive_time_ms" not in dict(ClientConfig()._channel_args())
    arguments = dict(ClientConfig(keepalive=KeepAliveConfig(time_ms=7))._channel_args())
    assert arguments["grpc.keepalive_time_ms"] == 7
