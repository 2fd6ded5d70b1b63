"""What happens in the cluster, as it comes: Sartor's Events, the synthesis, its rollouts.

Streams of `kubectl … --watch`, nothing is polled: the cluster measures on the same cores.
"""

import json
import queue
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from sartor_devcluster import DevCluster

Json = dict[str, Any]
ENDED = frozenset({"Serving", "NoGain", "RolledBack", "Failed"})
STUCK = "Stalled"
OPERATOR = "sartor-operator"
SYNTHESIS_LABEL = "sartor.dev/synthesis"


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


def stuck(synthesis: Json) -> bool:
    """Whether somebody must act, as far as the operator sees now."""
    return condition(synthesis, STUCK).get("status") == "True"


def over(synthesis: Json) -> bool:
    """Whether nothing more will happen by itself: it serves, there is nothing to serve, or somebody must act."""
    if int(synthesis.get("status", {}).get("observedGeneration", 0)) < int(synthesis["metadata"].get("generation", 1)):
        return False
    if stuck(synthesis):
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


class News:
    """What happens to one synthesis: its Events and its namespace's, itself, its rollouts, and whatever is `put`.

    A context; the watches end with it.
    """

    def __init__(self, cluster: DevCluster, namespace: str, name: str) -> None:
        self._queue: queue.Queue[Json] = queue.Queue()
        self._stack = ExitStack()
        self._watches = (
            ("events", "-n", namespace),
            ("servingsyntheses.sartor.dev", name, "-n", namespace),
            ("servingrollouts.sartor.dev", "-n", namespace, "-l", f"{SYNTHESIS_LABEL}={name}"),
        )
        self._cluster = cluster

    def __enter__(self) -> Self:
        for what in self._watches:
            self._stack.enter_context(_watch(self._cluster, self.put, *what))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, found: Json) -> None:
        """From any thread."""
        self._queue.put(found)

    def get(self, seconds: float) -> Json | None:
        """The next one; None when `seconds` have passed without."""
        try:
            return self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def rest(self) -> Iterator[Json]:
        """What is there already."""
        while (found := self.get(0)) is not None:
            yield found


class Events:
    """Lines of Events, each once: a watch that begins anew tells all of them again. Those before `since` (Unix seconds) are
    of an earlier time."""

    def __init__(self, since: float) -> None:
        self._since = since
        self._told: set[Line] = set()

    def line(self, event: Json) -> Line | None:
        line = event_line(event) if moment(event) >= self._since else None
        if line is None or line in self._told:
            return None
        self._told.add(line)
        return line


@contextmanager
def _watch(cluster: DevCluster, put: Callable[[Json], None], *what: str) -> Generator[None]:
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
                    put(one)
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
