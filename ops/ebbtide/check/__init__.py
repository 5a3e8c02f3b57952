"""Checks a Triton model repository without a server: configs, files, ONNX graphs, Python sources and ensembles."""

from ebbtide.check.checker import check_repository
from ebbtide.check.errors import CheckError, NotARepositoryError, UnknownRuleError
from ebbtide.check.findings import Finding, Report
from ebbtide.check.formats import to_github, to_json, to_text
from ebbtide.check.rules import RULES, Rule, Severity

__all__ = [
    "RULES",
    "CheckError",
    "Finding",
    "NotARepositoryError",
    "Report",
    "Rule",
    "Severity",
    "UnknownRuleError",
    "check_repository",
    "to_github",
    "to_json",
    "to_text",
]
