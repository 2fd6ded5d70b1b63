"""`sartor verify`: what it prints, what it exits with, and when a claim holds after measuring again."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from evidence_world import World
from typer.testing import CliRunner

from sartor_agents.cli.exits import ExitCode
from sartor_agents.cli.main import app
from sartor_agents.evidence.deliver import deliver
from sartor_agents.evidence.remeasure import compare, conclude
from sartor_agents.measurement.messages import EvaluateResponse, Reason
from sartor_agents.run.errors import RunError
from sartor_agents.run.repository import RunRepository
from sartor_api.search.records import FailureClass, Speedup


def sartor(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    return done.exit_code, done.output


def test_a_bundle_that_holds_exits_with_0_and_says_what_was_looked_at(world: World) -> None:
    code, output = sartor(world.evidence, "--model", world.model_dir)
    assert code == 0 and "confirm-figures" in output and "FAILS" not in output
    code, output = sartor(world.evidence, "--json")
    said = json.loads(output)
    assert code == 0 and said["holds"] and f"{said['bundle']}.tar" == world.evidence.name and said["remeasured"] is None


def test_a_bundle_that_was_changed_exits_with_9(world: World, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(world.content[:-1] + b"x")
    code, output = sartor(tmp_path / "b.tar")
    assert code == ExitCode.NOT_PROVEN and "FAILS" in output
    code, output = sartor(tmp_path / "b.tar", "--json")
    assert code == ExitCode.NOT_PROVEN and json.loads(output)["holds"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.tar",), "cannot be read"),
        (("{folder}",), "is not a file"),
        (("{bundle}", "--key", "missing.pem"), "missing.pem"),
        (("{bundle}", "--model", "{folder}"), "config.json"),
        (("{bundle}", "--remeasure"), "--model DIR"),
    ],
)
def test_bad_options_are_a_sentence(world: World, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    known = {"{bundle}": str(world.evidence), "{folder}": str(tmp_path)}
    code, output = sartor(*(known.get(one, one) for one in arguments))
    assert code == ExitCode.BAD_REQUEST and words in output and "Traceback" not in output


def test_a_run_signs_with_the_users_key_and_verify_asks_for_it(world: World, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    public = tmp_path / "public.pem"
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    repository = RunRepository(world.layout.repository)
    run = repository.load().state(0.0)
    path = deliver(run, world.layout, repository, world.model_dir, key)
    assert path is not None and Path(path) != world.evidence
    code, output = sartor(path, "--key", public)
    assert code == 0 and "signed with the key" in output
    code, output = sartor(world.evidence, "--key", public)
    assert code == ExitCode.NOT_PROVEN and "not signed" in output


# --- measuring again -----------------------------------------------------------------------------------------------------


def speedup(low: float, value: float, high: float) -> Speedup:
    return Speedup(value=value, low=low, high=high, n=8)


@pytest.mark.parametrize(
    ("again", "holds", "words"),
    [
        ((2.1, 2.3, 2.5), True, "the claim holds:"),
        ((2.55, 2.7, 2.9), True, "more than it"),
        ((1.7, 1.8, 1.95), False, "does not hold"),
        ((0.9, 1.6, 2.2), False, "was not shown again"),
    ],
)
def test_what_a_new_measurement_says_of_a_claim(again: tuple[float, ...], holds: bool, words: str) -> None:
    result = compare(speedup(2.0, 2.2, 2.5), speedup(*again), 1.02)
    assert result.holds is holds and words in result.message


def test_a_measurement_that_could_not_be_made_says_nothing_of_the_claim(world: World) -> None:
    spec = RunRepository(world.layout.repository).load().spec
    claimed = speedup(2.0, 2.2, 2.5)
    disturbed = EvaluateResponse(reason=Reason.CONTENDED, message="busy", failure_class=FailureClass.MEASUREMENT)
    with pytest.raises(RunError, match="Contended"):
        conclude(claimed, None, disturbed, spec)
    wrong = EvaluateResponse(reason=Reason.OUTPUT_DIVERGED, message="x", failure_class=FailureClass.CANDIDATE)
    assert conclude(claimed, None, wrong, spec).holds is False
