"""Talking to the API server: requests, lists and watches, tokens, events, certificates, who may read logs."""

import asyncio
import base64
import datetime
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sartor_runner.api import keys
from sartor_runner.api.client import ApiClient
from sartor_runner.api.credentials import Credentials, in_cluster, kubeconfig
from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.api.informer import Informer
from sartor_runner.core.observed import Run
from sartor_runner.core.pod import parse
from sartor_runner.errors import ConfigurationError, VolumeError
from sartor_runner.node.authorize import Authorizer, Caller, from_certificate
from sartor_runner.node.events import Events, Subject
from sartor_runner.node.kubelet_api import chosen, log_options
from sartor_runner.node.lease import NodeLease
from sartor_runner.node.registration import capacity, conditions
from sartor_runner.node.reporter import Reporter
from sartor_runner.node.sources import SourceCache

from .fake_api import FakeApi, event, item
from .simulation import pod


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0.005)


async def beside(work: Awaitable[None], story: Awaitable[None]) -> None:
    """Runs something endless beside a story."""
    task = asyncio.ensure_future(work)
    try:
        await story
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_refusal_carries_what_the_server_said() -> None:
    async def story() -> None:
        status = {"kind": "Status", "reason": "Conflict", "message": "the object has been modified"}
        async with FakeApi(lambda *_: (409, status)).client(token="t") as client:
            with pytest.raises(ApiError, match="409 Conflict: the object has been modified") as caught:
                await client.create("/api/v1/x", {})
            assert (caught.value.status, caught.value.reason) == (409, "Conflict")
        async with FakeApi(lambda *_: (429, {})).client() as client:
            with pytest.raises(ApiError) as caught:
                await client.get("/x")
            assert caught.value.retry_after == 1.0
        with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:1"):
            await ApiClient(Credentials("http://127.0.0.1:1")).get("/x")

    asyncio.run(story())


def test_a_token_is_read_anew_for_every_request(tmp_path: Path) -> None:
    path = tmp_path / "token"

    async def story() -> None:
        api = FakeApi(lambda *_: (200, {}))
        async with api.client(token_file=path) as client:
            for text in ("one", "two"):
                path.write_text(text + "\n")
                await client.get("/x")
        assert [headers["Authorization"] for *_, headers in api.requests] == ["Bearer one", "Bearer two"]

    asyncio.run(story())


