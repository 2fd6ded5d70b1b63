"""The pure parts: names and files of a cluster, certificates, arguments, back-off, audit log, command line."""

import json
import os
import socket
import ssl
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sartor_devcluster import audit, bootstrap, cli, components, control, kubeconfig, namespace, state
from sartor_devcluster.cluster import Cluster, DevCluster
from sartor_devcluster.environment import scrubbed, with_folder
from sartor_devcluster.errors import DevclusterError, NotRunningError, StartError, StateError
from sartor_devcluster.health import ComponentHealth, Status, absences, unwell
from sartor_devcluster.layout import Layout, state_root
from sartor_devcluster.pki import CLIENTS, Authority, Pki
from sartor_devcluster.prepare import prepare
from sartor_devcluster.process import FIRST_DELAY, LONGEST_DELAY, describe, next_delay

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = state.Settings(
    {"kubectl": "/k/kubectl"},
    "1.36.2",
    "cache",
    {"etcd": ("--a=1", "--b")},
    False,
    "abc.def",
    ("coredns",),
    {"coredns": "left out on request", "kube-proxy": "nft is missing"},
)
STATE = state.State(state.ProcessId(10, 11), state.ProcessId(12, 13), 4321, True, 1.5)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    made = Pki(tmp_path_factory.mktemp("cluster") / "pki")
    made.make(NOW)
    return made


class TestNamesAndFiles:
    @pytest.mark.parametrize("name", ["default", "a", "tests-1234", "a" * 40])
    def test_names(self, name: str, tmp_path: Path) -> None:
        assert Layout.of(name, tmp_path).folder == tmp_path / name

    @pytest.mark.parametrize("name", ["", "..", "a/b", "-a", "a-", "A", "a.lock", "a" * 41, "ä"])
    def test_names_that_cannot_be_folders(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(StateError, match="cannot name a cluster; use up to 40 lower-case letters"):
            Layout.of(name, tmp_path)

    def test_where_clusters_are_kept(self) -> None:
        assert state_root({"SARTOR_STATE": "/s"}) == Path("/s/devcluster")
        assert state_root({"XDG_STATE_HOME": "/x"}) == Path("/x/sartor/devcluster")
        assert state_root({}) == Path.home() / ".local/state/sartor/devcluster"

    def test_settings_and_state_survive_their_files(self, tmp_path: Path) -> None:
        state.write_settings(tmp_path / "settings.json", SETTINGS)
        state.write_state(tmp_path / "state.json", STATE)
        assert state.read_settings(tmp_path / "settings.json") == SETTINGS
        assert state.read_state(tmp_path / "state.json") == STATE
        assert state.read_state(tmp_path / "none.json") is None

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "supervisor": 3}']
    )
    def test_files_of_others_are_refused_with_a_way_out(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "demo").mkdir()
        path = tmp_path / "demo" / "state.json"
        path.write_text(text)
        with pytest.raises(StateError, match="end the cluster with `sartor-devcluster down --name demo` and start it"):
            state.read_state(path)
        with pytest.raises(StateError):
            state.read_settings(path)

    def test_other_arguments_are_another_cluster(self) -> None:
        assert SETTINGS.same_cluster(replace(SETTINGS, version="1.36.3", bootstrap_token="x.y"))
        assert not SETTINGS.same_cluster(replace(SETTINGS, extra_arguments={}))
        assert not SETTINGS.same_cluster(replace(SETTINGS, user_namespace=True))
        assert not SETTINGS.same_cluster(replace(SETTINGS, without=()))
        assert SETTINGS.same_cluster(replace(SETTINGS, absent={})), "what a machine cannot have was not asked for"

    def test_a_process_is_known_by_number_and_start(self) -> None:
        own = state.ProcessId.of(os.getpid())
        assert own is not None
        assert own.alive()
        assert not replace(own, start=own.start + 1).alive(), "another process with the same number"
        assert state.ProcessId.of(2**22 + 1) is None

    def test_stat_lines_with_odd_names(self) -> None:
        line = "42 (a) b (c) Z 1 42 42 0 -1 4194560 100 0 0 0 1 1 0 0 20 0 1 0 98765 0 0"
        assert state.start_of(line) == 98765
        assert state.status_of(line) == "Z"

    def test_a_zombie_is_not_alive(self) -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        zombie = state.ProcessId.of(pid)
        assert zombie is not None
        assert not zombie.alive()
        os.waitpid(pid, 0)


