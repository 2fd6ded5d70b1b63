"""The model proxy of a run on this machine: one process, however many steps ask for it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from run_fakes import run_spec

from sartor_agents.model_proxy.config import EndpointConfig
from sartor_agents.run import model_proxy
from sartor_agents.run.model_proxy import LocalModelProxy, ModelAccessFile, write_access
from sartor_api.search.agents import AgentSettings, RoleSettings, as_json
from sartor_api.search.decide import Begin
from sartor_api.search.reasons import Reason
from sartor_api.search.records import Cost, RunSpec, StepKind


class Started:
    """Stands for the proxy's process: it listens, on a port of its own, a while after it was started."""

    every: list["Started"]

    def __init__(self, command: tuple[str, ...], **_: Any) -> None:
        self.every.append(self)
        self.alive, self.stopped = True, False
        self.port = 9000 + len(self.every)
        port_file = Path(json.loads(Path(command[-1]).read_text())["port_file"])
        self.listens = threading.Timer(0.05, port_file.write_text, [f"{self.port}\n"])
        self.listens.start()

    def stop(self) -> None:
        self.alive, self.stopped = False, True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    Started.every = []
    monkeypatch.setattr(model_proxy, "GuardedProcess", Started)
    return Started.every


def spec() -> RunSpec:
    role = RoleSettings(model="m", maximum_output_tokens=2000)
    agents = AgentSettings(backend="openai", roles={"planner": role, "implementer": role, "judge": role})
    return run_spec().model_copy(update={"agents": as_json(agents)})


def proxy(folder: Path) -> LocalModelProxy:
    write_access(folder / "models", ModelAccessFile(endpoints=(EndpointConfig(url="http://127.0.0.1:1/v1"),)))
    return LocalModelProxy(folder / "models", spec(), log=folder / "log")


def step(round_number: int, kind: StepKind = StepKind.IMPLEMENT) -> Begin:
    return Begin(
        step=kind, round=round_number, attempt=1, id=f"{round_number:03d}/{kind.value}/1/1", reason=Reason.PLAN_READY,
        deadline_seconds=60.0, reserve=Cost(tokens=10),
    )  # fmt: skip


def test_steps_side_by_side_get_one_proxy_after_it_died(tmp_path: Path, started: list[Started]) -> None:
    with proxy(tmp_path) as models:
        started[0].alive = False
        folders = [tmp_path / str(number) for number in range(8)]
        for folder in folders:
            folder.mkdir()
        together = threading.Barrier(len(folders))

        def ask(number: int) -> str:
            together.wait()
            return models.access(step(number + 1), folders[number])["SARTOR_MODEL_URL"]

        with ThreadPoolExecutor(len(folders)) as pool:
            told = set(pool.map(ask, range(len(folders))))
        assert told == {"http://127.0.0.1:9002/v1"} and len(started) == 2
        assert started[0].stopped, "what is left of the dead one is cleared away"
    assert started[1].stopped


def test_a_step_that_asks_no_model_gets_no_token(tmp_path: Path, started: list[Started]) -> None:
    with proxy(tmp_path) as models:
        assert models.access(step(1, StepKind.JUDGE), tmp_path) == {}
    assert not (tmp_path / "token").exists() and len(started) == 1


def test_a_proxy_that_does_not_start_is_told_and_tried_again(
    tmp_path: Path, started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = proxy(tmp_path)
    monkeypatch.setattr(model_proxy, "START_SECONDS", 0.0)
    monkeypatch.setattr(Started, "tail", lambda *_: "no such key", raising=False)
    with pytest.raises(model_proxy.RoleError, match="did not start: no such key"), models:
        pass
    started[0].listens.join()
    monkeypatch.setattr(model_proxy, "START_SECONDS", 20.0)
    with models:
        assert [one.stopped for one in started] == [True, False]