def test_an_informer_lists_resumes_and_lists_again_when_it_must() -> None:
    watches: list[str] = []
    lists = iter(
        [
            {"metadata": {"resourceVersion": "5", "continue": "more"}, "items": [item("a", 1)]},
            {"metadata": {"resourceVersion": "5"}, "items": [item("b", 2), item("same", 3, uid="old")]},
            {
                "metadata": {"resourceVersion": "20"},
                "items": [item("b", 2), item("c", 19), item("same", 18, uid="new")],
            },
        ]
    )

    async def answer(_method: str, _path: str, query: dict[str, str], _body: Any) -> tuple[int, Any]:
        if "watch" not in query:
            return 200, next(lists)
        watches.append(query["resourceVersion"])
        match len(watches):
            case 1:  # an event in two pieces, then the stream ends
                whole = event("MODIFIED", item("a", 6)) + event("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
                return 200, [whole[:25], whole[25:]]
            case 2:
                return 200, [event("DELETED", item("a", 10))]
            case 3:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
                return 200, [event("ERROR", gone)]
            case 4:
                return 500, {"message": "a moment"}
            case _:
                await asyncio.sleep(60)
                return 200, []

    async def story() -> None:
        seen: list[str] = []
        api = FakeApi(answer)
        async with api.client() as client:
            informer = Informer(
                client,
                "/api/v1/pods",
                field_selector="spec.nodeName=n",
                changed=lambda o: seen.append(f"+{o['metadata']['name']}{o['metadata']['resourceVersion']}"),
                removed=lambda o: seen.append(f"-{o['metadata']['name']}{o['metadata']['uid']}"),
            )
            await beside(informer.run(), until(lambda: len(watches) >= 5))
        assert watches == ["5", "9", "10", "20", "20"]
        assert seen == ["+a1", "+b2", "+same3", "+a6", "-au", "-sameold", "+c19", "+same18"]
        assert sorted(name for _, name in informer.store) == ["b", "c", "same"]
        assert all(query["fieldSelector"] == "spec.nodeName=n" for _, _, query, _, _ in api.requests)

    asyncio.run(story())


def test_a_store_keeps_what_it_has_while_the_server_is_away() -> None:
    async def story() -> None:
        removed: list[Any] = []
        first = {"metadata": {"resourceVersion": "5"}, "items": [item("a", 1)]}
        answers = iter([(200, first)])
        async with FakeApi(lambda *_: next(answers, (503, {}))).client() as client:
            informer = Informer(client, "/x", removed=removed.append)

            async def listed_and_then_refused() -> None:
                await until(lambda: informer.store)
                await asyncio.sleep(0.5)

            await beside(informer.run(), listed_and_then_refused())
        assert len(informer.store) == 1 and removed == []

    asyncio.run(story())


def test_tokens_are_bound_to_the_pod_and_renewed_in_time() -> None:
    now = 1_000_000.0
    count = 0

    def answer(_method: str, path: str, _query: Any, body: Any) -> tuple[int, Any]:
        nonlocal count
        assert path == "/api/v1/namespaces/team/serviceaccounts/default/token"
        assert body["spec"]["boundObjectRef"] == {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "uid-1"}
        assert body["spec"]["audiences"] == ["git"]
        count += 1
        if count == 3:
            return 403, {"message": "no more"}
        ends = datetime.datetime.fromtimestamp(now + 1000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return 201, {"status": {"token": f"token-{count}", "expirationTimestamp": ends}}

    async def story() -> None:
        nonlocal now
        async with FakeApi(answer).client() as client:
            cache = SourceCache(client, lambda: now)
            subject = parse(pod())
            first = await cache.token(subject, ("git", 1000))
            assert first.value == "token-1" and first.renew_at == now + 800
            now += 799
            assert (await cache.token(subject, ("git", 1000))).value == "token-1"
            now += 2
            assert (await cache.token(subject, ("git", 1000))).value == "token-2"
            now += 801
            assert (await cache.token(subject, ("git", 1000))).value == "token-2", "refused, but still good"
            cache.forget(subject, [])
            count_before = count
            assert (await cache.token(subject, ("git", 1000))).value == f"token-{count_before + 1}"

    asyncio.run(story())


def test_a_token_that_is_refused_is_a_volume_that_waits() -> None:
    async def story() -> None:
        async with FakeApi(lambda *_: (404, {"message": "serviceaccounts default not found"})).client() as client:
            with pytest.raises(VolumeError, match="no token for service account default: 404"):
                await SourceCache(client, lambda: 0.0).token(parse(pod()), ("", 3600))

    asyncio.run(story())


def test_what_many_pods_need_at_once_is_fetched_once_and_later_anew() -> None:
    async def story() -> None:
        now = 0.0
        api = FakeApi(lambda *_: (200, {"data": {"k": "v"}}))
        async with api.client() as client:
            cache = SourceCache(client, lambda: now)
            found = await asyncio.gather(*(cache.objects("team", [("configMap", "c")]) for _ in range(20)))
            assert len(api.requests) == 1 and found[7].data("configMap", "c") == {"k": b"v"}
            now = 10.0
            await cache.objects("team", [("configMap", "c")])
            assert len(api.requests) == 2

    asyncio.run(story())


def test_the_same_event_again_is_counted_and_written_ever_more_rarely() -> None:
    async def story() -> None:
        api = FakeApi(lambda *_: (201, {}))
        async with api.client() as client:
            events = Events(client, "node-1", lambda: 1000.0)
            subject = Subject("Pod", "team", "web", "uid-1", "spec.containers{main}")

            async def emit() -> None:
                for _ in range(100):
                    events.emit(subject, "Warning", "Unhealthy", "Readiness probe failed")
                events.emit(subject, "Warning", "Unhealthy", "Liveness probe failed")
                await until(lambda: len(api.requests) == 8)

            await beside(events.run(), emit())
        verbs = [method for method, *_ in api.requests]
        assert verbs == ["POST", *["PATCH"] * 6, "POST"]
        assert [body["count"] for _, _, _, body, _ in api.requests] == [1, 2, 4, 8, 16, 32, 64, 1]
        first = api.requests[0][3]
        assert first["involvedObject"]["fieldPath"] == "spec.containers{main}"
        assert api.requests[1][1].endswith(first["metadata"]["name"])

    asyncio.run(story())


def test_a_status_is_written_once_and_again_when_somebody_changed_it() -> None:
    async def story() -> None:
        stored = {**item("web", 1, namespace="team"), "status": {"phase": "Pending"}}
        patches: list[Any] = []
        refuse = 2

        def answer(method: str, path: str, _query: Any, body: Any) -> tuple[int, Any]:
            nonlocal refuse
            assert (method, path) == ("PATCH", "/api/v1/namespaces/team/pods/web/status")
            if refuse:
                refuse -= 1
                return 500, {"message": "a moment"}
            patches.append(body)
            status = {**stored["status"], **{k: v for k, v in body["status"].items() if v is not None}}
            stored["status"] = status
            stored["metadata"] = {**stored["metadata"], "resourceVersion": str(len(patches) + 1)}
            return 200, stored

        desired = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "dropped": 1}
        async with FakeApi(answer).client() as client:
            reporter = Reporter(client, json.loads(json.dumps(stored)))

            async def tell() -> None:
                reporter.report(desired)
                await asyncio.wait_for(reporter.settled(), 5)
                assert len(patches) == 1 and patches[0]["metadata"] == {"uid": "u"}
                reporter.report(dict(desired))
                await asyncio.sleep(0.05)
                assert len(patches) == 1, "the same again is not written"
                changed = json.loads(json.dumps(stored))
                changed["metadata"]["resourceVersion"] = "50"
                changed["status"]["conditions"][0]["status"] = "False"
                reporter.seen(changed)
                await until(lambda: len(patches) == 2)

            await beside(reporter.run(), tell())

    asyncio.run(story())


def test_a_status_of_a_pod_that_is_gone_is_settled() -> None:
    async def story() -> None:
        async with FakeApi(lambda *_: (404, {"reason": "NotFound"})).client() as client:
            reporter = Reporter(client, item("web", 1))
            reporter.report({"phase": "Running"})
            await beside(reporter.run(), asyncio.wait_for(reporter.settled(), 5))
            assert reporter.gone

    asyncio.run(story())


def test_a_lease_is_made_renewed_and_looked_at_again_after_a_conflict() -> None:
    async def story() -> None:
        stored: dict[str, Any] = {}
        conflict = False

        def answer(method: str, path: str, _query: Any, body: Any) -> tuple[int, Any]:
            nonlocal conflict
            assert path.startswith("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
            if method == "GET":
                return (200, stored) if stored else (404, {})
            if method == "PUT" and conflict:
                conflict = False
                return 409, {}
            stored.clear()
            stored.update(body)
            return 200, stored

        api = FakeApi(answer)
        async with api.client() as client:
            lease = NodeLease(client, "node-1", lambda: "node-uid", lambda: 1000.5)
            await lease.renew()
            assert stored["spec"]["renewTime"] == "1970-01-01T00:16:40.500000Z"
            assert stored["metadata"]["ownerReferences"][0]["uid"] == "node-uid"
            await lease.renew()
            conflict = True
            with pytest.raises(ApiError):
                await lease.renew()
            await lease.renew()
        assert [method for method, *_ in api.requests] == ["GET", "POST", "PUT", "PUT", "GET", "PUT"]

    asyncio.run(story())


def test_who_calls_and_whether_they_may() -> None:
    now = 0.0

    def answer(_method: str, path: str, _query: Any, body: Any) -> tuple[int, Any]:
        if path.endswith("tokenreviews"):
            good = body["spec"]["token"] == "good"
            return 201, {"status": {"authenticated": good, "user": {"username": "u", "groups": ["g"]} if good else {}}}
        spec = body["spec"]
        assert spec["resourceAttributes"]["name"] == "node-1"
        allowed = spec["user"] == "u" and spec["resourceAttributes"]["subresource"] == "log"
        return 201, {"status": {"allowed": allowed}}

    async def story() -> None:
        nonlocal now
        api = FakeApi(answer)
        async with api.client() as client:
            authorizer = Authorizer(client, "node-1", lambda: now)
            assert await authorizer.caller(None, None) is None
            assert await authorizer.caller(None, "Basic abc") is None
            assert await authorizer.caller(None, "Bearer bad") is None
            caller = await authorizer.caller(None, "Bearer good")
            assert caller == Caller("u", ("g",))
            assert await authorizer.allow(caller, "GET", "/containerLogs/n/p/c")
            assert not await authorizer.allow(caller, "POST", "/run/n/p/c")
            before = len(api.requests)
            assert await authorizer.allow(caller, "GET", "/containerLogs/x/y/z")
            assert len(api.requests) == before, "an answer is remembered"
            now = 301.0
            assert await authorizer.allow(caller, "GET", "/containerLogs/x/y/z")
            assert len(api.requests) == before + 1, "but not for ever"

    asyncio.run(story())


def test_a_certificate_says_who_calls() -> None:
    subject = ((("organizationName", "system:masters"),), (("organizationName", "b"),), (("commonName", "admin"),))
    assert from_certificate({"subject": subject}) == Caller("admin", ("system:masters", "b"))
    assert from_certificate({"subject": ()}) is None


def authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Name]:
    return ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])


