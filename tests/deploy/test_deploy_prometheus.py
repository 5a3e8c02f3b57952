"""Rules and the autoscaler's metric: they parse, and name series that a real server has."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml

from deadlines import PATIENT
from ebbtide.client import InterestClient, event
from ebbtide.interest import meters, served_models

DEPLOY = Path(__file__).parents[2] / "deploy"
GROUPS = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "ebbtide.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RECORDED = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
SERIES = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>[^}]*)\})? \S+$", re.MULTILINE)


def rule_name(rule: dict) -> str:
    return rule.get("record") or rule["alert"]


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """Every selector of an expression; parsing it is the first check."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return iter(found)


def matches(matcher: promql_parser.Matcher, labels: dict[str, str]) -> bool:
    value = labels.get(matcher.name, "")
    operator = str(matcher.op)
    if operator.endswith("NotEqual"):
        return value != matcher.value
    if operator.endswith("Equal"):
        return value == matcher.value
    # Prometheus anchors at both ends.
    found = re.fullmatch(matcher.value, value) is not None
    return not found if operator.endswith("NotRe") else found


@pytest.fixture(scope="module")
def series(server, fetch, catalog) -> list[tuple[str, dict[str, str]]]:
    """Name and labels of every sample, after one request."""
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        client.recommend(history=[event(item_id=catalog.item_id[0], time_ms=1_700_000_000_000)], top_n=1)
    body = ""
    while meters.ITEMS_READ.name not in body:
        time.sleep(0.1)
        body = fetch("metrics", "/metrics")[1]
    return [
        (match["name"], dict(re.findall(r'(\w+)="([^"]*)"', match["labels"] or ""))) for match in SERIES.finditer(body)
    ]


@pytest.mark.parametrize("rule", RULES, ids=rule_name)
def test_rule_selects_something_when_a_real_server_is_scraped(rule, series):
    assert_selects(rule["expr"], series)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_selects_something_when_a_real_server_is_scraped(panel, series):
    for target in panel["targets"]:
        # As Grafana fills them in, with all namespaces chosen.
        assert_selects(target["expr"].replace("$__rate_interval", "1m").replace("$namespace", ".*"), series)


def assert_selects(expression: str, series: list[tuple[str, dict[str, str]]]) -> None:
    for selector in selectors(expression):
        # Prometheus makes `up` and what is recorded itself; this export has no popularity to follow.
        if selector.name in ("up", meters.POPULARITY_READ.name, *RECORDED):
            continue
        found = [labels for name, labels in series if name == selector.name]
        assert found, f"{selector.name} is no metric of the server"
        assert any(all(matches(matcher, labels) for matcher in selector.matchers.matchers) for labels in found)


def test_panels_tell_what_they_show_and_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == f"${{{DASHBOARD['templating']['list'][0]['name']}}}"
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_metric_of_the_models_is_on_a_panel_or_explained():
    shown = {
        re.sub("_(bucket|sum|count)$", "", selector.name)
        for panel in PANELS
        for target in panel["targets"]
        for selector in selectors(target["expr"].replace("$__rate_interval", "1m"))
    }
    shown |= {
        re.sub("_(bucket|sum|count)$", "", selector.name) for rule in RULES for selector in selectors(rule["expr"])
    }
    families = {family.name for family in vars(meters).values() if isinstance(family, meters.Family)}
    assert families - shown == {meters.FILTERED.name}


def test_rules_read_only_what_is_recorded_before_them_when_one_builds_on_another():
    seen: set[str] = set()
    for rule in RULES:
        used = {selector.name for selector in selectors(rule["expr"])}
        assert {name for name in used if ":" in name} <= seen, rule_name(rule)
        if "record" in rule:
            seen.add(rule["record"])


def test_requests_are_counted_at_ensembles_alone_when_rules_name_models():
    named = {
        matcher.value
        for rule in RULES
        for selector in selectors(rule["expr"])
        for matcher in selector.matchers.matchers
        if matcher.name == "model"
    }
    (pattern,) = named
    for model in served_models.MODELS.values():
        assert (re.fullmatch(pattern, model.name) is not None) == (model.kind is served_models.Kind.ENSEMBLE), (
            model.name
        )
        # The name under which `ebbtide deploy` tries a new version.
        assert re.fullmatch(pattern, f"{model.name}_candidate") is None


def test_clients_own_cancellations_are_no_failures_when_the_server_tells_reasons(series):
    reasons = {labels["reason"] for name, labels in series if name == "nv_inference_request_failure"}
    excluded = {
        matcher.value
        for selector in selectors(RECORDED["ebbtide:failed_ratio:rate5m"])
        for matcher in selector.matchers.matchers
        if matcher.name == "reason"
    }
    assert excluded < reasons


def test_operators_resource_says_the_same_when_compared_with_the_rules_file(rendered):
    (resource,) = rendered.of_kind("PrometheusRule")
    assert resource["spec"]["groups"] == GROUPS


def test_alerts_have_a_severity_and_a_summary_when_they_fire():
    for rule in RULES:
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["summary"]
            promql_parser.parse_duration(rule["for"])


def test_autoscaler_reads_a_recorded_series_of_each_pod_when_the_adapter_renames_it(rendered):
    values = yaml.safe_load((DEPLOY / "kubernetes" / "prometheus-adapter-values.yaml").read_text(encoding="utf-8"))
    (rule,) = values["rules"]["custom"]
    (autoscaler,) = rendered.of_kind("HorizontalPodAutoscaler")
    asked = [metric["pods"]["metric"]["name"] for metric in autoscaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert asked == [rule["name"]["as"]]
    (selector,) = selectors(rule["seriesQuery"])
    assert selector.name in RECORDED
    # The adapter finds pod and namespace of a sample by these labels, so the recording must keep them.
    kept = set(re.search(r"sum by \(([^)]*)\)", RECORDED[selector.name])[1].split(", "))
    assert rule["resources"]["overrides"].keys() <= kept
    assert {matcher.name for matcher in selector.matchers.matchers} <= kept


def test_queueing_alert_is_at_twice_the_autoscalers_target(rendered):
    (autoscaler,) = rendered.of_kind("HorizontalPodAutoscaler")
    (target,) = [entry["pods"]["target"] for entry in autoscaler["spec"]["metrics"] if entry["type"] == "Pods"]
    aim_s = int(target["averageValue"].removesuffix("m")) / 1_000
    (alert,) = [rule for rule in RULES if rule.get("alert") == "EbbtideQueueing"]
    threshold_s = float(alert["expr"].rpartition(">")[2])
    assert threshold_s == pytest.approx(2 * aim_s)
