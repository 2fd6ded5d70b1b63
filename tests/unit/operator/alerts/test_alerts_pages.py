"""Rules, runbooks and the dashboard belong together: every alert has its page, every query asks for what there is."""

import json
import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from alerts_queries import MANIFESTS, aggregations, grouped, operators_metrics, rules, selectors, strangers

from sartor_api.conditions import Reason
from sartor_api.objective import GuardrailMetric
from sartor_api.serving_rollout import RolloutPhase, VerdictSummary
from sartor_operator.kinds import LOOKED_AT

ROOT = MANIFESTS.parents[1]
DASHBOARD = MANIFESTS / "grafana-dashboard.json"
RUNBOOKS = ROOT / "docs" / "runbooks"
SECTIONS = ["What it means", "See it", "What to do", "When to do nothing"]
METRICS = operators_metrics()
VALUES = {
    "arm": {"baseline", "candidate"},
    "phase": {phase.value for phase in RolloutPhase},
    "outcome": set(get_args(VerdictSummary.model_fields["outcome"].annotation)),
    "reason": {reason.value for reason in Reason},
    "kind": {kind.kind for kind in LOOKED_AT},
    "metric": set(get_args(GuardrailMetric)),
    "error": {"ConflictError", "Defect"},
}
"""Values that a label can have, where a rule names one."""


def panels(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in content["panels"]:
        yield panel
        yield from panel.get("panels", ())


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panel_queries() -> list[tuple[str, str]]:
    content = dashboard()
    found = [(p["title"], target["expr"]) for p in panels(content) for target in p.get("targets", ())]
    variables = content["templating"]["list"]
    return found + [(v["name"], v["query"]["query"]) for v in variables if v["type"] == "query"]


QUERIES = [(rule["alert"], rule["expr"]) for rule in rules()] + panel_queries()


@pytest.mark.parametrize(("where", "expression"), QUERIES, ids=[f"{i}-{w}" for i, (w, _) in enumerate(QUERIES)])
def test_a_query_asks_for_what_the_operator_has(where: str, expression: str) -> None:
    found = list(selectors(expression))
    assert found, "a query without a metric of ours"
    assert strangers(expression, METRICS) == set()
    for one in found:
        assert one.metric in METRICS, one.metric
        for label, operator, value in one.matchers:
            assert label in METRICS[one.metric], f"{one.metric} has no label {label}"
            named = {value} if operator in ("=", "!=") else set(value.split("|"))
            assert value.startswith("$") or named <= VALUES[label], f"{label} is never {value}"
    groups = list(grouped(expression))
    assert len(groups) == aggregations(expression), "an aggregation that this test does not read"
    for metric, labels in groups:
        assert labels <= METRICS[metric], f"{metric} has no {labels - METRICS[metric]}"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_says_what_an_sre_needs(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert notes["summary"].endswith(".") and len(notes["summary"]) < 240
    assert notes["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert (ROOT / notes["runbook_url"]).is_file()
    available = {label for _, labels in grouped(rule["expr"]) for label in labels}
    asked = set(re.findall(r"\$labels\.(\w+)", " ".join(notes.values())))
    assert asked <= available, f"{asked - available} would be empty"


def test_every_page_has_its_alert_and_is_listed() -> None:
    alerts = {rule["alert"] for rule in rules()}
    pages = {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == alerts
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.md\)", (RUNBOOKS / "README.md").read_text(encoding="utf-8"), re.M)
    assert {name for name, _ in listed} == alerts and all(name == target for name, target in listed)


@pytest.mark.parametrize("page", sorted({rule["alert"] for rule in rules()}))
def test_a_page_answers_the_same_questions(page: str) -> None:
    text = (RUNBOOKS / f"{page}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {page}\n")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert "kubectl" in text.split("## See it")[1].split("## What to do")[0]
    severities = {rule["labels"]["severity"] for rule in rules() if rule["alert"] == page}
    lead = text.splitlines()[2].lower()
    assert all(severity in lead for severity in severities), lead


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in (*RUNBOOKS.glob("*.md"), *(ROOT / "docs" / "rollouts").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_dashboard_can_be_imported_anywhere() -> None:
    content = dashboard()
    assert content["uid"] == "sartor-rollouts" and content.get("id") is None
    assert {v["name"] for v in content["templating"]["list"]} == {"datasource", "namespace", "rollout"}
    ids = [panel["id"] for panel in panels(content)]
    assert len(ids) == len(set(ids))
    for panel in panels(content):
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
            assert panel["description"], panel["title"]
    cells = [(x, y) for p in content["panels"] for x, y in _cells(p["gridPos"])]
    assert len(cells) == len(set(cells)), "panels lie on each other"


def _cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y
