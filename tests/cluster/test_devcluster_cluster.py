"""A cluster of our own is a normal Kubernetes: controllers, scheduler, node authorization, logs, aggregation, our CRDs."""

import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from devcluster_support import NodeKey, add_node, apply, configmap, get, put_status, signed, wait_for

from sartor_devcluster import Cluster, DevCluster, audit, kubeconfig
from sartor_devcluster.pki import Identity, Pki

MANIFESTS = Path(__file__).parents[2] / "crds" / "manifests"
POD_TEMPLATE = {"spec": {"containers": [{"name": "main", "image": "none:1"}], "restartPolicy": "Never"}}


@contextmanager
def serving(cluster: DevCluster, program: str, *arguments: str) -> Iterator[None]:
    """A Python program inside the cluster's namespace, until the block ends; it writes a line when it serves."""
    command = cluster.enter([sys.executable, "-c", program, *arguments])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "serving\n", process.stderr.read()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


class TestReachingIt:
    def test_every_component_is_well(self, cluster: DevCluster) -> None:
        wait_for("the cluster is ready", lambda: cluster.status().ready)
        wait_for("each of them is well", lambda: all(c.well for c in cluster.status().components))

    def test_kubectl_on_the_host(self, cluster: DevCluster) -> None:
        names = [item["metadata"]["name"] for item in get(cluster, "namespaces")["items"]]
        assert {"default", "kube-system", "kube-node-lease", "kube-public"} <= set(names)

    def test_any_client_on_the_host(self, cluster: DevCluster) -> None:
        """An ordinary TLS client that knows the kubeconfig's authority and port."""
        host, _, port = kubeconfig.read_context(cluster.kubeconfig).server.removeprefix("https://").partition(":")
        context = ssl.create_default_context(cafile=str(Pki(cluster.layout.pki).certificate("ca")))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
        connection.request("GET", "/version")
        assert json.loads(connection.getresponse().read())["gitVersion"] == f"v{cluster.status().version}"
        connection.close()

    @pytest.mark.parametrize("config", ["kubeconfig", "inner_kubeconfig"])
    def test_kubectl_inside(self, cluster: DevCluster, config: str) -> None:
        command = [
            str(cluster.kubectl_path),
            f"--kubeconfig={getattr(cluster, config)}",
            "get",
            "ns",
            "default",
            "-o",
            "name",
        ]
        done = subprocess.run(cluster.enter(command), capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("namespace/default\n", "")

    def test_a_pods_own_configuration_works_inside(self, cluster: DevCluster) -> None:
        """KUBERNETES_SERVICE_HOST and a service account's token, as client libraries use them in a pod."""
        service = get(cluster, "service", "kubernetes")["spec"]
        assert (service["clusterIP"], service["ports"][0]["port"]) == ("10.96.0.1", 443)
        token = cluster.kubectl("create", "token", "default", check=True).stdout.strip()
        program = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1])
review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
request = urllib.request.Request("https://10.96.0.1:443/apis/authentication.k8s.io/v1/selfsubjectreviews",
    json.dumps(review).encode(), {"Authorization": "Bearer " + sys.argv[2], "Content-Type": "application/json"})
print(json.load(urllib.request.urlopen(request, context=context))["status"]["userInfo"]["username"])
"""
        authority = str(Pki(cluster.layout.pki).certificate("ca"))
        command = cluster.enter([sys.executable, "-c", program, authority, token])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == "system:serviceaccount:default:default\n", done.stderr

    def test_an_existing_cluster_is_attached_by_its_kubeconfig(self, cluster: DevCluster) -> None:
        attached = Cluster.attach(cluster.kubeconfig, cluster.kubectl_path)
        assert attached.kubectl("get", "ns", "default", "-o", "name").stdout == "namespace/default\n"

    def test_a_port_of_the_host_reaches_a_pods_address(self, cluster: DevCluster) -> None:
        server = """
