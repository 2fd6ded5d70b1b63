"""`sartor evaluate`: the gates over servers that Sartor did not make."""

import asyncio
import json
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_servers import Behaviour, serving
from typer.testing import CliRunner

from sartor_agents.cli.exits import ExitCode
from sartor_agents.cli.main import app
from sartor_agents.evaluate.gates import PRESETS, Options, endpoint, evaluate_server, listener
from sartor_agents.measurement.policy import MeasurementPolicy
from sartor_agents.run.errors import BadRequestError, RunError
from sartor_api.search.records import FailureClass

ROLE = """
import json, sys
from pathlib import Path
role, behaviour, source, target = sys.argv[1:5]
request = json.loads(Path(source).read_text())
Path(sys.argv[0]).with_name(f"{role}.json").write_text(json.dumps(request))
arm = {"metric": 100.0, "requests": 4, "ttft_p50": 0.01}
ratio = {"value": 2.0, "low": 1.9, "high": 2.1, "n": 8}
judged = {"gate": "accuracy", "passed": True, "reason": "Passed"}
if behaviour == "wrong":
    judged = {**judged, "passed": False, "reason": "OutputDiverged", "failure_class": "candidate", "message": "no"}
if behaviour == "blind":
    judged = {**judged, "passed": False, "reason": "Internal", "failure_class": "infrastructure", "message": "no torch"}
single = {"objective": 100.0, "metric": "outputTokensPerSecond", "arms": {"c1": arm}}
conditions = [{"name": "c1", "ratio": ratio, "candidate": arm, "baseline": arm}]
paired = {"measurement": {"metric": "outputTokensPerSecond", "speedup": ratio, "conditions": conditions}}
failed = {"reason": "Contended", "message": "busy", "failure_class": "measurement"}
if behaviour == "crash":
    sys.exit(3)
if role == "judge":
    response = {"judgement": {"verdicts": [judged]}}
elif behaviour == "disturbed":
    response = failed
else:
    response = {"reason": "Measured", "message": "fine", **(single if request["mode"] == "single" else paired)}
Path(target).write_text(json.dumps(response))
"""
URL = "http://192.0.2.1:8000"


@contextmanager
def running(model_dir: Path, behaviour: Behaviour) -> Generator[str]:
    """A fake server in a thread of its own."""
    ready, ended, found = threading.Event(), threading.Event(), list[str]()

    async def run() -> None:
        async with serving(model_dir, behaviour) as server:
            found.append(server.url)
            ready.set()
            while not ended.is_set():
                await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(20)
    try:
        yield found[0]
    finally:
        ended.set()
        thread.join()


