"""Agents that ask a model in a pod: what they are passed, and that what they cost is not theirs to say."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pods_world import PodWorld, pod_world

from sartor_agents.pods.tools import model_variables
from sartor_api.search.agents import AgentSettings, RoleSettings, as_json
from sartor_api.search.records import Cost, Plan, StepKind, Verdict

RESERVED = Cost(tokens=90_000, money=3.0)


class Books(BaseHTTPRequestHandler):
    """A model proxy that knows what was spent, for those with the grant; it is away for the first `away` requests."""

    away = 0
    asked: list[str] = []  # noqa: RUF012 - of the class, so that the test can read it

    def do_GET(self) -> None:
        Books.asked.append(self.path)
        if Books.away > 0:
            Books.away -= 1
            self.connection.close()
            return
        known = self.headers.get("Authorization") == "Bearer the-grant"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps({"tokens": 41_000, "money": "0.123"}).encode() if known else b"{}")

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodWorld]:
    with pod_world(tmp_path, monkeypatch) as made:
        role = RoleSettings(model="m")
        agents = AgentSettings(backend="openai", roles={"planner": role, "implementer": role, "judge": role})
        made.spec = made.spec.model_copy(update={"agents": as_json(agents)})
        yield made


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables that lead to a proxy."""
    Books.away, Books.asked = 0, []
    (tmp_path / "grant").write_text("the-grant\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Books)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {
        "SARTOR_MODEL_URL": f"http://127.0.0.1:{server.server_port}/v1",
        "SARTOR_MODEL_TOKEN_FILE": str(tmp_path / "grant"),
    }
    server.shutdown()
    server.server_close()


def planned(world: PodWorld, proxy: dict[str, str]) -> Cost:
    world.done(world.begin(StepKind.BASELINE))
    begin = world.begin(StepKind.PLAN, reserve=RESERVED)
    for role in ("history", "planner", "recorder"):
        assert world.run(begin, role, **proxy) == 0, world.said(begin, role)
    report = world.report(begin)
    assert isinstance(report.result, Plan)
    return report.cost


def test_what_a_step_cost_is_what_the_proxy_booked_since_it_began(world: PodWorld, proxy: dict[str, str]) -> None:
    """The scripted planner says 0 tokens of itself."""
    assert planned(world, proxy) == Cost(tokens=41_000, money=0.123)
    assert Books.asked == ["/v1/sartor/spent?since=1750000001.5"]


def test_a_proxy_that_is_away_for_a_moment_is_asked_again(world: PodWorld, proxy: dict[str, str]) -> None:
    Books.away = 2
    assert planned(world, proxy).tokens == 41_000


def test_without_the_books_a_step_costs_all_that_was_reserved(world: PodWorld, proxy: dict[str, str]) -> None:
    Books.away = 100
    assert planned(world, proxy) == RESERVED


def test_a_pod_without_its_grant_says_so(world: PodWorld, proxy: dict[str, str]) -> None:
    world.done(world.begin(StepKind.BASELINE))
    begin = world.begin(StepKind.PLAN)
    world.prepare(begin)
    assert world.run(begin) == 2 and "SARTOR_MODEL_URL is not set" in world.said(begin)


@pytest.mark.parametrize("answer", ["{}", json.dumps({"failure": {"gate": "plan", "passed": True, "reason": "Fine"}})])
def test_an_answer_that_says_nothing_is_no_plan(world: PodWorld, proxy: dict[str, str], answer: str) -> None:
    world.done(world.begin(StepKind.BASELINE))
    begin = world.begin(StepKind.PLAN)
    assert world.run(begin, "history") == 0
    (world.work(begin) / "answer.json").write_text(answer)
    assert world.run(begin, **proxy) == 0
    result = world.report(begin).result
    assert isinstance(result, Verdict) and result.reason == "RoleAnsweredGarbage"


def test_of_a_pods_variables_only_those_to_the_model_are_passed_on() -> None:
    around = {
        "SARTOR_MODEL_URL": "http://p", "SARTOR_MODEL_TOKEN_FILE": "/t", "SARTOR_ISOLATION": "pod", "SARTOR_MODEL": "/model",
        "SARTOR_TOKEN_FILE": "/sartor/identity/token", "SARTOR_SEED_FILE": "/seed", "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    }  # fmt: skip
    assert set(model_variables(around)) == {
        "SARTOR_MODEL_URL",
        "SARTOR_MODEL_TOKEN_FILE",
        "SARTOR_ISOLATION",
        "SARTOR_MODEL",
    }
