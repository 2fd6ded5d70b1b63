"""The pods that Prometheus asks.

Debian builds Prometheus without the discovery of Kubernetes. So the supervisor keeps a file of the pods that want to be
asked, which Prometheus reads again whenever it changes; it needs no rights in the cluster for that.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from sartor_devcluster.api import ApiError, AsyncApi

LOOK_SECONDS = 2.0
"""Between two looks at the pods."""

_ANNOTATION = "prometheus.io"


def targets(pods: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The running pods whose annotations ask for it, by the names that are common for that."""
    found: list[dict[str, Any]] = []
    for pod in pods:
        metadata, status = pod["metadata"], pod.get("status", {})
        asked = cast(Mapping[str, str], metadata.get("annotations") or {})
        port = asked.get(f"{_ANNOTATION}/port", "")
        ended = status.get("phase") in ("Failed", "Succeeded")
        if asked.get(f"{_ANNOTATION}/scrape") != "true" or not port.isdecimal() or not status.get("podIP") or ended:
            continue
        labels = {
            "__metrics_path__": asked.get(f"{_ANNOTATION}/path", "/metrics"),
            "namespace": metadata["namespace"],
            "pod": metadata["name"],
        }
        found.append({"targets": [f"{status['podIP']}:{port}"], "labels": labels})
    return found


async def keep_targets(api: AsyncApi, file: Path) -> None:
    """Keep the file as the cluster is. For ever; ends by cancellation only. While the API server is away it stays."""
    written = ""
    while True:
        try:
            pods = (await api.call("GET", "/api/v1/pods"))["items"]
        except (ApiError, OSError):
            pass
        else:
            text = json.dumps(targets(pods))
            if text != written:
                beside = file.with_suffix(".new")
                beside.write_text(text, encoding="utf-8")
                beside.replace(file)
                written = text
        await asyncio.sleep(LOOK_SECONDS)
