"""What the guide and the comments name: files, overlays, series and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from ebbtide.gateway.metrics import ShadowMetrics
from ebbtide.interest import meters

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "deployment.md"
MONITORING = ROOT / "docs" / "monitoring.md"
TEXTS = [GUIDE, *sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())]
PATH = re.compile(r"(?<![\w/.-])(?:deploy|docs|components)/[\w./-]*\w/?")


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_exist_when_a_text_names_them(text):
    for name in PATH.findall(text.read_text(encoding="utf-8")):
        base = ROOT / "deploy" / "kubernetes" if name.startswith("components/") else ROOT
        assert (base / name).exists(), name


def test_guide_names_every_overlay_and_no_other():
    text = GUIDE.read_text(encoding="utf-8")
    overlays = {path.name for path in (ROOT / "deploy" / "kubernetes" / "overlays").iterdir()}
    named = set(re.findall(r"`((?:cpu|gpu)(?:-\w+)?)`", text))
    assert named == overlays


def test_monitoring_page_names_every_series_and_alert_and_no_other():
    text = MONITORING.read_text(encoding="utf-8")
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    defined = {rule.get("record") or rule["alert"] for group in groups for rule in group["rules"]}
    assert set(re.findall(r"`(ebbtide:[\w:]+|Ebbtide[A-Z]\w+)`", text)) == defined


def test_monitoring_page_names_every_metric_with_its_labels_and_no_other():
    rows = re.findall(r"^\| `(ebbtide_\w+)` \| ([^|]*)\|", MONITORING.read_text(encoding="utf-8"), re.MULTILINE)
    families = [family for family in vars(meters).values() if isinstance(family, meters.Family)]
    shadow = CollectorRegistry()
    ShadowMetrics(shadow)
    of_shadow = {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in shadow.collect()}
    assert {name for name, _ in rows} == {family.name for family in families} | of_shadow
    label_of = {name: label.strip() for name, label in rows}
    for family in families:
        kind = {meters.Histogram: "histogram", meters.Gauge: "gauge"}.get(type(family), "")
        if isinstance(family, meters.Counter) and family.label is not None:
            kind = f"`{family.label}`: {', '.join(family.values)}"
        assert label_of[family.name] == kind


def test_guide_names_only_options_of_the_servers_help(server_options):
    text = GUIDE.read_text(encoding="utf-8")
    named = set(re.findall(r"--((?:grpc|http)-[\w-]+)", text))
    assert named
    assert named <= server_options.keys()


def test_guide_states_the_times_of_the_manifests(render, image):
    text = GUIDE.read_text(encoding="utf-8")
    pod = render("cpu").pod["spec"]
    assert f"keeps serving for {render('cpu').triton['lifecycle']['preStop']['exec']['command'][1]} s" in text
    assert f"has {image.option('exit-timeout-secs')} s for running requests" in text
    assert f"kills it after {pod['terminationGracePeriodSeconds']} s" in text
    assert f"closes connections after {int(image.option('grpc-max-connection-age')) // 60_000} minutes" in text
