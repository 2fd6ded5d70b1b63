"""What is shown when a synthesis is over: the objects as `kubectl` shows them, and an answer from each server."""

import json
import subprocess
import sys
from collections.abc import Callable

from sartor_demo.errors import DemoError
from sartor_demo.follow import Json
from sartor_devcluster import DevCluster

ROLES = {"serving-baseline": "the tuned baseline", "serving-stack": "the stack that Sartor wrote"}
ANSWER_SECONDS = 60
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


def objects(cluster: DevCluster, namespace: str, say: Callable[[str], None]) -> None:
    """The tables that an SRE would look at."""
    for what in ("ssyn,srun,scand", "deployments,services,pods"):
        command = ("-n", namespace, "get", what)
        say(f"$ kubectl {' '.join(command)}")
        done = cluster.kubectl(*command, check=True)
        say(done.stdout.rstrip() + "\n")


def answers(cluster: DevCluster, namespace: str, synthesis: str, say: Callable[[str], None]) -> None:
    """Asks each of the two Deployments through its Service. Raises `DemoError` where one does not answer."""
    for role, what in ROLES.items():
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
    command = cluster.enter([sys.executable, "-c", _ASK, url, json.dumps(REQUEST)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    if done.returncode != 0:
        raise DemoError(f"{url} does not answer: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return json.loads(done.stdout)


def farewell(cluster: DevCluster, namespace: str, name: str) -> str:
    """What to do next."""
    return f"""The cluster goes on. Look around:
  export KUBECONFIG={cluster.kubeconfig} PATH={cluster.kubectl_path.parent}:$PATH
  kubectl -n {namespace} get ssyn,srun,scand
  kubectl -n {namespace} describe ssyn {name}
  kubectl -n {namespace} get events --sort-by=.lastTimestamp
  kubectl -n {namespace} logs deployment/NAME
End it: make demo-down"""
