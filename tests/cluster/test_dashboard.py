"""The dashboard, the page and the monitor name gauges that there are, as their readers want it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ray_jobs.runtime.gauges import GAUGES, TAGS
from tests.cluster.manifests import CLUSTER, KUBERAY, ROOT, load

DASHBOARD = json.loads((CLUSTER / "grafana" / "ttt_speech.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
GAUGE = re.compile(r"ray_(ttt_\w+)")


def targets() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for panel in PANELS:
        for target in panel.get("targets", ()):
            yield panel, target


def test_the_dashboard_shows_every_gauge_and_no_other() -> None:
    shown = {name for _, target in targets() for name in GAUGE.findall(target["expr"])}
    assert shown == set(GAUGES)


def test_the_page_lists_every_gauge_with_its_tag_and_sentence() -> None:
    page = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
    for name, kind in GAUGES.items():
        tag = "" if kind.by is None else f"`{kind.by}`"
        assert f"| `ray_{name}` | {tag} | {kind.help} |\n" in page
    assert {name.rstrip("_") for name in GAUGE.findall(page)} <= set(GAUGES)


def test_grafana_can_import_the_dashboard() -> None:
    assert DASHBOARD["title"]
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,40}", DASHBOARD["uid"])
    assert DASHBOARD["schemaVersion"] >= 36  # data sources are objects
    assert "id" not in DASHBOARD  # the database's own
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    assert list(variables) == ["datasource", *TAGS]
    for tag in TAGS:
        (gauge,) = GAUGE.findall(variables[tag]["query"]["query"])
        assert gauge in GAUGES
        assert variables[tag]["query"]["query"].endswith(f", {tag})")
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] in ("row", "timeseries", "bargauge")
        assert panel["type"] == "row" or (panel["targets"] and panel["description"])


def test_panels_lie_in_the_grid_and_none_on_another() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    for place in places:
        assert set(place) == {"h", "w", "x", "y"}
        assert min(place["h"], place["w"]) >= 1
        assert min(place["x"], place["y"]) >= 0
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


def test_queries_choose_by_the_variables_and_name_tags_that_there_are() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    for panel, target in targets():
        expression = target["expr"]
        assert panel["datasource"] == target["datasource"] == source
        assert expression.count("(") == expression.count(")")
        gauges = GAUGE.findall(expression)
        chosen = re.findall(r"ray_ttt_\w+\{(.*?)\}", expression)
        assert len(chosen) == len(gauges), "a gauge without a choice"
        for gauge, choice in zip(gauges, chosen, strict=True):
            assert choice.startswith('command=~"$command", run=~"$run"')
            tags = {*TAGS, GAUGES[gauge].by}
            assert set(re.findall(r"(\w+)[=!]", choice)) <= tags
            (grouped,) = set(re.findall(r"by \((.*?)\)", expression))
            assert set(grouped.split(", ")) == {"run", GAUGES[gauge].by} - {None}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == set(
                grouped.split(", ")
            )
    for panel in PANELS:
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(names)) == len(names)


def test_the_monitor_chooses_the_pods_of_ray_and_the_port_that_kuberay_names() -> None:
    monitor = load(KUBERAY / "podmonitor.yaml")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(monitor["spec"]) == {"selector", "podMetricsEndpoints"}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == "metrics"
    assert monitor["spec"]["selector"] == {
        "matchExpressions": [{"key": "ray.io/cluster", "operator": "Exists"}]
    }
    # KubeRay names the port and passes it to Ray, as long as nobody moves it.
    for path in KUBERAY.rglob("*.yaml"):
        assert "metrics-export-port" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(
    r"```yaml\n(.*?)```", (ROOT / "docs" / "observability.md").read_text("utf-8"), flags=re.DOTALL
))  # fmt: skip
def test_the_page_configures_prometheus_in_yaml(block: str) -> None:
    (job,) = yaml.safe_load(block)["scrape_configs"]
    assert set(job) == {"job_name", "scrape_interval", "file_sd_configs"}
    (file,) = job["file_sd_configs"][0]["files"]
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    assert file == f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"
