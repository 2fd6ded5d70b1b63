"""What is shown when a synthesis is over: the objects as `kubectl` shows them, and an answer from each server."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence

from sartor_demo.errors import DemoError
from sartor_demo.follow import Json
from sartor_devcluster import DevCluster

BASELINE, STACK = "serving-baseline", "serving-stack"
ROLLOUT_STACK = "rollout-stack"
"""Roles of the Deployments and Services of what is delivered: the stack of a rollout has one of its own."""

NAMES = {
    BASELINE: "the tuned baseline",
    STACK: "the stack that Sartor wrote",
    ROLLOUT_STACK: "the stack that Sartor wrote",
}
ANSWER_SECONDS = 60
ROUTED_SECONDS = 15
"""Until the Gateway serves a route that it has accepted; it takes a fraction of a second."""
REQUEST = {"prompt": "def area(width, height):", "max_tokens": 16, "temperature": 0}

_ASK = """
import json, sys, time, urllib.request
url, body = sys.argv[1], json.loads(sys.argv[2])
with urllib.request.urlopen(url + "/v1/models", timeout=30) as answer:
    body["model"] = json.load(answer)["data"][0]["id"]
request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
begun = time.monotonic()
with urllib.request.urlopen(request, timeout=30) as answer:
    text = json.load(answer)["choices"][0]["text"]
print(json.dumps({"text": text, "seconds": time.monotonic() - begun}))
"""

_MODEL = """
import json, sys, time, urllib.request
url, host, deadline = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3])
while True:
    try:
        request = urllib.request.Request(url + "/v1/models", headers={"Host": host})
        with urllib.request.urlopen(request, timeout=10) as answer:
            print(json.dumps({"model": json.load(answer)["data"][0]["id"]}))
            break
    except OSError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
"""

_EDITS = """
import json, sys, urllib.request
url, host, model, ends, tokens = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), int(sys.argv[5])
texts = []
for end in ends:
    body = {"model": model, "prompt": end, "max_tokens": tokens, "temperature": 0}
    headers = {"Host": host, "Content-Type": "application/json"}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        texts.append(json.load(answer)["choices"][0]["text"])
print(json.dumps({"texts": texts}))
"""


def objects(cluster: DevCluster, namespace: str, say: Callable[[str], None], *, traffic: bool = False) -> None:
    """The tables that an SRE would look at; with `traffic` rollouts and routes, too."""
    more = ["sroll,httproutes"] if traffic else []
    for what in ("ssyn,srun,scand", *more, "deployments,services,pods"):
        command = ("-n", namespace, "get", what)
        say(f"$ kubectl {' '.join(command)}")
        done = cluster.kubectl(*command, check=True)
        say(done.stdout.rstrip() + "\n")


def answers(
    cluster: DevCluster,
    namespace: str,
    synthesis: str,
    say: Callable[[str], None],
    roles: Sequence[str] = (BASELINE, STACK),
) -> None:
    """Asks each of these Deployments through its Service. Raises `DemoError` where one does not answer."""
    for role in roles:
        what = NAMES[role]
        found: Json = json.loads(
            cluster.kubectl(
                "-n", namespace, "get", "services", "-o", "json",
                "-l", f"sartor.dev/synthesis={synthesis},sartor.dev/role={role}", check=True,
            ).stdout
        )  # fmt: skip
        if len(found["items"]) != 1:
            raise DemoError(f"there is no Service of {what} in namespace {namespace}")
        (service,) = found["items"]
        name, spec = service["metadata"]["name"], service["spec"]
        answer = ask(cluster, f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}")
        say(f"{what} (service/{name}) answers in {answer['seconds'] * 1000:.0f} ms: {answer['text']!r}")


def ask(cluster: DevCluster, url: str) -> Json:
    """The text of a short completion and the seconds that it took, from inside the cluster's network."""
    return _inside(cluster, _ASK, url, json.dumps(REQUEST))


def model(cluster: DevCluster, url: str, host: str) -> str:
    """The name of the model that answers at the Gateway. Raises `DemoError` when none does within `ROUTED_SECONDS`."""
    return str(_inside(cluster, _MODEL, url, host, str(ROUTED_SECONDS))["model"])


def edits(
    cluster: DevCluster, url: str, host: str, name: str, ends: Sequence[str], tokens: int
) -> list[tuple[str, str]]:
    """What the model writes after each of these ends of prompts, asked at the Gateway: what users that edit predict."""
    said = _inside(cluster, _EDITS, url, host, name, json.dumps(list(ends)), str(tokens))
    return [(end, str(text)) for end, text in zip(ends, said["texts"], strict=True)]


def _inside(cluster: DevCluster, program: str, url: str, *more: str) -> Json:
    command = cluster.enter([sys.executable, "-c", program, url, *more])
    done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    if done.returncode != 0:
        raise DemoError(f"{url} does not answer: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return json.loads(done.stdout)


def farewell(cluster: DevCluster, namespace: str, name: str, *, traffic: bool = False) -> str:
    """What to do next."""
    rollout = f"\n  kubectl -n {namespace} describe sroll" if traffic else ""
    return f"""The cluster goes on. Look around:
  export KUBECONFIG={cluster.kubeconfig} PATH={cluster.kubectl_path.parent}:$PATH
  kubectl -n {namespace} get ssyn,srun,scand
  kubectl -n {namespace} describe ssyn {name}{rollout}
  kubectl -n {namespace} get events --sort-by=.lastTimestamp
  kubectl -n {namespace} logs deployment/NAME
End it: make demo-down"""