class TestCertificates:
    def load(self, pki: Pki, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(pki.certificate(name).read_bytes())

    @pytest.mark.parametrize(
        ("name", "signer"),
        [
            ("apiserver", "ca"),
            *((name, "ca") for name in CLIENTS),
            ("front-proxy-client", "front-proxy-ca"),
            ("etcd", "etcd-ca"),
            ("apiserver-etcd-client", "etcd-ca"),
        ],
    )
    def test_every_certificate_is_its_authoritys_and_no_others(self, pki: Pki, name: str, signer: str) -> None:
        certificate = self.load(pki, name)
        certificate.verify_directly_issued_by(self.load(pki, signer))
        for other in {"ca", "front-proxy-ca", "etcd-ca"} - {signer}:
            with pytest.raises(ValueError, match="does not match"):
                certificate.verify_directly_issued_by(self.load(pki, other))

    def test_users_and_groups(self, pki: Pki) -> None:
        for name, (user, groups) in CLIENTS.items():
            subject = self.load(pki, name).subject
            assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [user]
            assert tuple(a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)) == groups

    def test_the_api_server_is_valid_on_both_sides_of_the_forwarder(self, pki: Pki) -> None:
        certificate = self.load(pki, "apiserver")
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
        assert addresses == {"127.0.0.1", "10.240.0.1", "10.96.0.1"}
        assert "kubernetes.default.svc.cluster.local" in names.get_values_for_type(x509.DNSName)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]

    def test_validity(self, pki: Pki) -> None:
        certificate = self.load(pki, "admin")
        assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
        assert certificate.not_valid_after_utc == NOW + timedelta(days=365)

    def test_keys_are_their_owners_only(self, pki: Pki) -> None:
        assert pki.folder.stat().st_mode & 0o777 == 0o700
        keys = list(pki.folder.glob("*.key"))
        assert len(keys) == 3 + 1 + len(CLIENTS) + 3 + 1
        assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}

    def test_made_once(self, pki: Pki) -> None:
        before = pki.certificate("ca").read_bytes()
        pki.make(NOW + timedelta(days=1))
        assert pki.certificate("ca").read_bytes() == before

    def test_an_unfinished_set_is_made_anew(self, tmp_path: Path) -> None:
        pki = Pki(tmp_path / "pki")
        pki.make(NOW)
        before = pki.certificate("ca").read_bytes()
        pki.service_account_public.unlink()
        pki.make(NOW)
        assert pki.certificate("ca").read_bytes() != before
        self.load(pki, "admin").verify_directly_issued_by(self.load(pki, "ca"))

    def test_a_set_of_an_older_version_gets_the_clients_that_it_lacks(self, pki: Pki, tmp_path: Path) -> None:
        kept = Pki(tmp_path / "pki")
        kept.make(NOW)
        before = kept.certificate("admin").read_bytes()
        kept.certificate("kube-proxy").unlink()
        kept.make(NOW)
        self.load(kept, "kube-proxy").verify_directly_issued_by(self.load(kept, "ca"))
        assert kept.certificate("admin").read_bytes() == before

    def test_clients_verify_servers_strictly(self, pki: Pki, tmp_path: Path) -> None:
        """As the strictest client does (Python 3.13 does by default): a handshake of the two ends in memory."""
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        client.verify_flags |= ssl.VERIFY_X509_STRICT
        fresh = Authority.make("kubernetes", datetime.now(UTC))
        serving = fresh.issue("kube-apiserver", (), datetime.now(UTC), names=["127.0.0.1"], server=True)
        for name, data in (("crt", serving.certificate), ("key", serving.key), ("ca", fresh.identity().certificate)):
            (tmp_path / name).write_bytes(data)
        server.load_cert_chain(tmp_path / "crt", tmp_path / "key")
        client.load_verify_locations(tmp_path / "ca")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1"),
            server.wrap_bio(outgoing, incoming, server_side=True),
        ]
        done: set[int] = set()
        for _ in range(10):
            for number, end in enumerate(ends):
                try:
                    end.do_handshake()
                    done.add(number)
                except ssl.SSLWantReadError:
                    continue
        assert done == {0, 1}


