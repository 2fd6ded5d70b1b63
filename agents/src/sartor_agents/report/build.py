"""Gathers what the page tells from a run's state, and writes it. Nothing is computed here that a record does not hold."""

import json
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from sartor_agents.backends.protocol import HardwareFacts
from sartor_agents.report import svg
from sartor_agents.report.conversations import Conversation, write_pages
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.notes import interval, outcome
from sartor_agents.run.storage import write_atomic
from sartor_api.search.comparison import gain
from sartor_api.search.estimate import eta_seconds
from sartor_api.search.records import ArmSummary, ConditionResult, Measurement, Speedup, StepKind
from sartor_api.search.state import Round, RunState

LATENCIES = {
    "ttft": "Time to first token",
    "inter_token": "Inter-token latency",
    "end_to_end": "End-to-end latency",
}


def write_report(run: RunState, layout: RunLayout, hardware: HardwareFacts) -> str:
    """Render and write `report.html`, and the pages of conversations beside it; returns its path."""
    held = write_pages(layout.transcripts(run.spec.name), layout.conversations)
    write_atomic(layout.report, render(run, hardware, held).encode())
    return str(layout.report)


def render(run: RunState, hardware: HardwareFacts, conversations: Sequence[Conversation] = ()) -> str:
    """The page as HTML. Everything that comes from records is escaped by the template engine."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("sartor_agents.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(**_context(run, hardware), conversations=conversations)


def _context(run: RunState, hardware: HardwareFacts) -> dict[str, Any]:
    shown = _shown_measurement(run)
    ended = run.records[-1].finished if run.records else run.spec.created
    return {
        "name": run.spec.name,
        "scenario": run.spec.scenario,
        "headline": _headline(run),
        "finished": run.finished,
        "spec": run.spec,
        "intent": run.spec.content_hash(),
        "seconds": _duration(run.elapsed(ended)),
        "eta": _duration(eta_seconds(run, ended)),
        "trajectory": svg.trajectory(
            [_round_point(r) for r in run.rounds], title="Speed-up over the baseline by round"
        ),
        "rounds": [_round_row(run, r) for r in run.rounds],
        "worth": svg.forest(_worth(run), title="Gain of each measured hypothesis over the incumbent of its time"),
        "has_worth": bool(_worth(run)),
        "shown": shown,
        "shown_what": _shown_what(shown),
        "ratios": _ratios(shown),
        "conditions": [_condition_row(c) for c in shown.conditions] if shown else [],
        "distributions": _distributions(shown),
        "baseline": run.baseline,
        "grid": _grid(run),
        "environment": _environment(run, hardware, shown),
        "failures": [(r.number, v) for r in run.rounds for a in r.attempts for v in a.feedback],
        "retried": [(r.step.value, r.failure) for r in run.records if r.failure and _nobodys(r.failure)],
        "generated": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(ended)),
    }


def _nobodys(failure: Any) -> bool:
    return failure.failure_class is not None and failure.failure_class.value != "candidate"


def _headline(run: RunState) -> str:
    finished = run.finished
    if finished is None:
        return f"Running: best so far {interval(run.best.speedup) if run.best else 'none'}"
    if finished.speedup is not None:
        return f"{interval(finished.speedup)} over the baseline, confirmed"
    return f"{finished.outcome.value}: {finished.message}"


def _shown_measurement(run: RunState) -> Measurement | None:
    """The confirmation if there is one, else the best round's measurement, else the latest."""
    confirmed = [r.result for r in run.confirmations if isinstance(r.result, Measurement) and r.result.valid]
    if confirmed:
        return confirmed[-1]
    measured = [r for r in run.rounds if r.measurement is not None]
    best = next((r for r in measured if run.best and r.number == run.best.round), None)
    chosen = best or (measured[-1] if measured else None)
    return chosen.measurement if chosen else None


def _shown_what(shown: Measurement | None) -> str:
    if shown is None:
        return ""
    return "confirmation on a fresh seed" if shown.confirmation else "measurement of the best round"


def _round_point(current: Round) -> svg.Point:
    speedup = current.speedup
    what = current.plan.hypothesis if current.plan else ""
    mark = "kept" if current.kept else "dropped" if speedup else "rejected"
    title = f"Round {current.number}: {what} ({outcome(current)})"
    if speedup is None:
        return svg.Point(str(current.number), None, mark=mark, title=title)
    return svg.Point(str(current.number), speedup.value, speedup.low, speedup.high, mark, title)