def test_a_bootstrap_token_becomes_a_certificate(tmp_path: Path) -> None:
    key, issuer = authority()
    asked: list[dict[str, Any]] = []
    polls = 0

    def answer(method: str, _path: str, _query: Any, body: Any) -> tuple[int, Any]:
        nonlocal polls
        if method == "POST":
            asked.append(body["spec"])
            return 201, {"metadata": {"name": "csr-1"}}
        polls += 1
        if polls == 1:
            return 200, {"status": {}}
        csr = x509.load_pem_x509_csr(base64.b64decode(asked[0]["request"]))
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder(issuer, csr.subject, csr.public_key(), 7, now, now + datetime.timedelta(days=1))
            .sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )
        return 200, {"status": {"certificate": base64.b64encode(certificate).decode()}}

    async def story() -> None:
        api = FakeApi(answer)
        async with api.client(token="abc.def") as client:
            found = await keys.node_credentials(tmp_path, "mac-1", client.credentials, 0.0)
            assert found.token is None and found.certificate is not None and found.key is not None
            names = x509.load_pem_x509_certificate(found.certificate).subject.rfc4514_string()
            assert "system:node:mac-1" in names and "system:nodes" in names
            assert asked[0]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
            again = await keys.node_credentials(tmp_path, "mac-1", client.credentials, 0.0)
            assert again.certificate == found.certificate and len(asked) == 1
        assert (tmp_path / "node-client.pem").stat().st_mode & 0o777 == 0o600

    asyncio.run(story())


