"""The pods around the real roles: the playbook plans and writes a stack, the evaluator measures it over HTTP."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import fake_servers
import pytest
from pods_world import PodWorld, pod_world
from run_fakes import HARDWARE

from sartor_agents.measurement.sample_file import read_samples
from sartor_agents.pods import __main__ as pods
from sartor_agents.run.role import role_command
from sartor_api.search.records import Implementation, Measurement, Plan, StepKind
from sartor_api.search.wire import StepBegin


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chain_model: Path) -> Iterator[PodWorld]:
    with pod_world(tmp_path, monkeypatch) as made:
        overrides = {
            "replicates_min": 2, "replicates_max": 2, "confidence": 0.6, "window_seconds": 0.5, "verify_outputs": 0,
            "maximum_contention": 1.0, "maximum_contention_difference": 1.0, "invalid_pairs_max": 20,
            "maximum_generator_share": 100.0, "maximum_generator_lag": 1e6,
        }  # fmt: skip
        made.spec = made.spec.model_copy(
            update={
                "scenario": "code-edit",
                "parameters": {"file_tokens": 24, "match_rates": [90], "without_prediction": False},
                "measurement": {"preset": "quick", "overrides": overrides},
            }
        )
        yield made


@contextmanager
def two_servers(model: Path) -> Iterator[tuple[str, str]]:
    """Addresses of a candidate and of a baseline that takes five times as long for a token."""
    ready, over, urls = threading.Event(), threading.Event(), list[str]()

    async def serve() -> None:
        fast, slow = (fake_servers.Behaviour(token_seconds=seconds) for seconds in (0.002, 0.01))
        async with fake_servers.serving(model, fast) as mine, fake_servers.serving(model, slow) as theirs:
            urls.extend((mine.url, theirs.url))
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(20)
        yield urls[0], urls[1]
    finally:
        over.set()
        thread.join(20)


def with_real_roles(world: PodWorld, begin: StepBegin, role: str, **changed: str | None) -> int:
    real = replace(
        world.tools(), command=role_command, hardware=lambda: HARDWARE.model_copy(update={"cpu_flags": ("avx2",)})
    )
    for variable, value in world.environment(begin, role, **changed).items():
        world.monkeypatch.setenv(variable, value)
    return int(pods.main([role], real))


@pytest.mark.slow
def test_the_playbook_plans_writes_and_is_measured(world: PodWorld, chain_model: Path) -> None:
    world.done(world.begin(StepKind.BASELINE))
    model = str(chain_model)
    begin = world.begin(StepKind.PLAN)
    for role in ("history", "planner", "recorder"):
        world.monkeypatch.delenv("SARTOR_TOKEN_FILE", raising=False)
        assert with_real_roles(world, begin, role, SARTOR_MODEL=model) == 0, world.said(begin, role)
    plan = world.report(begin).result
    assert isinstance(plan, Plan), plan
    assert plan.recipes and plan.action == "build"

    begin = world.begin(StepKind.IMPLEMENT, plan=plan)
    for role in ("source", "implementer", "committer"):
        world.monkeypatch.delenv("SARTOR_TOKEN_FILE", raising=False)
        assert with_real_roles(world, begin, role, SARTOR_MODEL=model) == 0, world.said(begin, role)
    done = world.report(begin)
    assert isinstance(done.result, Implementation), done.result
    assert "stack/stack.toml" in world.git.ok(
        None, f"--git-dir={world.git.root}/team-a/editor-1/open.git", "ls-tree", "-r", "--name-only", done.result.commit
    )

    begin = world.begin(StepKind.EVALUATE, commit=done.result.commit, content_hash=done.result.content_hash)
    with two_servers(chain_model) as (candidate, baseline):
        urls = {"SARTOR_CANDIDATE_URL": candidate, "SARTOR_BASELINE_URL": baseline}
        assert with_real_roles(world, begin, "evaluator", SARTOR_MODEL=model, **urls) == 0, world.said(begin)
    report = world.report(begin)
    assert isinstance(report.result, Measurement) and report.result.speedup is not None, report.result
    assert report.result.speedup.value > 1.5
    kept = world.root / "samples.parquet"
    kept.write_bytes(world.stored(report.commit, f"steps/{begin.id.replace('/', '-')}/samples.parquet", sealed=True))
    assert len(list(read_samples(kept))) > 2
