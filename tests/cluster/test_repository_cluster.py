"""The git service against a real API server: real tokens bound to real pods, reviewed by the real TokenReview.

The service runs with exactly the rights that it needs (`RIGHTS`), so a right that it lacks fails here.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sartor_devcluster import DevCluster

ROOT = Path(__file__).parents[2]
for unit in ("repository", "api"):
    sys.path.insert(0, str(ROOT / "tests" / "unit" / unit))

from cases import RUN as RUN_MANIFEST  # noqa: E402
from repository_world import World  # noqa: E402

SERVICE_USER = "sartor-repository-test"
AUDIENCE = "sartor-repository"
RUN = "editor-1"
RIGHTS: list[dict[str, Any]] = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": ["sartor.dev"], "resources": ["synthesisruns"], "verbs": ["get"]},
]
STACK: dict[str, str | bytes] = {"stack/__main__.py": "print('hello')\n"}


@dataclass
class Place:
    """The cluster, a namespace with a run, and the service."""

    cluster: DevCluster
    namespace: str
    world: World
    process: "subprocess.Popen[str]"

    def apply(self, *manifests: dict[str, Any]) -> None:
        content = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.cluster.kubectl("apply", "--server-side", "-f", "-", input=content, check=True)

    def pod(self, name: str, account: str, step: str, run: str = RUN) -> None:
        """A pod as the operator labels it, bound to no node: its identity is all that counts here."""
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": self.namespace,
                    "labels": {"sartor.dev/run": run, "sartor.dev/step": step},
                },
                "spec": {
                    "serviceAccountName": account,
                    "automountServiceAccountToken": False,
                    "schedulerName": "nobody",
                    "containers": [{"name": "role", "image": "none:1"}],
                },
            }
        )

    def token(self, account: str, pod: str | None = None, audience: str = AUDIENCE) -> str:
        """As the kubelet asks for it: for an audience, bound to a pod."""
        bound = ("--bound-object-kind", "Pod", "--bound-object-name", pod) if pod else ()
        done = self.cluster.kubectl(
            "--namespace", self.namespace, "create", "token", account, "--audience", audience, *bound, check=True
        )
        return done.stdout.strip()

    def list(self, token: str, sealed: bool = False) -> "subprocess.CompletedProcess[str]":
        return self.world.git(
            token, "ls-remote", self.world.address(self.namespace, RUN) + ("/sealed" if sealed else "")
        )


@pytest.fixture(scope="module")
def place(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, namespace = tmp_path_factory.mktemp("repository"), "repository-test"
    cluster.define(ROOT / "crds/manifests/sartor.dev_synthesisruns.yaml")
    cluster.kubectl("create", "namespace", namespace, check=True)
    name = {"name": SERVICE_USER}
    rights = [
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": name, "rules": RIGHTS},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": SERVICE_USER},
            "subjects": [{"kind": "User", "name": SERVICE_USER, "apiGroup": "rbac.authorization.k8s.io"}],
        },
    ]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "sartor_repository", "serve", "--root", str(folder / "volume"), "--host", "127.0.0.1",
            "--port", "0", "--kubeconfig", str(cluster.kubeconfig_for(SERVICE_USER)),
            "--reader", f"system:serviceaccount:{namespace}:sartor-operator",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        url = f"http://{process.stdout.readline().removeprefix('listening on ').strip()}"
        made = Place(cluster, namespace, World(folder / "volume", folder, url=url), process)
        accounts = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}}
            for account in ("sartor-implementer", "sartor-judge", "sartor-operator")
        ]
        run = {**RUN_MANIFEST, "metadata": {"name": RUN, "namespace": namespace}}
        made.apply(*rights, *accounts, run)
        made.pod("implement", "sartor-implementer", "001-implement-1-1")
        made.pod("judge", "sartor-judge", "001-judge-1-1")
        yield made
    finally:
        process.terminate()
        process.wait(20)
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        for kind in ("clusterrole", "clusterrolebinding"):
            cluster.kubectl("delete", kind, SERVICE_USER)
    assert process.returncode == 0


def test_roles_push_what_is_theirs_and_read_what_they_may(place: Place) -> None:
    implementer = place.token("sartor-implementer", "implement")
    judge, operator = place.token("sartor-judge", "judge"), place.token("sartor-operator")
    address = place.world.address(place.namespace, RUN)
    code = place.world.work("code", address)
    commit = place.world.commit(code, STACK)
    done = place.world.push(implementer, code, "HEAD:refs/heads/candidate/001")
    assert done.returncode == 0, done.stderr
    refused = place.world.push(implementer, code, "HEAD:refs/heads/candidate/002")
    assert "may push refs/heads/candidate/001 only" in refused.stderr

    notes = place.world.work("notes", address)
    place.world.commit(notes, {"steps/001-judge-1-1/record.json": "sealed"})
    done = place.world.push(judge, notes, "HEAD:refs/notes/sartor/judge")
    assert done.returncode == 0, done.stderr

    assert place.list(operator).stdout.startswith(commit)
    assert "refs/notes/sartor/judge" in place.list(operator, sealed=True).stdout
    assert "refs/notes" not in place.list(implementer).stdout
    assert "may not see sealed records" in place.list(implementer, sealed=True).stderr


def test_tokens_that_are_not_for_here_are_refused(place: Place) -> None:
    for token, words in (
        (place.token("sartor-implementer", "implement", "https://kubernetes.default.svc"), "not valid for audience"),
        (place.token("sartor-implementer"), "not bound to a pod of a step"),
        (place.token("default"), "is no role of a run"),
        ("e30." + base64.urlsafe_b64encode(b'{"exp": 4000000000}').decode() + ".x", "not valid for audience"),
    ):
        done = place.list(token)
        assert done.returncode != 0 and words in done.stderr, done.stderr


def test_a_token_ends_with_its_pod(place: Place) -> None:
    place.pod("short-lived", "sartor-judge", "001-judge-1-2")
    token = place.token("sartor-judge", "short-lived")
    place.cluster.kubectl(
        "--namespace", place.namespace, "delete", "pod", "short-lived", "--grace-period=0", "--force", check=True
    )
    done = place.list(token)
    # Where the API server's own cache of pods has not heard of it yet, the pod is looked for and not found.
    words = ("sartor: the token is not valid", "short-lived of this token is gone")
    assert done.returncode != 0 and any(word in done.stderr for word in words), done.stderr


def test_a_run_that_is_not_there_has_no_repository(place: Place) -> None:
    place.pod("ghost", "sartor-judge", "001-judge-1-1", run="ghost")
    token = place.token("sartor-judge", "ghost")
    done = place.world.git(token, "ls-remote", place.world.address(place.namespace, "ghost"))
    assert f"there is no SynthesisRun {place.namespace}/ghost" in done.stderr
