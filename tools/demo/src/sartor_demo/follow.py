"""What happens in the cluster, line by line: Sartor's Events and the phases of the synthesis.

Two streams of `kubectl … --watch`, nothing is polled: the cluster measures on the same cores.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sartor_demo.errors import DemoError
from sartor_devcluster import DevCluster

Json = dict[str, Any]
ENDED = frozenset({"Serving", "NoGain", "Failed"})
STUCK = "Stalled"
OPERATOR = "sartor-operator"


@dataclass(frozen=True)
class Line:
    """One line of the log: who, what in a word, and the sentence."""

    subject: str
    word: str
    text: str


def event_line(event: Json) -> Line | None:
    """An Event of Sartor's operator, or a warning of anybody else's; None for the rest (pods started, images found).

    Two warnings belong to every start and pass by themselves: a probe of a server that is not up yet, and a volume that the
    node may not read before the API server has seen that the pod is bound to it.
    """
    reporter = event.get("reportingComponent") or event.get("source", {}).get("component", "")
    ours = reporter == OPERATOR
    if not ours and (event.get("type") != "Warning" or event.get("reason") in ("Unhealthy", "FailedMount")):
        return None
    about = event.get("involvedObject", {})
    subject = f"{about.get('kind', '')} {about.get('name', '')}".strip()
    return Line(subject, str(event.get("reason", "")), str(event.get("message", "")))


def moment(event: Json) -> float:
    """When an Event happened last (Unix seconds)."""
    written = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
    return datetime.fromisoformat(written).timestamp()


def phase_of(synthesis: Json) -> str:
    return str(synthesis.get("status", {}).get("phase") or "Pending")


def condition(synthesis: Json, kind: str) -> Json:
    """A condition of the synthesis; empty where it has none."""
    found = synthesis.get("status", {}).get("conditions", ())
    return next((one for one in found if one.get("type") == kind), {})


def over(synthesis: Json) -> bool:
    """Whether nothing more will happen by itself: it serves, there is nothing to serve, or somebody must act."""
    if int(synthesis.get("status", {}).get("observedGeneration", 0)) < int(synthesis["metadata"].get("generation", 1)):
        return False
    if condition(synthesis, STUCK).get("status") == "True":
        return True
    phase = phase_of(synthesis)
    return phase in ENDED and (phase != "Serving" or condition(synthesis, "Ready").get("status") == "True")


def objects(document: Json) -> list[Json]:
    """The objects in a document of `kubectl … --watch`: none where the API server says in it why the watch ends."""
    if document.get("kind") == "Status":
        return []
    return document["items"] if document.get("kind") == "List" else [document]


def documents(chunks: Iterator[str]) -> Iterator[Json]:
    """JSON documents out of a stream of text that has them one after the other."""
    decoder, text = json.JSONDecoder(), ""
    for chunk in chunks:
        text += chunk
        while text := text.lstrip():
            try:
                found, end = decoder.raw_decode(text)
            except ValueError:
                break  # not whole yet
            yield found
            text = text[end:]


def follow(
    cluster: DevCluster, namespace: str, name: str, *, since: float, seconds: float, say: Callable[[Line], None]
) -> Json:
    """The synthesis when it is over; `say` gets each line of what happened after `since` (Unix seconds).

    Raises `DemoError` after `seconds`.
    """
    begun, last = time.monotonic(), ""
    told: set[tuple[str, str, str]] = set()
    news: queue.Queue[Json] = queue.Queue()
    with (
        _watch(cluster, news, "events", "-n", namespace),
        _watch(cluster, news, "servingsyntheses.sartor.dev", name, "-n", namespace),
    ):
        while True:
            left = begun + seconds - time.monotonic()
            try:
                found = news.get(timeout=max(0.0, min(left, 5.0)))
            except queue.Empty:
                if left <= 0:
                    raise DemoError(
                        f"{name} was not done after {seconds / 60:.0f} minutes (last: {last}); look at it with "
                        f"kubectl -n {namespace} describe ssyn {name}"
                    ) from None
                continue
            if found.get("kind") == "Event":
                line = event_line(found) if moment(found) >= since else None
                key = (line.subject, line.word, line.text) if line else ("", "", "")
                if line is not None and key not in told:
                    told.add(key)
                    say(line)
                continue
            status = found.get("status", {})
            if status and (phase := phase_of(found)) != last:  # nothing was said before the operator saw it
                last = phase
                say(Line(f"ServingSynthesis {name}", phase, str(status.get("message", ""))))
            if over(found):
                return found


@contextmanager
def _watch(cluster: DevCluster, news: "queue.Queue[Json]", *what: str) -> Generator[None]:
    """`kubectl get … --watch` into a queue, started again when it ends (the API server ends watches now and then)."""
    stop = threading.Event()
    running: list[subprocess.Popen[str]] = []

    def read() -> None:
        while not stop.is_set():
            process = subprocess.Popen(
                cluster.kubectl_command("get", *what, "--watch", "-o", "json"),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            running[:] = [process]
            assert process.stdout is not None
            for found in documents(iter(process.stdout.readline, "")):
                for one in objects(found):
                    news.put(one)
            process.wait()
            stop.wait(1.0)

    thread = threading.Thread(target=read, name=f"watch {what[0]}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        for process in running:
            process.terminate()
        thread.join(5)
