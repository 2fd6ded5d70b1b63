"""One cluster of our own for the whole session: `cluster.kubeconfig`, `cluster.kubectl(…)`, `cluster.enter(command)`,
`cluster.audit_log`. It ends with the session, also when the session is killed."""

import os
from collections.abc import Iterator

import pytest

from sartor_devcluster import DevCluster


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: starts a Kubernetes of its own (see tools/devcluster)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - a prefix of node paths
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """Shared: leave nothing behind that another test could trip over; start one of your own to break it."""
    root = tmp_path_factory.mktemp("clusters")
    with DevCluster.up(f"tests-{os.getpid()}", root=root, lifeline=True, say=print) as running:
        yield running
