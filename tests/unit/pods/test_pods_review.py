"""A judge's pod whose profile asks for a review: the real reviewer's process, the real proxy, a model that is a script."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pods_world import PodWorld, pod_world
from proxy_world import GRANT_KEY, Proxy
from scripted_provider import Call, Provider, Seen, Turn

from sartor_agents.pods import __main__ as pods
from sartor_agents.run.role import role_command
from sartor_api.search.agents import AgentSettings, RoleSettings, as_json
from sartor_api.search.grants import step_grant
from sartor_api.search.records import Budget, Cost, Implementation, Judgement, StepKind
from sartor_api.search.wire import StepBegin, StepReport

ROLE = RoleSettings(model="scripted-1", maximum_output_tokens=1000)
REVIEWING = AgentSettings(
    backend="openai", roles={"planner": ROLE, "implementer": ROLE, "judge": ROLE}, review=True, step_seconds=40.0
)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PodWorld]:
    with pod_world(tmp_path, monkeypatch) as made:
        yield made


def judge(
    world: PodWorld, tmp_path: Path, quote: Callable[[str], dict[str, Any]]
) -> tuple[StepBegin, StepReport, Provider, Cost]:
    """The judge's step of a candidate that passes every gate, reviewed by a model that quotes what `quote` makes of the
    first file that it reads; with what the proxy booked."""
    plan = world.up_to_plan()
    made = world.done(world.begin(StepKind.IMPLEMENT, plan=plan, branch="candidate/001")).result
    assert isinstance(made, Implementation)
    world.spec = world.spec.model_copy(update={"agents": as_json(REVIEWING)})
    begin = world.begin(
        StepKind.JUDGE, commit=made.commit, content_hash=made.content_hash, reserve=Cost(tokens=300_000, money=9.0)
    )

    def program(seen: Seen) -> Turn:
        if not seen.results:
            return Turn(calls=(Call("checklist", {}), Call("read_file", {"path": "stack/__main__.py"})))
        return Turn(text=json.dumps({"findings": [quote(seen.results[1].text)], "summary": "read it"}))

    with Provider(program) as provider, Proxy(tmp_path / "proxy", (provider,)) as proxy:
        grant = step_grant(
            begin.id, run="editor", role="judge", model="scripted-1", reserve=begin.reserve, budget=Budget(),
            expires=time.time() + 600,
        )  # fmt: skip
        (tmp_path / "grant").write_text(grant.signed(GRANT_KEY))
        access = {"SARTOR_MODEL_URL": proxy.url, "SARTOR_MODEL_TOKEN_FILE": str(tmp_path / "grant")}
        for variable, value in world.environment(begin, "judge", **access).items():
            world.monkeypatch.setenv(variable, value)
        fake = world.tools()
        real = replace(fake, command=lambda role: role_command(role) if role == "reviewer" else fake.command(role))
        assert pods.main(["judge"], real) == 0, world.said(begin)
        books = proxy.books()["runs"]["editor"]
    return begin, world.report(begin), provider, Cost(tokens=books["tokens"], money=float(books["money"]))


def first_line(text: str) -> dict[str, Any]:
    line = next(one for one in text.splitlines() if "import" in one)
    number, _, words = line.partition("\t") if "\t" in line else ("2", "", line)
    return {
        "cheat": "canned-answer", "path": "stack/__main__.py", "line": int(number.strip() or 2), "quote": words.strip(),
        "explanation": "it stands there", "certain": True,
    }  # fmt: skip


def test_what_it_can_quote_rejects_and_what_it_cost_is_the_proxys_word(world: PodWorld, tmp_path: Path) -> None:
    begin, report, provider, booked = judge(world, tmp_path, first_line)
    assert isinstance(report.result, Judgement)
    rejected = report.result.verdicts[-1]
    assert (rejected.gate, rejected.passed, rejected.reason) == ("review", False, "ReviewRejected"), rejected
    assert all(one.passed for one in report.result.verdicts[:-1])
    assert report.cost == booked and booked.tokens == sum(one.input + one.output for one in provider.paid) > 0
    kept = json.loads(world.stored(report.commit, f"steps/{begin.id.replace('/', '-')}/review.json", sealed=True))
    assert kept["review"]["summary"] == "read it"


def test_what_is_not_there_rejects_nothing(world: PodWorld, tmp_path: Path) -> None:
    _, report, _, booked = judge(
        world, tmp_path, lambda text: first_line(text) | {"quote": "if request.headers['x-checker']:"}
    )
    assert isinstance(report.result, Judgement) and report.result.passed and report.cost == booked