class Asked:
    """`evaluate_server` with roles that are small programs."""

    def __init__(self, folder: Path, model_dir: Path, behaviour: str = "good") -> None:
        self.folder, self.model_dir = folder, model_dir
        (folder / "role.py").write_text(ROLE)
        self.command = lambda role: (sys.executable, str(folder / "role.py"), role, behaviour)

    def __call__(self, **options: Any) -> Any:
        whole = Options(**{"url": URL, "model_dir": self.model_dir, "folder": self.folder / "out", **options})
        return evaluate_server(whole, lambda _: None, command=self.command)

    def request(self, role: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{role}.json").read_text())


def test_one_server_is_judged_and_measured_alone(tmp_path: Path, chain_model: Path) -> None:
    asked = Asked(tmp_path, chain_model)
    result = asked(parameters=("concurrencies=[1,4]", "api=chat"), preset="quick")
    assert result.judged_well and result.unmeasured is None and result.response.arms["c1"].metric == 100.0
    request = asked.request("evaluator")
    assert request["mode"] == "single" and request["baseline"] is None
    assert request["scenario"]["parameters"]["concurrencies"] == [1, 4]
    assert request["scenario"]["parameters"]["api"] == "chat"
    assert request["candidate"]["accepts_prediction"] is False
    assert request["seed"] != asked.request("judge")["seed"]


def test_two_servers_are_measured_in_pairs(tmp_path: Path, chain_model: Path) -> None:
    asked = Asked(tmp_path, chain_model)
    result = asked(against="http://192.0.2.2:8000", prediction=True)
    assert result.response.measurement.speedup.value == 2.0
    request = asked.request("evaluator")
    assert request["mode"] == "paired" and request["baseline"]["url"] == "http://192.0.2.2:8000"
    assert request["candidate"]["accepts_prediction"] and not request["baseline"]["accepts_prediction"]


def test_wrong_answers_are_not_timed(tmp_path: Path, chain_model: Path) -> None:
    result = Asked(tmp_path, chain_model, "wrong")()
    assert not result.judged_well and result.response is None and not (tmp_path / "evaluator.json").exists()


@pytest.mark.parametrize(("behaviour", "words"), [("crash", "RoleFailed"), ("blind", "no torch")])
def test_a_judge_that_could_not_look_says_nothing_of_the_server(
    tmp_path: Path, chain_model: Path, behaviour: str, words: str
) -> None:
    with pytest.raises(RunError, match=words):
        Asked(tmp_path, chain_model, behaviour)()


def test_a_measurement_that_could_not_be_made_is_not_the_servers_fault(tmp_path: Path, chain_model: Path) -> None:
    result = Asked(tmp_path, chain_model, "disturbed")(only="measure")
    assert result.unmeasured == "Contended: busy" and not result.blamed and result.judgement is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scenario": "poetry"}, "poetry"),
        ({"parameters": ("concurrencies",)}, "NAME=VALUE"),
        ({"parameters": ("concurrencies=[0]",)}, "concurrencies"),
        ({"parameters": ("colour=red",)}, "colour"),
        ({"preset": "slow"}, "quick, default, thorough"),
        ({"only": "guess"}, "judge and measure"),
        ({"url": "https://example.invalid"}, "http://HOST:PORT"),
        ({"url": "http://h:1/v1"}, "without a path"),
        ({"model_dir": Path("/nowhere")}, "config.json"),
    ],
)
def test_bad_options_are_a_sentence(tmp_path: Path, chain_model: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequestError, match=words.replace(".", r"\.")):
        Asked(tmp_path, chain_model)(**options)


def test_a_server_of_this_machine_is_known_by_its_process(chain_model: Path) -> None:
    import os

    with running(chain_model, Behaviour()) as url:
        assert listener(url) == os.getpid() == endpoint(url, "candidate", None, takes_prediction=False).pid
    assert listener(URL) is None


@pytest.mark.slow
def test_real_gates_let_an_honest_server_pass_and_a_wrong_one_not(
    chain_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = {"maximum_contention": 1.0, "maximum_generator_share": 100.0, "maximum_generator_lag": 1e6}
    monkeypatch.setitem(PRESETS, "quick", lambda: MeasurementPolicy.quick(**blind))  # to this machine's other load

    def sartor(url: str, *more: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(
            app,
            ["evaluate", url, "--model", str(chain_model), "--preset", "quick", "--json", "-p", "concurrencies=[2]",
             "-p", "outputTokens=16", "-p", "promptTokens=16", "--samples", "4", "--only", *more],
        )  # fmt: skip
        return done.exit_code, json.loads(done.stdout) if done.stdout.startswith("{") else {"output": done.output}

    with running(chain_model, Behaviour(token_seconds=0.002)) as url:
        code, said = sartor(url, "measure")
        assert code == 0, said
        arm = said["measurement"]["arms"]["c2"]
        assert arm["failed"] == 0 and arm["requests"] > 4 and arm["ttft_p50"] > 0
    with running(chain_model, Behaviour(wrong_token_at=3)) as url:
        code, said = sartor(url, "judge")
        assert code == ExitCode.NOT_PROVEN, said
        failed = [verdict for verdict in said["judgement"]["verdicts"] if not verdict["passed"]]
        assert failed[0]["reason"] == "OutputDiverged"
        assert failed[0]["failure_class"] == FailureClass.CANDIDATE.value
