"""A command reaches nothing of the network: not the metadata address, not the API server, not the host it runs on."""

import pytest
from battery import NETWORK, network_attempts


@pytest.fixture(scope="module")
def world() -> dict[str, list[str]]:
    return network_attempts(NETWORK)


@pytest.mark.parametrize("name", NETWORK)
def test_nothing_answers_inside(world: dict[str, list[str]], name: str) -> None:
    inside, with_network = world[name]
    assert inside.startswith("DENIED")
    assert with_network == "ESCAPED TOKEN"
