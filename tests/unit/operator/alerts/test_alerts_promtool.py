"""Each alert fires when it should and is silent when it should not, by Prometheus' own evaluation (`promtool test rules`).

A world is a few series with their samples, one a minute from 0, in promtool's notation. In a silent world everything is
almost as in the firing one: it names what must not wake anybody.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from alerts_queries import RULES, rules
from ruamel.yaml import YAML

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is missing; it comes with Debian's package prometheus"
)
EDITOR = {"namespace": "team-a", "name": "editor"}
Series = Mapping[str, str]


def of(metric: str, name: str = "editor", **labels: str) -> str:
    """A series of a rollout, as the leader among several operators shows it."""
    target = {"instance": "10.0.0.7:9090", "pod": "sartor-operator-1"}
    return plain(metric, **{"namespace": "team-a", "name": name, **target, **labels})


def plain(metric: str, **labels: str) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f"{metric}{{{inside}}}"


def steady(value: float, minutes: int = 60) -> str:
    return f"{value:g}+0x{minutes}"


@dataclass(frozen=True)
class World:
    """`fires`: labels besides the severity, and the summary as it is read at `at`; None: silence."""

    alert: str
    what: str
    at: str
    series: Series
    severity: str = "warning"
    labels: Mapping[str, str] = field(default_factory=lambda: EDITOR)
    fires: str | None = None


def fires(
    alert: str, severity: str, at: str, series: Series, summary: str, labels: Mapping[str, str] = EDITOR
) -> World:
    return World(alert, "fires", at, series, severity, labels, summary)


def silent(alert: str, what: str, at: str, series: Series) -> World:
    return World(alert, what, at, series)


def arm(ready: str, weight: str, name: str = "editor", which: str = "candidate") -> dict[str, str]:
    return {
        of("sartor_rollout_ready_replicas", name, arm=which): ready,
        of("sartor_rollout_weight_accepted", name, arm=which): weight,
    }


def phase(value: str, samples: str, name: str = "editor") -> dict[str, str]:
    return {of("sartor_rollout_phase", name, phase=value): samples}


def counts(name: str, samples: float, handovers: float, which: str = "candidate") -> dict[str, str]:
    return {
        of("sartor_rollout_samples", name, arm=which): steady(samples),
        of("sartor_rollout_handovers", name, arm=which): steady(handovers),
    }


def looks(kind: str, error: str, looks_a_minute: int, errors_a_minute: int) -> dict[str, str]:
    return {
        plain("sartor_reconcile_seconds_count", kind=kind): f"0+{looks_a_minute}x60",
        plain("sartor_reconcile_errors_total", kind=kind, error=error): f"0+{errors_a_minute}x60",
    }


WORLDS = [
    fires(
        "SartorRolloutArmWithoutReplicas", "critical", "3m",
        arm("2 2 0+0x20", steady(25)) | arm(steady(2), steady(75), which="baseline"),
        "Requests are failing now: the candidate of rollout team-a/editor has no ready replica and still gets 25 % of the "
        "traffic.", {**EDITOR, "arm": "candidate"},
    ),
    silent("SartorRolloutArmWithoutReplicas", "its weight was taken away", "30m", arm(steady(0), steady(0))),
    silent("SartorRolloutArmWithoutReplicas", "it is ready", "30m", arm(steady(1), steady(100))),
    silent(
        "SartorRolloutArmWithoutReplicas", "another rollout's arm is lost", "30m",
        arm(steady(0), steady(0)) | arm(steady(2), steady(50), "other"),
    ),
    fires(
        "SartorRolloutGuardrailFailed", "critical", "3m",
        {of("sartor_rollout_verdict", outcome="fail"): steady(1)} | arm(steady(2), steady(50)),
        "The new stack of rollout team-a/editor broke a guardrail and still gets 50 % of the traffic.",
    ),
    silent(
        "SartorRolloutGuardrailFailed", "it was rolled back", "30m",
        {of("sartor_rollout_verdict", outcome="fail"): steady(1)} | arm(steady(2), steady(0)),
    ),
    silent(
        "SartorRolloutGuardrailFailed", "undecided", "30m",
        {of("sartor_rollout_verdict", outcome="inconclusive"): steady(1)} | arm(steady(2), steady(50)),
    ),
    fires(
        "SartorRolloutNotReturning", "critical", "11m", phase("RollingBack", steady(1)),
        "Rollout team-a/editor has been giving its traffic back to the baseline for 10 minutes and is not done.",
    ),
    silent(
        "SartorRolloutNotReturning", "back after five minutes", "11m", phase("RollingBack", "1 1 1 1 1 1 stale"),
    ),
    fires(
        "SartorRolloutBaselineNotReady", "critical", "3m",
        {of("sartor_rollout_frozen", reason="BaselineNotReady"): steady(1)},
        "Rollout team-a/editor has no way back: its baseline cannot take all traffic.",
    ),
    fires(
        "SartorRolloutBaselineNotReady", "critical", "3m",
        phase("Promoted", steady(1)) | arm(steady(0), steady(0), which="baseline"),
        "Rollout team-a/editor has no way back: its baseline cannot take all traffic.",
    ),
    silent(
        "SartorRolloutBaselineNotReady", "it has not begun", "30m",
        phase("Pending", steady(1)) | arm(steady(0), steady(0), which="baseline"),
    ),
    silent(
        "SartorRolloutBaselineNotReady", "at its floor after the promotion, and frozen for another reason", "30m",
        phase("Promoted", steady(1)) | arm(steady(1), steady(0), which="baseline")
        | {of("sartor_rollout_frozen", reason="NoSamples"): steady(1)},
    ),
    fires(
        "SartorRolloutRolledBack", "warning", "10m",
        {plain("sartor_rollouts_ended_total", namespace="team-a", phase="RolledBack"): "0 0 0 0 0 1+0x60"},
        "A rollout in namespace team-a was rolled back: all traffic is on its baseline again.", {"namespace": "team-a"},
    ),
    silent(
        "SartorRolloutRolledBack", "promoted, and rolled back long ago", "40m",
        {
            plain("sartor_rollouts_ended_total", namespace="team-a", phase="Promoted"): "0+0x30 1+0x30",
            plain("sartor_rollouts_ended_total", namespace="team-a", phase="RolledBack"): "0 1+0x60",
        },
    ),
    fires(
        "SartorRolloutFrozen", "warning", "6m", {of("sartor_rollout_frozen", reason="NoSamples"): steady(1)},
        "Rollout team-a/editor stands still, since nothing can be known (NoSamples).", {**EDITOR, "reason": "NoSamples"},
    ),
    silent(
        "SartorRolloutFrozen", "short freezes, one after the other", "20m",
        {of("sartor_rollout_frozen", reason="ClockJumped"): "1 1 1 stale _ _ 1 1 1 stale _ _ 1 1 1 stale _ _ 1 1 1"},
    ),
    fires(
        "SartorRolloutWeightsDiffer", "warning", "4m",
        {of("sartor_rollout_weight_wanted", arm="candidate"): steady(50)} | arm(steady(2), steady(25)),
        "The Gateway does not serve what rollout team-a/editor wants: 50 % for the new stack were asked for 2 minutes ago "
        "and are not accepted.",
    ),
    silent(
        "SartorRolloutWeightsDiffer", "accepted a minute later, step after step", "30m",
        {of("sartor_rollout_weight_wanted", arm="candidate"): "0 10+0x9 25+0x9 50+0x20"}
        | arm(steady(2), "0 0 10+0x9 25+0x9 50+0x20"),
    ),
    fires(
        "SartorRolloutStuck", "warning", "31m", phase("Promoting", steady(1)),
        "Rollout team-a/editor has been Promoting for 30 minutes.", {**EDITOR, "phase": "Promoting"},
    ),
    silent(
        "SartorRolloutStuck", "it begins after 25 minutes", "59m",
        phase("Pending", "1+0x25 stale") | phase("Progressing", "_x25 1+0x60"),
    ),
    fires(
        "SartorRolloutStepOverdue", "warning", "6h6m",
        phase("Progressing", steady(1, 400)) | {of("sartor_rollout_step_started_timestamp_seconds"): steady(0, 400)},
        "Rollout team-a/editor has been in one step for 6h 6m 0s.",
    ),
    silent(
        "SartorRolloutStepOverdue", "a pause may last", "7h",
        phase("Paused", steady(1, 500)) | {of("sartor_rollout_step_started_timestamp_seconds"): steady(0, 500)},
    ),
    silent(
        "SartorRolloutStepOverdue", "the next step began", "7h",
        phase("Progressing", steady(1, 500))
        | {of("sartor_rollout_step_started_timestamp_seconds"): "0+0x300 18000+0x200"},
    ),
    fires(
        "SartorRolloutPaused", "info", "4h5m", phase("Paused", steady(1, 300)),
        "Rollout team-a/editor has waited for somebody for 4 hours.",
    ),
    fires(
        "SartorRolloutPaused", "info", "4h5m",  # another operator took over in between: it is one and the same pause
        {
            of("sartor_rollout_phase", phase="Paused"): "1+0x120 stale",
            of("sartor_rollout_phase", phase="Paused", pod="sartor-operator-2"): "_x120 1+0x200",
        },
        "Rollout team-a/editor has waited for somebody for 4 hours.",
    ),
    silent("SartorRolloutPaused", "resumed after three hours", "4h5m", phase("Paused", "1+0x180 stale")),
    fires(
        "SartorRolloutHandoverSpike", "warning", "6m", counts("editor", 100, 30),
        "The new stack of rollout team-a/editor hands 30% of its requests over to the baseline.",
    ),
    silent(
        "SartorRolloutHandoverSpike", "few, or few of many", "30m",
        counts("early", 40, 30) | counts("narrow", 1000, 150) | counts("editor", 1000, 900, "baseline"),
    ),
    fires(
        "SartorOperatorDown", "critical", "6m", {plain("up", job="something else"): steady(1)},
        "No Sartor operator is seen by Prometheus: rollouts do not move, and nobody takes traffic away from an arm that "
        "fails.", {},
    ),
    silent("SartorOperatorDown", "a standby is there", "30m", {plain("sartor_leader", pod="b"): steady(0)}),
    silent(
        "SartorOperatorDown", "restarted within two minutes", "12m",
        {plain("sartor_leader", pod="a"): "1+0x5 stale", plain("sartor_leader", pod="b"): "_x8 1+0x20"},
    ),
    fires(
        "SartorOperatorNoLeader", "critical", "3m",
        {plain("sartor_leader", pod="a"): steady(0), plain("sartor_leader", pod="b"): steady(0)},
        "Sartor operators run, and none of them leads: rollouts do not move, and nobody takes traffic away from an arm that "
        "fails.", {},
    ),
    silent(
        "SartorOperatorNoLeader", "the other one took over", "30m",
        {plain("sartor_leader", pod="a"): "1 1 1 0+0x30", plain("sartor_leader", pod="b"): "0 0 0 0 1+0x30"},
    ),
    fires(
        "SartorReconcileErrors", "critical", "8m", looks("ServingRollout", "RefusedError", 60, 45),
        "75% of the operator's looks at rollouts fail: traffic may not be moved away from an arm that fails.",
        {"kind": "ServingRollout"},
    ),
    fires(
        "SartorReconcileErrors", "warning", "25m", looks("SynthesisRun", "TransientError", 100, 20),
        "20% of the operator's looks at SynthesisRun objects fail.", {"kind": "SynthesisRun"},
    ),
    silent("SartorReconcileErrors", "a few", "40m", looks("SynthesisRun", "TransientError", 100, 5)),
    silent("SartorReconcileErrors", "conflicts are everyday", "40m", looks("ServingRollout", "ConflictError", 60, 45)),
    fires(
        "SartorOperatorDefect", "warning", "10m",
        {plain("sartor_reconcile_errors_total", kind="ServingRollout", error="Defect"): "1 1 1 1 2 3+0x60"},
        "The operator came across a defect of its own while it looked at ServingRollout objects.",
        {"kind": "ServingRollout"},
    ),
    silent(
        "SartorOperatorDefect", "other errors, and a defect an hour ago", "59m",
        {
            plain("sartor_reconcile_errors_total", kind="ServingRollout", error="RefusedError"): "0+5x60",
            plain("sartor_reconcile_errors_total", kind="ServingRollout", error="Defect"): "1 2+0x60",
        },
    ),
    fires(
        "SartorWatchStale", "warning", "8m", {plain("sartor_watch_age_seconds", kind="EndpointSlice"): "0+60x60"},
        "The operator has heard nothing of EndpointSlice objects for 8m 0s: it decides by an old picture.",
        {"kind": "EndpointSlice"},
    ),
    silent(
        "SartorWatchStale", "a word now and then", "30m",
        {
            plain("sartor_watch_age_seconds", kind="EndpointSlice"): "0+60x4 0+60x4 0+60x4 0+60x4 0+60x4 0+60x4 0+60x4",
            plain("sartor_watch_age_seconds", kind="Node"): steady(290),
        },
    ),
]  # fmt: skip


def expected(world: World) -> list[dict[str, Any]]:
    """The summary is the world's, word for word; what has no variable in it is the rule's own."""
    if world.fires is None:
        return []
    (rule,) = (r for r in rules() if r["alert"] == world.alert and r["labels"]["severity"] == world.severity)
    labels = {"severity": world.severity, **world.labels}
    return [{"exp_labels": labels, "exp_annotations": {**rule["annotations"], "summary": world.fires}}]


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_the_rules_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(YAML(typ="safe").load(RULES)["spec"]), encoding="utf-8")
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"{w.alert}: {w.what}, {w.severity}")
def test_an_alert(world: World, tmp_path: Path) -> None:
    file = tmp_path / "rules.json"
    own = [rule for rule in rules() if rule["alert"] == world.alert]
    file.write_text(json.dumps({"groups": [{"name": "own", "rules": own}]}), encoding="utf-8")
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in world.series.items()],
        "alert_rule_test": [
            {"eval_time": world.at, "alertname": world.alert, "exp_alerts": expected(world)},
        ],
    }
    every = "1m" if "h" in world.at else "15s"  # hours in steps of 15 s take promtool seconds
    content = {"rule_files": [str(file)], "evaluation_interval": every, "tests": [case]}
    (tmp_path / "test.json").write_text(json.dumps(content), encoding="utf-8")
    done = promtool("test", "rules", str(tmp_path / "test.json"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_both_cases() -> None:
    fired = {(w.alert, w.severity) for w in WORLDS if w.fires is not None}
    assert fired == {(rule["alert"], rule["labels"]["severity"]) for rule in rules()}
    assert {w.alert for w in WORLDS if w.fires is None} == {rule["alert"] for rule in rules()}