class TestArguments:
    @pytest.fixture
    def specs(self, tmp_path: Path) -> dict[str, components.ComponentSpec]:
        binaries = {name: f"/k/{name}" for name in components.NAMES}
        extra = {"kube-scheduler": ("--leader-elect=true", "--v=4")}
        return {spec.name: spec for spec in components.component_specs(Layout(tmp_path / "c"), binaries, extra)}

    def test_flags(self) -> None:
        values = {"a": True, "b": False, "c": 3, "d": Path("/x")}
        assert components.flags(values) == ["--a=true", "--b=false", "--c=3", "--d=/x"]

    def test_all_components_in_the_order_of_their_start(self, specs: dict[str, components.ComponentSpec]) -> None:
        assert tuple(specs) == components.NAMES

    def test_extra_arguments_come_last(self, specs: dict[str, components.ComponentSpec]) -> None:
        command = specs["kube-scheduler"].command
        assert command[0] == "/k/kube-scheduler"
        assert command[-2:] == ("--leader-elect=true", "--v=4")
        assert "--leader-elect=false" in command[:-2]

    def test_only_the_api_server_may_open_the_store(self, specs: dict[str, components.ComponentSpec]) -> None:
        command = specs["etcd"].command
        assert "--client-cert-auth=true" in command
        assert any(flag.startswith("--trusted-ca-file=") and flag.endswith("etcd-ca.crt") for flag in command)
        assert "--listen-client-urls=https://127.0.0.1:2379" in command

    def test_the_api_server_is_a_normal_clusters(self, specs: dict[str, components.ComponentSpec]) -> None:
        command = set(specs["kube-apiserver"].command)
        assert {
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--advertise-address=10.240.0.1",
            "--enable-bootstrap-token-auth=true",
        } <= command

    def test_kube_proxy_is_told_what_it_cannot_find_out_in_a_namespace(
        self, specs: dict[str, components.ComponentSpec]
    ) -> None:
        command = set(specs["kube-proxy"].command)
        assert {
            "--proxy-mode=nftables",
            "--bind-address=10.240.0.1",
            "--nodeport-addresses=0.0.0.0/0",
            "--conntrack-max-per-core=0",
            "--oom-score-adj=0",
        } <= command
        assert not any(flag.startswith("--hostname-override") for flag in command), "known only when it starts"
        own, through = specs["kube-proxy"].probes
        assert (own.port, through.address) == (10256, "10.96.0.1"), "well: its rules lead somewhere"

    def test_the_dns_server_answers_for_the_cluster_and_denies_the_rest(
        self, specs: dict[str, components.ComponentSpec], tmp_path: Path
    ) -> None:
        layout = Layout(tmp_path / "c")
        prepare(layout, port=4321, bootstrap_token="abcdef.0123456789abcdef", now=NOW)
        assert specs["coredns"].command[1:] == ("-conf", str(layout.corefile))
        text = layout.corefile.read_text()
        assert text.startswith("cluster.local in-addr.arpa ip6.arpa {\n    bind 10.240.0.2\n")
        assert f'kubeconfig "{layout.component_kubeconfig("coredns")}"' in text
        assert "rcode NXDOMAIN" in text.partition("\n. {")[2]
        assert layout.component_kubeconfig("coredns").stat().st_mode & 0o777 == 0o600

    def test_without_their_programs_there_is_neither(self, tmp_path: Path) -> None:
        binaries = {name: f"/k/{name}" for name in components.NAMES if name not in components.CONSEQUENCES}
        specs = components.component_specs(Layout(tmp_path / "c"), binaries, {})
        assert [spec.name for spec in specs] == [n for n in components.NAMES if n not in components.CONSEQUENCES]

    def test_every_file_that_is_named_is_written(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path / "c")
        prepare(layout, port=4321, bootstrap_token="abcdef.0123456789abcdef", now=NOW)
        binaries = {name: f"/k/{name}" for name in components.NAMES}
        named = [
            Path(value)
            for spec in components.component_specs(layout, binaries, {})
            for flag in spec.command
            if (value := flag.partition("=")[2]).startswith(str(tmp_path))
        ]
        assert len(named) > 20
        assert {path for path in named if not path.exists()} == {layout.audit_log}
        assert layout.folder.stat().st_mode & 0o777 == 0o700
        shown = layout.access_log.parent
        modes = [path.stat().st_mode & 0o777 for path in (shown, layout.access_log)]
        assert modes == [0o755, 0o644] and list(shown.iterdir()) == [layout.access_log], (
            "a pod may be shown the log alone"
        )

    def test_one_kubeconfig_for_the_host_and_one_for_inside(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path / "c")
        prepare(layout, port=4321, bootstrap_token="abcdef.0123456789abcdef", now=NOW)
        outside = kubeconfig.Context("sartor-devcluster-c", "https://127.0.0.1:4321")
        assert kubeconfig.read_context(layout.kubeconfig) == outside
        assert kubeconfig.read_context(layout.inner_kubeconfig).server == "https://10.240.0.1:443"
        assert "token: abcdef.0123456789abcdef" in layout.bootstrap_kubeconfig.read_text()
        assert layout.kubeconfig.stat().st_mode & 0o777 == 0o600
        before = layout.pki.joinpath("ca.crt").read_bytes()
        prepare(layout, port=4322, bootstrap_token="abcdef.0123456789abcdef", now=NOW)
        assert kubeconfig.read_context(layout.kubeconfig).server == "https://127.0.0.1:4322"
        assert layout.pki.joinpath("ca.crt").read_bytes() == before

    def test_entering(self) -> None:
        plain = namespace.enter_command(7, ["ls", "-l"], user_namespace=False)
        assert plain == ["nsenter", "--net=/proc/7/ns/net", "--", "ls", "-l"]
        rootless = namespace.enter_command(7, ["ls"], user_namespace=True)
        assert rootless[1:3] == ["--preserve-credentials", "--user=/proc/7/ns/user"]

    def test_nothing_of_the_users_environment_reaches_components(self, tmp_path: Path) -> None:
        given = {
            "PATH": "/bin",
            "HTTPS_PROXY": "http://proxy",
            "HOME": "/me",
            "KUBECONFIG": "/mine",
            "PYTHONPATH": "src",
        }
        made = scrubbed(given, home=tmp_path)
        assert made["PATH"] == "/bin"
        assert made["HOME"] == str(tmp_path)
        assert not {"HTTPS_PROXY", "KUBECONFIG"} & made.keys()
        first, *_ = made["PYTHONPATH"].split(os.pathsep)
        assert first == str(Path("src").absolute())

    def test_a_program_beside_path_is_found_after_all_others(self) -> None:
        assert with_folder("/bin:/usr/bin", Path("/usr/sbin")) == "/bin:/usr/bin:/usr/sbin"
        assert with_folder("/usr/sbin:/bin", Path("/usr/sbin")) == "/usr/sbin:/bin"
        assert with_folder("", Path("/usr/sbin")) == "/usr/sbin"