def _round_row(run: RunState, current: Round) -> dict[str, Any]:
    plan = current.plan
    implementation = current.implementation
    return {
        "number": current.number,
        "hypothesis": plan.hypothesis if plan else "",
        "changes": ", ".join(plan.changes) if plan else "",
        "refuted_by": plan.refuted_by if plan else "",
        "forecast": f"{plan.forecast_speedup:.2f}x" if plan and plan.forecast_speedup else "-",
        "speedup": interval(current.speedup),
        "outcome": outcome(current),
        "kept": current.kept,
        "skills": ", ".join(implementation.skills_used) if implementation else "",
        "commit": implementation.commit[:12] if implementation else "-",
        "seconds": _duration(sum(r.finished - r.started for r in run.records if r.round == current.number)),
    }


def _worth(run: RunState) -> list[svg.Point]:
    """The gain of each measured round over the incumbent of its time (the baseline before there was one)."""
    points: list[svg.Point] = []
    incumbent: Speedup | None = None
    for current in run.rounds:
        speedup = current.speedup
        if speedup is None:
            continue
        worth = speedup if incumbent is None else gain(speedup, incumbent)
        label = current.plan.changes[0] if current.plan and current.plan.changes else f"round {current.number}"
        mark = "kept" if current.kept else "dropped"
        points.append(
            svg.Point(f"{current.number}: {label}", worth.value, worth.low, worth.high, mark, outcome(current))
        )
        if current.kept:
            incumbent = speedup
    return points


def _ratios(shown: Measurement | None) -> Any:
    if shown is None or not shown.conditions:
        return ""
    points = [svg.Point(c.name, c.ratio.value, c.ratio.low, c.ratio.high, "candidate") for c in shown.conditions]
    if (overall := shown.speedup) is not None and len(points) > 1:
        points.append(svg.Point("all conditions", overall.value, overall.low, overall.high, "kept"))
    return svg.forest(points, title="Candidate over baseline by condition")


def _condition_row(condition: ConditionResult) -> dict[str, Any]:
    def arm(summary: ArmSummary) -> dict[str, str]:
        return {
            "metric": f"{summary.metric:.1f}",
            "requests": f"{summary.requests}" + (f" ({summary.failed} failed)" if summary.failed else ""),
            "ttft": _pair(summary.ttft_p50, summary.ttft_p99),
            "inter_token": _pair(summary.inter_token_p50, summary.inter_token_p99),
            "end_to_end": _pair(summary.end_to_end_p50, summary.end_to_end_p99),
        }

    return {
        "name": condition.name,
        "arms": [("candidate", arm(condition.candidate)), ("baseline", arm(condition.baseline))],
    }


def _pair(p50: float | None, p99: float | None) -> str:
    def milliseconds(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{1000 * value:.0f}" if value >= 0.1 else f"{1000 * value:.3g}"

    return f"{milliseconds(p50)} / {milliseconds(p99)}"


def _distributions(shown: Measurement | None) -> list[tuple[str, Any]]:
    charts: list[tuple[str, Any]] = []
    for condition in shown.conditions if shown else ():
        for key, name in LATENCIES.items():
            sides = [
                (side, side, arm.quantiles[key])
                for side, arm in (("candidate", condition.candidate), ("baseline", condition.baseline))
                if len(arm.quantiles.get(key, ())) > 1
            ]
            if sides:
                title = f"{name}, {condition.name}"
                charts.append((title, svg.distribution(sides, title=title)))
    return charts


def _grid(run: RunState) -> Any:
    if run.baseline is None:
        return ""
    points = [
        svg.Point(p.name, p.metric, mark="kept" if p.name == run.baseline.chosen else "dropped")
        for p in run.baseline.grid
    ]
    unit = "tok/s" if "oken" in run.baseline.metric or not run.baseline.metric else run.baseline.metric
    return svg.bars(points, title="The baseline's grid, each setting measured alone", unit=unit)


def _environment(run: RunState, hardware: HardwareFacts, shown: Measurement | None) -> list[tuple[str, str]]:
    rows = [
        ("CPU", f"{hardware.cpu_model}, {hardware.cores} cores ({hardware.machine})"),
        ("memory", f"{hardware.memory_bytes / 2**30:.1f} GiB"),
        *([("accelerator", hardware.accelerator_words)] if hardware.accelerators else []),
        ("model", json.dumps(run.spec.model.get("source"))),
        ("dtype", run.spec.dtype),
        ("parameters", json.dumps(run.spec.parameters)),
        ("measurement", json.dumps(run.spec.measurement)),
    ]
    fingerprint: Mapping[str, Any] = shown.fingerprint if shown else {}
    rows += [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in fingerprint.items()]
    if shown is not None and shown.seed is not None:
        rows.append(("seed (SHA-256, committed before)", shown.seed.digest))
        rows.append(("seed (revealed after)", shown.seed.value or "sealed"))
    for kind in StepKind:
        durations = [r.finished - r.started for r in run.records if r.step is kind]
        if durations:
            rows.append((f"time for {kind.value}", f"{_duration(sum(durations))} in {len(durations)} step(s)"))
    return rows


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
