"""Prometheus: how it is told what it is, and whom it asks."""

import json
from typing import Any

from sartor_devcluster import addresses as at
from sartor_devcluster.layout import Layout

SCRAPE_SECONDS = 5
"""Between two looks of Prometheus; Envoy merges its histograms every 5 s, so that more would show nothing more."""


def arguments(layout: Layout) -> dict[str, object]:
    """Flags of Prometheus."""
    return {
        "config.file": layout.prometheus_configuration,
        "storage.tsdb.path": layout.prometheus_data,
        "storage.tsdb.retention.time": "1d",
        "web.listen-address": f"{at.PROMETHEUS_ADDRESS}:{at.PROMETHEUS_PORT}",
        "log.level": "warn",
    }


def configuration(layout: Layout) -> str:
    """Envoy, Contour, and the pods in the file (JSON is YAML)."""
    jobs: list[dict[str, Any]] = [
        {
            "job_name": "envoy",
            "metrics_path": "/stats/prometheus",
            "static_configs": [{"targets": [f"{at.ENVOY_ADDRESS}:{at.ENVOY_STATS_PORT}"]}],
        },
        {"job_name": "contour", "static_configs": [{"targets": [f"{at.HOST}:{at.CONTOUR_METRICS_PORT}"]}]},
        {
            "job_name": "pods",
            "honor_labels": True,  # `namespace` of a series is that of what it is about, not that of who tells
            "file_sd_configs": [{"files": [str(layout.prometheus_targets)]}],
        },
    ]
    times = {
        "scrape_interval": SCRAPE_SECONDS,
        "scrape_timeout": SCRAPE_SECONDS - 1,
        "evaluation_interval": SCRAPE_SECONDS,
    }
    return json.dumps(
        {"global": {name: f"{value}s" for name, value in times.items()}, "scrape_configs": jobs}, indent=1
    )
