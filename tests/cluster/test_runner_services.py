"""Services and their names from inside pods that the runner runs, as on any cluster."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from devcluster_support import ask, need, resolve
from runner_support import Pods, RunnerProcess, wait_for

from sartor_devcluster import DevCluster

NAME, ADDRESS = "runner-5", "10.240.0.15"

SERVER = """
import http.server, os
ready = True
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global ready
        ready = {"/on": True, "/off": False}.get(self.path, ready)
        body = (os.environ["NAME"] + "\\n").encode()
        self.send_response(503 if self.path == "/ready" and not ready else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer((os.environ["IP"], 8080), Handler).serve_forever()
"""
CLIENT = """
import os, sys, urllib.error, urllib.request
for url in sys.argv[1:]:
    try:
        print(urllib.request.urlopen(url, timeout=10).read().decode().strip(), flush=True)
    except urllib.error.URLError as error:
        print(type(error.reason).__name__, flush=True)
"""
API = """
import json, os, ssl, sys, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
context = ssl.create_default_context(cafile=folder + "/ca.crt")
body = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).encode()
path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
variables = "https://" + os.environ["KUBERNETES_SERVICE_HOST"] + ":" + os.environ["KUBERNETES_SERVICE_PORT"]
print(variables)
for server in (variables, "https://kubernetes.default", "https://kubernetes.default.svc.cluster.local"):
    request = urllib.request.Request(server + path, body, {"Content-Type": "application/json"})
    request.add_header("Authorization", "Bearer " + open(folder + "/token").read())
    print(json.load(urllib.request.urlopen(request, context=context, timeout=10))["status"]["userInfo"]["username"])
