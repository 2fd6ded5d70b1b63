"""What a PromQL expression asks for, as far as a test of alerts and panels has to know it, and what the operator has."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

import sartor_operator
from sartor_operator.metrics import Metrics

MANIFESTS = Path(sartor_operator.__file__).parents[2] / "manifests"
RULES = MANIFESTS / "prometheus-rules.yaml"

_SELECTOR = re.compile(r"\b(sartor_[a-z_]+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\bby\s*\(([^)]*)\)\s*\(((?:\s*\w+\s*\()*)\s*(sartor_[a-z_]+)")
_GROUPED_AFTER = re.compile(r"\((sartor_[a-z_]+)[^()]*\)\s*by\s*\(([^)]*)\)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KNOWN = frozenset(
    _WORD.findall(
        "and or unless on by max min sum avg count rate increase time absent histogram_quantile label_values s m h d"
    )
)
"""Operators, functions and units of time that the rules and the dashboard use."""


@dataclass(frozen=True)
class Selector:
    """One metric in an expression. `matchers`: label, operator, value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(expression: str) -> Iterator[Selector]:
    for name, inside in _SELECTOR.findall(expression):
        yield Selector(name, tuple(_MATCHER.findall(inside)))


def grouped(expression: str) -> Iterator[tuple[str, frozenset[str]]]:
    """(metric, labels) of every aggregation `by (labels)` over one metric."""
    for labels, _, name in _GROUPED.findall(expression):
        yield name, frozenset(_WORD.findall(labels))
    for name, labels in _GROUPED_AFTER.findall(expression):
        yield name, frozenset(_WORD.findall(labels))


def aggregations(expression: str) -> int:
    """How many `by (…)` there are: each must have been understood by `grouped`."""
    return len(re.findall(r"\bby\s*\(", expression))


def strangers(expression: str, metrics: Mapping[str, frozenset[str]]) -> set[str]:
    """Words that are neither a metric of the operator, nor a label, nor of the language."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|on|ignoring)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"label_values\(([^,)]*),\s*\w+\)", r"\1", bare)
    return {word for word in _WORD.findall(bare) if word not in _KNOWN and word not in metrics}


def operators_metrics() -> dict[str, frozenset[str]]:
    """Every series name of the operator's registry with its labels (`le` of buckets included).

    prometheus_client tells names only of series that exist already; these two attributes tell all.
    """
    registry = Metrics(clock=lambda: 0.0).registry
    found: dict[str, frozenset[str]] = {}
    for collector, names in registry._collector_to_names.items():
        labels = frozenset(getattr(collector, "_labelnames", ()))
        for name in names:
            found[name] = labels | {"le"} if name.endswith("_bucket") else labels
    return found


def rules() -> list[dict[str, Any]]:
    """Every alerting rule of the manifest, in its order."""
    groups = YAML(typ="safe").load(RULES)["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
