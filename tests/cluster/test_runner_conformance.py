"""The conformance table against the runner, on a real API server. The same table can be replayed against a real kubelet:
see `runner_replay.py`."""

import asyncio
from collections.abc import Iterator

import pytest
from runner_replay import Case, Outcome, cases, replay
from runner_support import IMAGE, RunnerProcess

from sartor_devcluster import DevCluster

CASES = cases()
NAMES = {"node": {"cluster_dns": ["10.96.0.10"]}}
"""What a node of any cluster says; the cases look at what pods are told, not at who answers."""


@pytest.fixture(scope="module")
def outcomes(cluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Outcome]]:
    """All cases are replayed together, as most of their time is waiting."""
    runner = RunnerProcess(cluster, tmp_path_factory.mktemp("runner"), "runner-1", "10.240.0.11", NAMES)
    try:
        runner.start()
        found = asyncio.run(replay(cluster.kubeconfig, CASES, image=IMAGE, node=runner.name))
        yield {outcome.case.name: outcome for outcome in found}
    finally:
        runner.close()
        cluster.kubectl("delete", "node", "runner-1", "--ignore-not-found")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_conformance(case: Case, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[case.name]
    assert not outcome.problems, outcome.text()