"""
OWN = [
    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
]
READINESS = {
    "httpGet": {"path": "/ready", "port": 8080},
    "periodSeconds": 1,
    "failureThreshold": 1,
    "timeoutSeconds": 10,
}


@pytest.fixture(scope="module")
def runner(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunnerProcess]:
    need(cluster, "kube-proxy", "coredns")
    node = {"cluster_dns": list(cluster.cluster_dns()), "api_server_variables": "service"}
    made = RunnerProcess(cluster, tmp_path_factory.mktemp("runner"), NAME, ADDRESS, {"node": node})
    try:
        yield made.start()
    finally:
        made.close()
        cluster.kubectl("delete", "node", NAME, "--ignore-not-found")


@pytest.fixture
def pods(cluster: DevCluster, runner: RunnerProcess) -> Iterator[Pods]:
    made = Pods(cluster, runner)
    try:
        yield made
    finally:
        made.remove()
        cluster.kubectl("delete", "services", "-l", "test=services", "--ignore-not-found", check=True)


def serve(pods: Pods, name: str, app: str, **spec: Any) -> None:
    """A pod with a server, behind the Services that select `app`."""
    container = {"env": OWN, "readinessProbe": READINESS, "ports": [{"name": "web", "containerPort": 8080}]}
    pods.create(name, ["python3", "-u", "-c", SERVER], container=container, **spec)
    pods.cluster.kubectl("label", "pod", name, f"app={app}", "--overwrite", check=True)


def service(cluster: DevCluster, name: str, app: str, **spec: Any) -> str:
    """A Service of port 80 to the named port of the pods with this label; its address, once its name is known."""
    body = {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": "web"}], **spec}
    metadata = {"name": name, "labels": {"test": "services"}}
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": body}
    cluster.kubectl("apply", "-f", "-", input=json.dumps(manifest), check=True)
    full = f"{name}.default.svc.cluster.local"
    if spec.get("clusterIP") != "None":  # such a one has a name once it has endpoints
        wait_for(f"the name {full}", lambda: resolve(cluster, full).startswith("0"))
    return cluster.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}", check=True).stdout


def asked(pods: Pods, name: str, *urls: str, **spec: Any) -> list[str]:
    """What a pod gets from each address in turn."""
    pods.create(name, ["python3", "-c", CLIENT, *urls], restartPolicy="Never", **spec)
    pods.phase(name, "Succeeded", 60)
    return pods.cluster.kubectl("logs", name, check=True).stdout.split()


def test_a_service_balances_and_follows_readiness(cluster: DevCluster, pods: Pods) -> None:
    serve(pods, "web-1", "web")
    serve(pods, "web-2", "web")
    address = service(cluster, "web", "web")
    url = f"http://{address}"
    first = pods.ready("web-1")["status"]["podIP"]
    pods.ready("web-2")
    wait_for("both", lambda: {ask(cluster, url) for _ in range(6)} == {"web-1\n", "web-2\n"})
    answers = asked(pods, "client-1", *["http://web"] * 30)
    assert set(answers) == {"web-1", "web-2"}
    assert min(map(answers.count, set(answers))) >= 4, "about half each (8 of a million draws are more uneven)"

    assert ask(cluster, f"http://{first}:8080/off") == "web-1\n"
    wait_for("the second alone", lambda: {ask(cluster, url) for _ in range(6)} == {"web-2\n"})
    assert set(asked(pods, "client-2", *["http://web"] * 10)) == {"web-2"}
    assert ask(cluster, f"http://{first}:8080/on") == "web-1\n"
    wait_for("both again", lambda: {ask(cluster, url) for _ in range(6)} == {"web-1\n", "web-2\n"})


def test_a_service_without_ready_endpoints_refuses(cluster: DevCluster, pods: Pods) -> None:
    serve(pods, "off", "off")
    address = service(cluster, "off", "off")
    own = pods.ready("off")["status"]["podIP"]
    wait_for("the endpoint", lambda: ask(cluster, f"http://{address}") == "off\n")
    ask(cluster, f"http://{own}:8080/off")
    wait_for("a refusal", lambda: ask(cluster, f"http://{address}").startswith("ConnectionRefusedError"))
    answers = asked(pods, "client", "http://off", f"http://{address}", f"http://{own}:8080", "http://none")
    assert answers == ["ConnectionRefusedError", "ConnectionRefusedError", "off", "gaierror"]


def test_every_form_of_a_name(cluster: DevCluster, pods: Pods) -> None:
    serve(pods, "named", "named")
    service(cluster, "forms", "named")
    pods.ready("named")
    full = "forms.default.svc.cluster.local"
    wait_for("the endpoint", lambda: ask(cluster, f"http://{_address(cluster, 'forms')}") == "named\n")
    urls = [
        "http://forms",
        "http://forms.default:80",
        "http://forms.default.svc:80",
        f"http://{full}:80",
        f"http://{full}.",
    ]
    assert asked(pods, "client", *urls) == ["named"] * 5
    other = {"dnsPolicy": "Default"}
    assert asked(pods, "outside", "http://forms", **other) == ["gaierror"], "the node itself does not know it"


def _address(cluster: DevCluster, name: str) -> str:
    return cluster.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}", check=True).stdout


def test_pods_of_a_headless_service_have_names(cluster: DevCluster, pods: Pods) -> None:
    service(cluster, "peers", "peers", clusterIP="None")
    serve(pods, "peer-0", "peers", hostname="peer-0", subdomain="peers")
    serve(pods, "peer-1", "peers", hostname="peer-1", subdomain="peers")
    pods.ready("peer-0")
    pods.ready("peer-1")

    def published() -> bool:
        found = cluster.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=peers", "-o", "json").stdout
        ready = [e["conditions"]["ready"] for s in json.loads(found)["items"] for e in s["endpoints"] or ()]
        return ready == [True, True]

    wait_for("their endpoints", published)
    for peer in ("peer-0", "peer-1"):
        full = f"{peer}.peers.default.svc.cluster.local"
        wait_for(f"the name of {peer}", lambda name=full: resolve(cluster, name).startswith("0 "))
    urls = ["http://peer-0.peers:8080", "http://peer-1.peers.default.svc:8080"]
    assert asked(pods, "client", *urls) == ["peer-0", "peer-1"]


def test_a_pod_reaches_the_api_server_by_its_service(cluster: DevCluster, pods: Pods) -> None:
    pods.create("api", ["python3", "-c", API], restartPolicy="Never")
    pods.phase("api", "Succeeded", 60)
    said = cluster.kubectl("logs", "api", check=True).stdout.split()
    assert said == ["https://10.96.0.1:443", *["system:serviceaccount:default:default"] * 3]


def test_names_go_on_over_restarts(cluster: DevCluster, pods: Pods) -> None:
    serve(pods, "steady", "steady")
    service(cluster, "steady", "steady")
    pods.ready("steady")
    wait_for("the endpoint", lambda: ask(cluster, f"http://{_address(cluster, 'steady')}") == "steady\n")
    for component in ("coredns", "kube-proxy"):
        cluster.restart(component, kill=True)
        assert asked(pods, f"after-{component}", "http://steady.default.svc") == ["steady"]