import http.server
server = http.server.HTTPServer(("10.244.9.9", 8000), http.server.SimpleHTTPRequestHandler)
print("serving", flush=True)
server.serve_forever()
"""
        with serving(cluster, server):
            connection = http.client.HTTPConnection("127.0.0.1", cluster.forward("10.244.9.9", 8000), timeout=10)
            connection.request("HEAD", "/")
            assert connection.getresponse().status == 200
            connection.close()


class TestControllers:
    def test_a_job_runs_from_its_pod_to_its_condition(self, cluster: DevCluster) -> None:
        """Controllers make the pod, the scheduler binds it, its node reports the end, the Job is complete."""
        add_node(cluster, "job-node", "10.240.1.1")
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work", "namespace": "default"}}
        apply(cluster, {**job, "spec": {"template": POD_TEMPLATE}})

        def bound() -> dict[str, Any] | None:
            pods = get(cluster, "pods", "-l", "batch.kubernetes.io/job-name=work")["items"]
            return next((pod for pod in pods if pod["spec"].get("nodeName") == "job-node"), None)

        pod = wait_for("a pod of the Job on the Node", bound)
        agent = Cluster(cluster.kubeconfig_for("system:node:job-node", ["system:nodes"]), cluster.kubectl_path)
        ended = {"name": "main", "ready": False, "restartCount": 0, "image": "none:1", "imageID": ""}
        ended |= {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
        status = {"phase": "Succeeded", "containerStatuses": [ended]}
        path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}"
        put_status(agent, path, {**pod, "status": status})
        cluster.kubectl("wait", "--for=condition=Complete", "job/work", "--timeout=60s", timeout=90, check=True)
        cluster.kubectl("delete", "job/work", "node/job-node", check=True)

    def test_a_nodes_identity_may_change_its_own_objects_only(self, cluster: DevCluster) -> None:
        agent = Cluster(cluster.kubeconfig_for("system:node:some", ["system:nodes"]), cluster.kubectl_path)
        apply(cluster, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other"}})
        own = json.dumps(get(cluster, "node", "other"))
        refused = agent.kubectl("replace", "--raw", "/api/v1/nodes/other", "-f", "-", input=own)
        assert 'node "some" is not allowed to modify node "other"' in refused.stderr
        assert "cannot list resource" in agent.kubectl("get", "secrets", "-A").stderr
        cluster.kubectl("delete", "node", "other", check=True)

    def test_a_deployment_has_pods_and_nodes_have_pod_ranges(self, cluster: DevCluster) -> None:
        add_node(cluster, "ranged", "10.240.1.2")
        wait_for("podCIDR", lambda: get(cluster, "node", "ranged")["spec"].get("podCIDR", "").startswith("10.244."))
        labels = {"app": "web"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none:1"}]}}
        spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
        metadata = {"name": "web", "namespace": "default"}
        apply(cluster, {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec})

        def bound() -> bool:
            pods = get(cluster, "pods", "-l", "app=web")["items"]
            return [pod["spec"].get("nodeName") for pod in pods] == ["ranged", "ranged"]

        wait_for("two bound pods", bound)
        cluster.kubectl("delete", "deployment", "web", check=True)
        cluster.kubectl("delete", "pods", "-l", "app=web", "--force", "--grace-period=0", check=True)
        cluster.kubectl("delete", "node", "ranged", check=True)

    def test_what_is_owned_goes_with_its_owner(self, cluster: DevCluster) -> None:
        apply(cluster, configmap("owner"))
        uid = get(cluster, "configmap", "owner")["metadata"]["uid"]
        owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
        apply(cluster, configmap("owned", ownerReferences=[owner]))
        cluster.kubectl("delete", "configmap", "owner", check=True)
        wait_for("collected", lambda: get(cluster, "configmap", "owned") is None)

    def test_every_api_service_is_available(self, cluster: DevCluster) -> None:
        listed = get(cluster, "apiservices")["items"]
        assert len(listed) > 20
        conditions = {item["metadata"]["name"]: item["status"]["conditions"][0]["status"] for item in listed}
        assert set(conditions.values()) == {"True"}, conditions


class TestNodeAgents:
    SERVER = """
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        who = dict(pair[0] for pair in self.connection.getpeercert()["subject"])["commonName"]
        body = f"{self.path} for {who}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.load_verify_locations(sys.argv[3])