class TestBackOff:
    def test_delays_double_up_to_a_bound_and_start_again_after_a_steady_time(self) -> None:
        delay, seen = 0.0, []
        for _ in range(7):
            delay = next_delay(delay, ran=0.1)
            seen.append(delay)
        assert seen == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
        assert seen[0] == FIRST_DELAY
        assert seen[-1] == LONGEST_DELAY
        assert next_delay(8.0, ran=30.0) == FIRST_DELAY

    def test_how_it_ended(self) -> None:
        assert describe(-9) == "killed by SIGKILL"
        assert describe(2) == "exit code 2"


class TestBootstrapObjects:
    def test_tokens_have_kubernetes_form(self) -> None:
        identifier, secret = bootstrap.new_token().split(".")
        assert (len(identifier), len(secret)) == (6, 16)
        assert bootstrap.new_token() != bootstrap.new_token()

    def test_the_approver_may_approve_nothing_else(self) -> None:
        made = dict(bootstrap.objects("abcdef.0123456789abcdef"))
        role = next(m for m in made.values() if m["kind"] == "ClusterRole" and "approver" in m["metadata"]["name"])
        approvals = [rule for rule in role["rules"] if "approve" in rule["verbs"]]
        assert [rule["resourceNames"] for rule in approvals] == [["kubernetes.io/kubelet-serving"]]
        assert "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef" in made

    def test_the_dns_server_may_only_watch_what_names_are_made_of(self) -> None:
        made = dict(bootstrap.dns_objects())
        (role,) = [m for m in made.values() if m["kind"] == "ClusterRole"]
        assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"list", "watch"}
        assert {r for rule in role["rules"] for r in rule["resources"]} == {"services", "namespaces", "endpointslices"}

    def test_the_dns_service_leads_to_the_dns_server(self) -> None:
        made = dict(bootstrap.dns_objects())
        service = made["/api/v1/namespaces/kube-system/services/kube-dns"]
        (slice,) = [m for m in made.values() if m["kind"] == "EndpointSlice"]
        assert service["spec"]["clusterIP"] == "10.96.0.10"
        assert "selector" not in service["spec"], "or a controller would take its endpoint away"
        assert slice["metadata"]["labels"]["kubernetes.io/service-name"] == service["metadata"]["name"]
        assert slice["endpoints"][0]["addresses"] == ["10.240.0.2"]
        names = [(port["name"], port["protocol"]) for port in slice["ports"]]
        assert names == [(port["name"], port["protocol"]) for port in service["spec"]["ports"]], "else nothing matches"


