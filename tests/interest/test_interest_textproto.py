"""Protobuf's text format is parsed, both as written by protobuf and as written by people."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.interest.textproto import parse_text


def test_message_is_read_when_protobuf_wrote_it() -> None:
    config = model_config_pb2.ModelConfig(name="recommend", max_batch_size=64)
    config.parameters["first"].string_value = "model_version: 9 }"
    config.ensemble_scheduling.step.add(model_name="head", model_version=3).input_map["interest"] = "interest"
    config.ensemble_scheduling.step.add(model_name="tail", model_version=-1)
    found = parse_text(text_format.MessageToString(config))
    assert (found["name"], found["max_batch_size"]) == (["recommend"], ["64"])
    assert found["parameters"] == [{"key": ["first"], "value": [{"string_value": ["model_version: 9 }"]}]}]
    (scheduling,) = found["ensemble_scheduling"]
    assert [step["model_version"] for step in scheduling["step"]] == [["3"], ["-1"]]


@pytest.mark.parametrize(
    "text",
    [
        'version_policy { specific { versions: [1, 2] } } name: "a"',
        "version_policy: < specific: < versions: 1, versions: 2; > > name: 'a'",
        '# versions: 9\nversion_policy {specific{versions:1 # one\nversions:2}}\nname:"a";',
    ],
)
def test_message_is_read_when_people_wrote_it(text: str) -> None:
    assert parse_text(text) == {"version_policy": [{"specific": [{"versions": ["1", "2"]}]}], "name": ["a"]}


@pytest.mark.parametrize("text", ["name", "name:", "a {", "a { b: 1", "}", 'a: "b', "a: [1", "a: }", ": 1", "a: ]"])
def test_message_is_refused_when_it_is_damaged(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_text(text)