context.verify_mode = ssl.CERT_REQUIRED
server = http.server.HTTPServer(("10.240.1.7", 10250), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("serving", flush=True)
server.serve_forever()
"""

    def test_an_agent_joins_with_the_bootstrap_token_and_serves_logs(self, cluster: DevCluster, tmp_path: Path) -> None:
        """TLS bootstrap as a kubelet does it: client certificate, Node, serving certificate, `kubectl logs`."""
        key = NodeKey("joined")
        newcomer = Cluster(cluster.bootstrap_kubeconfig, cluster.kubectl_path)
        client = key.request(
            "joined-client", "kubernetes.io/kube-apiserver-client-kubelet", ["digital signature", "client auth"]
        )
        newcomer.kubectl("create", "-f", "-", input=json.dumps(client), check=True)
        own = self._kubeconfig(cluster, tmp_path, Identity(signed(cluster, "joined-client"), key.pem()))
        agent = Cluster(own, cluster.kubectl_path)

        serving_usages = ["digital signature", "server auth"]
        early = key.request("joined-serving", "kubernetes.io/kubelet-serving", serving_usages, ["10.240.1.7"])
        agent.kubectl("create", "-f", "-", input=json.dumps(early), check=True)
        own_node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "joined"}}
        agent.kubectl("create", "-f", "-", input=json.dumps(own_node), check=True)
        add_node(cluster, "joined", "10.240.1.7")
        (tmp_path / "crt").write_bytes(signed(cluster, "joined-serving"))
        (tmp_path / "key").write_bytes(key.pem())

        pod = {
            "metadata": {"name": "talks", "namespace": "default"},
            "spec": {"nodeName": "joined", **POD_TEMPLATE["spec"]},
        }
        apply(cluster, {"apiVersion": "v1", "kind": "Pod", **pod})
        authority = str(Pki(cluster.layout.pki).certificate("ca"))
        with serving(cluster, self.SERVER, str(tmp_path / "crt"), str(tmp_path / "key"), authority):
            logs = cluster.kubectl("logs", "talks", check=True).stdout
        assert logs == "/containerLogs/default/talks/main for kube-apiserver-kubelet-client\n"
        cluster.kubectl("delete", "pod", "talks", "--force", "--grace-period=0", check=True)
        cluster.kubectl("delete", "node/joined", "csr/joined-client", "csr/joined-serving", check=True)

    def test_an_address_of_somebody_else_is_denied(self, cluster: DevCluster) -> None:
        add_node(cluster, "greedy", "10.240.1.8")
        agent = Cluster(cluster.kubeconfig_for("system:node:greedy", ["system:nodes"]), cluster.kubectl_path)
        request = NodeKey("greedy").request(
            "greedy-serving", "kubernetes.io/kubelet-serving", ["digital signature", "server auth"], ["10.96.0.1"]
        )
        agent.kubectl("create", "-f", "-", input=json.dumps(request), check=True)
        conditions = wait_for(
            "a decision", lambda: get(cluster, "csr", "greedy-serving").get("status", {}).get("conditions")
        )
        assert [(c["type"], c["message"]) for c in conditions] == [
            ("Denied", "10.96.0.1: not among the addresses of Node greedy")
        ]
        cluster.kubectl("delete", "node/greedy", "csr/greedy-serving", check=True)

    def _kubeconfig(self, cluster: DevCluster, folder: Path, identity: Identity) -> Path:
        server = kubeconfig.read_context(cluster.kubeconfig).server
        authority = Pki(cluster.layout.pki).certificate("ca").read_bytes()
        path = folder / "kubeconfig"
        kubeconfig.write(
            path,
            kubeconfig.content(cluster="c", server=server, authority=authority, user="node", credentials=identity),
        )
        return path


class TestOurApi:
    def test_the_definitions_are_accepted(self, cluster: DevCluster) -> None:
        files = sorted(MANIFESTS.glob("*.yaml"))
        assert files
        cluster.define(MANIFESTS)
        for name in [f"crd/{file.stem.partition('_')[2]}.sartor.dev" for file in files]:
            conditions = {c["type"]: c["status"] for c in get(cluster, name)["status"]["conditions"]}
            assert conditions == {"NamesAccepted": "True", "Established": "True"}, "and no NonStructuralSchema"

    def test_the_audit_log_counts_a_write_once(self, cluster: DevCluster) -> None:
        offset = audit.size(cluster.audit_log)
        apply(cluster, configmap("counted"))
        get(cluster, "configmap", "counted")
        cluster.kubectl("delete", "configmap", "counted", check=True)
        seen = list(audit.read(cluster.audit_log, offset=offset))
        mine = audit.writes(seen, user="sartor-devcluster-admin")
        assert [(e.verb, e.resource, e.name, e.code) for e in mine] == [
            ("patch", "configmaps", "counted", 201),
            ("delete", "configmaps", "counted", 200),
        ]
        assert [e for e in seen if e.name == "counted" and e.verb == "get"]
