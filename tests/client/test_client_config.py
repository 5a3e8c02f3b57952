"""Configuration is checked on construction and becomes gRPC's own channel arguments."""

import json
import math

import pytest

from ebbtide.client import UNSET, ClientConfig, InvalidArgumentError, KeepAliveConfig, RetryConfig
from ebbtide.client._channel import channel_args


@pytest.mark.parametrize(
    ("config", "arguments"),
    [
        (ClientConfig, {"timeout_s": math.inf}),
        (ClientConfig, {"timeout_s": 0}),
        (ClientConfig, {"timeout_s": None}),
        (ClientConfig, {"max_message_bytes": 0}),
        (ClientConfig, {"max_reconnect_backoff_ms": 99}),
        (RetryConfig, {"max_attempts": 0}),
        (RetryConfig, {"max_attempts": 101}),
        (RetryConfig, {"initial_backoff_ms": 0}),
        (RetryConfig, {"multiplier": 0.5}),
        (RetryConfig, {"max_backoff_ms": 49}),
        (RetryConfig, {"budget_tokens": 1}),
        (RetryConfig, {"budget_refill": 0}),
        (ClientConfig, {"balancing": "random"}),
        (ClientConfig, {"compression": "zip"}),
        (ClientConfig, {"expected_fingerprint": "cafe", "check_contract": False}),
        (KeepAliveConfig, {"time_ms": 0}),
        (KeepAliveConfig, {"timeout_ms": 0}),
    ],
)
def test_config_names_the_field_when_a_value_is_out_of_bounds(config, arguments):
    with pytest.raises(InvalidArgumentError) as caught:
        config(**arguments)
    assert caught.value.field in arguments


def test_deadline_is_the_calls_own_when_given():
    config = ClientConfig(timeout_s=2.0)
    assert config.deadline_s(UNSET) == 2.0
    assert config.deadline_s(0.5) == 0.5
    with pytest.raises(InvalidArgumentError, match="timeout_s: got None"):
        config.deadline_s(None)


def test_metadata_is_checked_and_never_shown_when_configured():
    config = ClientConfig(metadata={"x-api-key": "s3cret"})
    assert config.metadata == {"x-api-key": "s3cret"}
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    "metadata", [{"Upper": "a"}, {"grpc-x": "a"}, {"x-bin": "a"}, {"": "a"}, {"x": "s3cret\n"}, {"x": 5}]
)
def test_metadata_is_refused_without_its_value_when_grpc_would_not_take_it(metadata):
    with pytest.raises(InvalidArgumentError, match="metadata") as caught:
        ClientConfig(metadata=metadata)
    assert "s3cret" not in str(caught.value)


def test_channel_balances_and_leaves_retries_to_the_client_when_not_told_otherwise():
    assert json.loads(dict(channel_args(ClientConfig()))["grpc.service_config"]) == {
        "loadBalancingConfig": [{"round_robin": {}}]
    }
    waiting = ClientConfig(wait_for_ready=True, balancing="pick_first")
    assert json.loads(dict(channel_args(waiting))["grpc.service_config"]) == {
        "loadBalancingConfig": [{"pick_first": {}}],
        "methodConfig": [{"name": [{}], "waitForReady": True}],
    }


def test_channel_pings_when_keepalive_is_configured():
    assert "grpc.keepalive_time_ms" not in dict(channel_args(ClientConfig()))
    arguments = dict(channel_args(ClientConfig(keepalive=KeepAliveConfig(time_ms=7))))
    assert arguments["grpc.keepalive_time_ms"] == 7