def test_a_denied_request_is_an_end(tmp_path: Path) -> None:
    def answer(method: str, _path: str, _query: Any, _body: Any) -> tuple[int, Any]:
        denied = {"conditions": [{"type": "Denied", "message": "not this one"}]}
        return (201, {"metadata": {"name": "csr-1"}}) if method == "POST" else (200, {"status": denied})

    async def story() -> None:
        async with FakeApi(answer).client(token="t") as client:
            with pytest.raises(ConfigurationError, match="certificate request csr-1 was denied: not this one"):
                await keys.node_credentials(tmp_path, "mac-1", client.credentials, 0.0)

    asyncio.run(story())


def test_a_kubeconfig_is_read_with_what_it_points_at(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("CA")
    (tmp_path / "config").write_text(
        """
current-context: b
contexts: [{name: a, context: {cluster: x, user: x}}, {name: b, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://10.0.0.1:6443/", certificate-authority: ca.pem}}]
users: [{name: u, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5, tokenFile: token}}]
"""
    )
    found = kubeconfig(tmp_path / "config")
    assert found.server == "https://10.0.0.1:6443" and found.host_and_port == ("10.0.0.1", 6443)
    assert (found.ca, found.certificate, found.key) == (b"CA", b"cert", b"key")
    assert found.token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "not a kubeconfig with a current context"),
        ("[", "not a kubeconfig with a current context"),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: "
            "{server: 'https://x'}}], users: [{name: u, user: {exec: {}}}]}",
            r"users\[\].user.exec is not supported",
        ),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        kubeconfig(tmp_path / "config")


