"""What `sartor evaluate` prints: tables for people, one object for programs."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sartor_agents.evaluate.gates import Result
from sartor_agents.run.notes import interval
from sartor_api.search.records import ArmSummary

_LATENCIES = (
    ("TTFT p50", "ttft_p50"),
    ("p99", "ttft_p99"),
    ("ITL p50", "inter_token_p50"),
    ("p99", "inter_token_p99"),
    ("E2E p50", "end_to_end_p50"),
    ("p99", "end_to_end_p99"),
)


def show(result: Result, console: Console) -> None:
    """Verdicts first, then figures, then one line that says it all."""
    if result.judgement is not None:
        table = Table("gate", "verdict", "", box=None, pad_edge=False)
        for verdict in result.judgement.verdicts:
            mark = "[green]passed[/]" if verdict.passed else f"[red]{verdict.reason}[/]"
            table.add_row(verdict.gate, mark, escape(verdict.message))
        console.print(table)
    response = result.response
    if response is not None and result.unmeasured is None:
        console.print(_figures(result))
        if response.measurement is not None and response.measurement.speedup is not None:
            console.print(
                f"{result.options.url} against {result.options.against}: {interval(response.measurement.speedup)}",
                highlight=False,
            )
        console.print(f"measured: {response.message}; metric {response.metric}", highlight=False)
    if not result.judged_well:
        console.print("not measured: the speed of wrong answers is no figure", highlight=False)
    elif result.unmeasured is not None:
        console.print(f"no figures: {escape(result.unmeasured)}", highlight=False)


def _figures(result: Result) -> Table:
    """One row for each condition and server; latencies in milliseconds."""
    assert result.response is not None, "called with figures"
    table = Table(box=None, pad_edge=False)
    for name in ("condition", "server", "tokens/s", "requests", "failed", *(name for name, _ in _LATENCIES), "ratio"):
        table.add_column(name, justify="left" if name in ("condition", "server", "ratio") else "right")
    for condition, server, arm, ratio in _arms(result):
        latencies = [
            f"{1000 * value:.1f} ms" if (value := getattr(arm, field)) is not None else "-" for _, field in _LATENCIES
        ]
        table.add_row(condition, server, f"{arm.metric:.1f}", str(arm.requests), str(arm.failed), *latencies, ratio)
    return table


def _arms(result: Result) -> list[tuple[str, str, ArmSummary, str]]:
    response, options = result.response, result.options
    assert response is not None
    if response.measurement is None:
        return [(name, options.url, arm, "") for name, arm in response.arms.items()]
    rows: list[tuple[str, str, ArmSummary, str]] = []
    for condition in response.measurement.conditions:
        rows.append((condition.name, options.url, condition.candidate, interval(condition.ratio)))
        rows.append(("", options.against or "", condition.baseline, ""))
    return rows


def as_json(result: Result) -> dict[str, Any]:
    """Everything as one object. `passed` is what the exit code says."""
    response = result.response
    return {
        "url": result.options.url,
        "against": result.options.against,
        "scenario": result.scenario.model_dump(mode="json"),
        "passed": result.judged_well and result.unmeasured is None,
        "judgement": result.judgement.model_dump(mode="json") if result.judgement is not None else None,
        "measurement": response.model_dump(mode="json", exclude={"samples"}) if response is not None else None,
    }
