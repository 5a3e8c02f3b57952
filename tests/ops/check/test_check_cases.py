"""Models as they went wrong in other projects' trackers: what the checker says of each.

What a real server does with them: it refuses those of `MISSED` and `INVISIBLE` or fails their requests, and loads and
answers the others of `SOUND`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ebbtide.check import Finding, Severity, check_repository

CASES = Path(__file__).parent / "cases"
MISSED = {
    "check-missed-backend-name": {
        "b_onnx": ("backend-unknown", "did you mean onnxruntime?"),
        "b_onnxruntime_onnx": ("backend-unknown", "did you mean onnxruntime?"),
        "b_pytorch_libtorch": ("backend-unknown", "did you mean pytorch?"),
        "s_backend_case": ("backend-unknown", "did you mean python?"),
        "t_backend_template": ("backend-unknown", "fill in templates first"),
    },
    "check-missed-config-values": {
        "b_batch_output_twice": ("batch-io", "a second time"),
        "g_negative": ("instance-group-gpus", "ids of at least 0"),
        "o_accel_unknown": ("onnx-accelerator", "expected"),
        "p_env_bare_dirvar": ("python-environment", "expected"),
        "p_env_relative": ("python-environment", "an absolute path"),
        "s_escape2": ("config-syntax", "escape sequence"),
        "s_nbsp": ("config-syntax", "NO-BREAK SPACE"),
        "s_plus": ("config-syntax", "expected"),
    },
    "check-missed-python-signatures": {
        "p_auto_nonstatic": ("python-arguments", "@staticmethod"),
        "p_auto_noreturn": ("python-return", "the model config"),
        "p_exec_noargs": ("python-arguments", "execute(self, requests)"),
        "p_execute_extra": ("python-arguments", "execute(self, requests)"),
        "p_generator": ("python-return", "a generator"),
        "p_init_noargs": ("python-arguments", "initialize(self, args)"),
        "p_no_return": ("python-return", "returns nothing"),
        "p_return_one": ("python-return", "one response"),
    },
    "check-poor-message-config-not-read": {
        "o_config_in_version": ("config-not-read", "expected it in o_config_in_version/config.pbtxt"),
        "o_config_txt": ("config-not-read", "config.pbtxt.txt"),
        "v_config_in_version": ("config-not-read", "expected it in"),
        "v_config_pbtx": ("config-not-read", "config.pbtx"),
        "v_config_txt": ("config-not-read", "config.pbtxt.txt"),
        "v_config_upper": ("config-not-read", "Config.pbtxt"),
    },
    "check-poor-message-invisible": {
        "c_bom_mid": ("config-syntax", "U+FEFF"),
        "c_zero_width": ("backend-unknown", r"\u200b"),
        "s_bom": ("config-syntax", "U+FEFF"),
        "t_jinja": ("config-syntax", "{{"),
    },
}
"""What has to be found, by folder and model: the rule, and words of its message or hint."""
ALARMS = {
    "check-false-alarm-inferred-shapes": {
        "o_inferred_cfgdyn",
        "o_out_dynamic_cfg_dynamic",
        "o_out_rankless_wrong",
        "e_bare_4",
    },
    "check-false-alarm-python-helpers": set[str](),
}
"""Folders with sound models, and those of them that the server refuses."""


def findings(folder: str) -> dict[str, list[Finding]]:
    by_model: dict[str, list[Finding]] = {path.name: [] for path in (CASES / folder / "models").iterdir()}
    for finding in check_repository(CASES / folder / "models").findings:
        by_model[finding.file.split("/")[0]].append(finding)
    return by_model


@pytest.mark.parametrize("folder", MISSED)
def test_problem_is_found_and_named_when_others_missed_it(folder: str) -> None:
    found = findings(folder)
    assert set(found) == set(MISSED[folder])
    for model, (rule, words) in MISSED[folder].items():
        said = [f"{one.message} {one.hint}" for one in found[model] if one.rule == rule]
        assert any(words in text for text in said), (model, found[model])


@pytest.mark.parametrize("folder", ALARMS)
def test_only_models_that_the_server_refuses_have_errors(folder: str) -> None:
    found = findings(folder)
    wrong = {model for model, of in found.items() if any(one.severity is Severity.ERROR for one in of)}
    assert wrong == ALARMS[folder], found