def test_without_credentials_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"set api\.kubeconfig"):
        in_cluster({}, tmp_path)
    (tmp_path / "token").write_text("t")
    found = in_cluster({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, tmp_path)
    assert found.server == "https://10.96.0.1:443" and found.authorization() == "Bearer t"


def test_what_kubectl_logs_asks_for() -> None:
    query = {
        "follow": "true",
        "tailLines": "5",
        "sinceSeconds": "60",
        "timestamps": "true",
        "limitBytes": "9",
        "stream": "Stderr",
    }
    options = log_options(query, 1000.0)
    assert (options.follow, options.tail, options.since, options.timestamps) == (True, 5, 940.0, True)
    assert (options.limit_bytes, options.stream) == (9, "Stderr")
    assert log_options({"sinceTime": "1970-01-01T00:01:00Z"}, 0.0).since == 60.0
    for wrong in ({"tailLines": "-1"}, {"tailLines": "x"}, {"sinceTime": "yesterday"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            log_options(wrong, 0.0)


def run(attempt: int, code: int | None) -> Run:
    return Run(attempt, "id", "image", 1.0, None if code is None else 2.0, code)


@pytest.mark.parametrize(
    ("runs", "previous", "attempt"),
    [
        ((run(0, None),), False, 0),
        ((run(0, 1), run(1, None)), True, 0),
        ((run(0, 1), run(1, 1)), True, 0),
        ((run(0, 1),), True, 0),
        ((run(0, 1), run(1, 1)), False, 1),
        ((run(0, None),), True, None),
        ((), False, None),
    ],
)
def test_whose_log_is_meant(runs: tuple[Run, ...], previous: bool, attempt: int | None) -> None:
    found = chosen(runs, previous=previous)
    assert (found.attempt if isinstance(found, Run) else None) == attempt


def test_what_the_node_offers(tmp_path: Path) -> None:
    from sartor_runner.config import NodeTable

    table = NodeTable.model_validate(
        {
            "name": "a",
            "platform": "metal",
            "capacity": {"sartor.dev/metal": "1"},
            "reserved": {"memory": "1Gi", "cpu": "500m"},
            "max_pods": 50,
        }
    )
    whole, left = capacity(table, 8, 16 << 30, 100 << 30)
    assert whole == {
        "cpu": "8",
        "memory": f"{16 << 20}Ki",
        "ephemeral-storage": f"{100 << 20}Ki",
        "pods": "50",
        "sartor.dev/metal": "1",
    }
    assert (left["cpu"], left["memory"], left["sartor.dev/metal"]) == ("7500m", f"{15 << 20}Ki", "1")


def test_a_condition_of_the_node_keeps_its_transition_time() -> None:
    good = (True, "KubeletReady", "fine")
    first = {c["type"]: c for c in conditions(ready=good, pressures={}, old={}, now=100.0)}
    later = {c["type"]: c for c in conditions(ready=good, pressures={"DiskPressure": True}, old=first, now=200.0)}
    assert later["Ready"]["lastTransitionTime"] == first["Ready"]["lastTransitionTime"] == "1970-01-01T00:01:40Z"
    assert later["Ready"]["lastHeartbeatTime"] == "1970-01-01T00:03:20Z"
    assert (later["DiskPressure"]["status"], later["DiskPressure"]["lastTransitionTime"]) == (
        "True",
        "1970-01-01T00:03:20Z",
    )