class TestAuditLog:
    EVENT: ClassVar[dict[str, Any]] = {
        "stage": "ResponseComplete",
        "verb": "patch",
        "user": {"username": "system:node:a"},
        "userAgent": "runner/1",
        "objectRef": {"resource": "pods", "namespace": "n", "name": "p", "subresource": "status", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": "2026-03-01T12:00:00.100000Z",
        "stageTimestamp": "2026-03-01T12:00:00.350000Z",
    }

    def test_an_event(self) -> None:
        event = audit.parse(json.dumps(self.EVENT))
        assert event is not None
        assert (event.verb, event.user, event.resource, event.namespace, event.name) == (
            "patch",
            "system:node:a",
            "pods/status",
            "n",
            "p",
        )
        assert event.code == 200
        assert event.is_write
        assert (event.answered - event.received) == timedelta(milliseconds=250)

    def test_other_stages_and_other_paths(self) -> None:
        assert audit.parse(json.dumps({**self.EVENT, "stage": "ResponseStarted"})) is None
        event = audit.parse(json.dumps({**self.EVENT, "objectRef": None, "verb": "get"}))
        assert event is not None
        assert (event.resource, event.is_write) == ("", False)

    def test_reading_on_from_an_offset_and_leaving_half_a_line(self, tmp_path: Path) -> None:
        log = tmp_path / "audit.log"
        line = json.dumps(self.EVENT) + "\n"
        log.write_text(line)
        offset = audit.size(log)
        with log.open("a") as file:
            file.write(json.dumps({**self.EVENT, "verb": "get"}) + "\n" + line + line[:40])
        events = list(audit.read(log, offset=offset))
        assert [event.verb for event in events] == ["get", "patch"]
        assert len(audit.writes(events)) == 1
        assert audit.writes(events, user="somebody") == []


class TestControl:
    def test_a_request_and_its_answer_over_a_very_long_path(self, tmp_path: Path) -> None:
        folder = tmp_path / ("x" * 100) / ("y" * 100)
        folder.mkdir(parents=True)
        listener = control.listen(folder / "control")
        listener.setblocking(True)
        seen: list[tuple[dict[str, object], int]] = []

        def serve() -> None:
            for answer in ({"ready": True}, {"error": "no component x"}):
                client, _ = listener.accept()
                with client:
                    packet, handles, _, _ = socket.recv_fds(client, control.PACKET_BYTES, 1)
                    for handle in handles:
                        os.close(handle)
                    seen.append((control.parse(packet), len(handles)))
                    client.send(json.dumps(answer).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        with listener, socket.socket() as handed:
            assert control.ask(folder / "control", "status", {"a": 1}, hand_over=handed) == {"ready": True}
            with pytest.raises(DevclusterError, match=r"^no component x$"):
                control.ask(folder / "control", "stop")
            thread.join(10)
        assert seen == [({"operation": "status", "a": 1}, 1), ({"operation": "stop"}, 0)]

    def test_nobody_there(self, tmp_path: Path) -> None:
        (tmp_path / "demo").mkdir()
        with pytest.raises(NotRunningError, match="start it with `sartor-devcluster up --name demo`"):
            control.ask(tmp_path / "demo" / "control", "status")
        control.listen(tmp_path / "demo" / "control").close()  # as a killed supervisor leaves it
        with pytest.raises(NotRunningError):
            control.ask(tmp_path / "demo" / "control", "status")

    def test_no_answer(self, tmp_path: Path) -> None:
        with (
            control.listen(tmp_path / "control"),
            pytest.raises(DevclusterError, match=r"did not answer status in 0 s"),
        ):
            control.ask(tmp_path / "control", "status", seconds=0.05)

    @pytest.mark.parametrize("packet", [b"", b"[]", b"{}", b'{"operation": 3}', b"\xff"])
    def test_what_is_no_request(self, packet: bytes) -> None:
        with pytest.raises(ValueError):
            control.parse(packet)


class TestCommandLine:
    def test_arguments_for_components(self) -> None:
        given = ["kube-apiserver=--v=4", "etcd=--debug", "kube-apiserver=--profiling=false"]
        assert cli.extra_arguments(given) == {"kube-apiserver": ("--v=4", "--profiling=false"), "etcd": ("--debug",)}

    @pytest.mark.parametrize("text", ["kube-apiserver", "kube-apiserver=v=4", "=x", ""])
    def test_arguments_in_another_form(self, text: str) -> None:
        with pytest.raises(DevclusterError, match="write COMPONENT=--FLAG"):
            cli.extra_arguments([text])

    def test_status(self) -> None:
        well = ComponentHealth("etcd", "running", 12, 0, None, True)
        ended = ComponentHealth("kube-scheduler", "waiting", None, 2, 1, False)
        hung = ComponentHealth("kube-apiserver", "running", 13, 0, None, False)
        absent = ComponentHealth("coredns", "absent", None, 0, None, False, "left out on request")
        status = Status("demo", True, False, "1.36.2", "cache", 4321, 9, (well, hung, ended, absent))
        assert cli.status_lines(status) == [
            "cluster demo: not ready, Kubernetes 1.36.2 (cache), https://127.0.0.1:4321, supervisor 9",
            "  etcd                            12  well",
            "  kube-apiserver                  13  not well",
            "  kube-scheduler                   -  waiting, restarted 2 times",
            "  coredns                          -  absent: left out on request",
        ]
        assert status.absent("coredns") == "left out on request"
        assert status.absent("kube-apiserver") is None
        assert cli.status_lines(replace(status, running=False)) == ["cluster demo: not running"]

    def test_what_is_absent_is_not_what_a_start_waits_for(self) -> None:
        nothing = {"pid": None, "restarts": 0, "exit_code": None, "well": False}
        absent = {"name": "kube-proxy", "phase": "absent", "reason": "nft is missing", **nothing}
        waiting = {"name": "etcd", "phase": "waiting", "reason": "", **nothing}
        assert unwell({"components": [absent, waiting]}) == "etcd is waiting"
        assert unwell({"components": [absent]}) == "its first objects are not there yet"
        assert absences({"components": [absent, waiting]}) == {"kube-proxy": "nft is missing"}

    @pytest.fixture
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("SARTOR_STATE", str(tmp_path))
        return tmp_path / "devcluster"

    @pytest.mark.parametrize("command", ["status", "kubeconfig", "logs", "kubectl", "exec", "shell"])
    def test_without_a_cluster_the_next_step_is_named(
        self, command: str, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as exit:
            cli.main([command, "--name", "demo", *(["--", "ls"] if command == "exec" else [])])
        assert exit.value.code == 1
        assert capsys.readouterr().err == "error: no cluster demo; start it with `sartor-devcluster up --name demo`\n"

    def test_ending_what_is_not_there_is_fine(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cli.main(["down", "--name", "demo"])
        assert capsys.readouterr().err == "no cluster demo\n"

    def test_a_cluster_that_is_not_running(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        layout = Layout.of("demo", root)
        layout.logs.mkdir(parents=True)
        state.write_settings(layout.settings, SETTINGS)
        cli.main(["status", "--all"])
        assert capsys.readouterr().out == "cluster demo: not running\n"
        with pytest.raises(SystemExit):
            cli.main(["status", "--name", "demo"])
        with pytest.raises(NotRunningError):
            DevCluster.find("demo", root=root).enter(["ls"])
        with pytest.raises(DevclusterError, match="no component nothing; there are etcd"):
            DevCluster.find("demo", root=root).log("nothing")
        cli.main(["down", "--name", "demo"])
        assert not layout.folder.exists()

    def test_a_folder_of_another_version_can_be_removed(self, root: Path) -> None:
        layout = Layout.of("demo", root)
        layout.folder.mkdir(parents=True)
        layout.settings.write_text('{"format": 99}')
        layout.state.write_text('{"format": 99}')
        cli.main(["down", "--name", "demo"])
        assert not layout.folder.exists()

    def test_arguments_for_a_component_that_does_not_exist(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(StartError, match="no component kubelet; there are etcd, kube-apiserver"):
            DevCluster.up("demo", extra_arguments={"kubelet": ["--v=4"]})
        with pytest.raises(StartError, match="no component etcd; there are kube-proxy, coredns"):
            DevCluster.up("demo", without=["etcd"])
        assert not root.exists()


class TestExistingClusters:
    CONFIG = kubeconfig.content(
        cluster="kind", server="https://127.0.0.1:1", authority=b"ca", user="me", credentials="token"
    )

    def test_attach_reads_the_current_context(self, tmp_path: Path) -> None:
        (tmp_path / "kubectl").write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / "kubectl").chmod(0o755)
        kubeconfig.write(tmp_path / "config", self.CONFIG)
        cluster = Cluster.attach(tmp_path / "config", tmp_path / "kubectl")
        assert cluster.kubectl("get", "nodes").stdout == f"--kubeconfig={tmp_path / 'config'} get nodes\n"
        assert cluster.enter(["ls"]) == ["ls"], "a pod of somebody else's cluster is reached from here or not at all"

    def test_a_failing_kubectl_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "kubectl").write_text("#!/bin/sh\necho refused >&2\nexit 1\n")
        (tmp_path / "kubectl").chmod(0o755)
        kubeconfig.write(tmp_path / "config", self.CONFIG)
        cluster = Cluster.attach(tmp_path / "config", tmp_path / "kubectl")
        assert cluster.kubectl("get", "nodes").returncode == 1
        with pytest.raises(DevclusterError, match="kubectl get nodes failed: refused"):
            cluster.kubectl("get", "nodes", check=True)

    def test_definitions_are_waited_for_from_their_first_moment_on(self, tmp_path: Path) -> None:
        def items(conditions: object) -> str:
            return json.dumps(
                {"items": [{"metadata": {"name": "stacks.example.com"}, "status": {"conditions": conditions}}]}
            )

        (tmp_path / "new").write_text(items(None))
        (tmp_path / "later").write_text(items([{"type": "Established", "status": "True"}]))
        client = f"""#!/bin/sh
        [ "$2" = get ] || exit 0
        cat {tmp_path}/new && cp {tmp_path}/later {tmp_path}/new && echo >>{tmp_path}/looks
        """
        (tmp_path / "kubectl").write_text(client)
        (tmp_path / "kubectl").chmod(0o755)
        kubeconfig.write(tmp_path / "config", self.CONFIG)
        cluster = Cluster.attach(tmp_path / "config", tmp_path / "kubectl")
        cluster.define(tmp_path)
        assert (tmp_path / "looks").read_text() == "\n\n", "null is not served, and true is"
        (tmp_path / "later").write_text(items([{"type": "Established", "status": "False"}]))
        cluster.define(tmp_path)  # what was there from before
        with pytest.raises(
            DevclusterError, match=r"not served after 0.2 s: stacks.example.com; see `kubectl describe crd`"
        ):
            cluster.define(tmp_path, 0.2)

    @pytest.mark.parametrize("text", ["", "{", "a: b", "current-context: x\ncontexts: []\n"])
    def test_what_is_no_kubeconfig(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "config").write_text(text)
        with pytest.raises(StateError, match="is no kubeconfig with a current context"):
            Cluster.attach(tmp_path / "config", "kubectl")

    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(StateError, match="No such file or directory; name an existing kubeconfig"):
            Cluster.attach(tmp_path / "none", "kubectl")


def test_a_kubectl_that_gets_no_answer_is_a_sentence(tmp_path: Path) -> None:
    client = tmp_path / "kubectl"
    client.write_text("#!/bin/sh\nexec sleep 30\n")
    client.chmod(0o700)
    with pytest.raises(DevclusterError, match=r"kubectl get nodes was not done within 0\.2 s; see whether .* busy"):
        Cluster(tmp_path / "kubeconfig", client).kubectl("get", "nodes", timeout=0.2)
