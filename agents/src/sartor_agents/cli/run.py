"""`sartor run`: search, prove and deliver a stack."""

import json
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sartor_agents.baselines.find import find_engine
from sartor_agents.cli.exits import OUTCOMES, ExitCode, user_errors
from sartor_agents.cli.views import view
from sartor_agents.evidence.signing import read_private_key
from sartor_agents.run import events, session
from sartor_agents.run.agents import AgentChoice
from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.seeds import carry_out, prepare
from sartor_api.search.records import Finished, Outcome


class Policy(StrEnum):
    """The search policies, as `spec.search.policy` names them."""

    TRAJECTORY = "trajectory"
    EVOLUTIONARY = "evolutionary"
    ISSUE_QUEUE = "issue-queue"


class Agents(StrEnum):
    """Who writes the code."""

    PLAYBOOK = "playbook"
    OPENAI = "openai"
    CODEX = "codex"


class Api(StrEnum):
    """The protocol of an endpoint."""

    RESPONSES = "responses"
    CHAT_COMPLETIONS = "chatCompletions"


@user_errors
def run(
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="manifest with one ServingSynthesis", show_default=False)
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="folder of the run [default: runs/NAME]", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --dir")] = False,
    json_lines: Annotated[bool, typer.Option("--json", help="print one JSON event a line")] = False,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=0, help="instead of spec.budget.rounds", show_default=False)
    ] = None,
    no_skills: Annotated[
        bool, typer.Option("--no-skills", help="let the agents work without skills (an ablation)")
    ] = False,
    policy: Annotated[
        Policy | None, typer.Option("--policy", help="instead of spec.search.policy", show_default=False)
    ] = None,
    parallelism: Annotated[
        int | None,
        typer.Option(
            "--parallelism",
            min=1,
            max=32,
            help="candidates in work at the same time, instead of spec.search.parallelism",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", min=2, max=1000, help="run so many times, with one search seed each", show_default=False
        ),
    ] = None,
    agents: Annotated[
        Agents | None,
        typer.Option("--agents", help="who writes the code, instead of spec.agents.profileRef", show_default=False),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            help="address of an OpenAI-compatible model, with its version (https://HOST/v1); again for one that takes over",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="name of the agents' model", show_default=False)] = None,
    api: Annotated[Api | None, typer.Option("--api", help="protocol of the endpoint", show_default=False)] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="file with the endpoint's key [default: OPENAI_API_KEY]", show_default=False),
    ] = None,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="Ed25519 private key (PEM) that the winner's evidence is signed with", show_default=False),
    ] = None,
) -> None:
    """Write a serving stack for one model, workload and machine; prove it; measure it against the baseline.

    The machine is this one: its CPU, or with a HardwareTarget of platform cuda in the manifest one of its NVIDIA devices.

    Exit code 0: a speed-up was confirmed. 3: none found. 4: not confirmed. 5: the run failed. 2: bad input.
    6: the folder is in use or no run. 7: its repository is damaged. 8: disk full. 130: interrupted (--resume goes on).

    With --seeds the runs lie in seed-NNNN below --dir, and the same command goes on with them; exit code 0 if any of them
    confirmed a speed-up, else that of the last.
    """
    key = read_private_key(signing_key) if signing_key is not None else None
    choice = AgentChoice(
        backend=None if agents is None else agents.value,
        endpoints=tuple(endpoint or ()),
        model=model,
        api=None if api is None else api.value,
        key_file=key_file,
    )
    if resume:
        if directory is None:
            raise BadRequestError("--resume needs --dir", "name the folder of the run to go on with")
        if seeds is not None:
            raise BadRequestError("--seeds goes on by itself", "leave --resume out and repeat the first command")
        if rounds is not None or no_skills or policy is not None or parallelism is not None or choice.given:
            raise BadRequestError(
                "--resume goes on with what the run was started with",
                "leave --rounds, --policy, --parallelism, --no-skills and the agents' options out",
            )
        _, repository = session.open_run(directory)
        if file is not None:
            session.check_same(file, repository)
    else:
        if file is None:
            raise BadRequestError("-f is missing", "name a manifest: sartor run -f examples/code-edit/quickstart.yaml")
        synthesis, _ = session.read_synthesis(file)
        directory = directory or Path("runs") / synthesis.name
        chosen = None if policy is None else policy.value
        options = session.Options(
            rounds=rounds,
            skills=False if no_skills else None,
            policy=chosen,
            parallelism=parallelism,
            agents=choice,
        )
        if seeds is not None:
            raise typer.Exit(_several(file, directory, options, seeds, key, json_lines=json_lines))
        session.create(file, directory, options)
    raise typer.Exit(OUTCOMES[_one(directory, key, json_lines=json_lines).outcome])


def _one(directory: Path, key: Ed25519PrivateKey | None, *, json_lines: bool) -> Finished:
    with view(json_lines=json_lines) as emit:
        try:
            return session.drive(directory, emit, find_engine=find_engine, signing_key=key)
        except KeyboardInterrupt:
            emit(events.Interrupted(at=time.time(), run=str(directory)))
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _several(
    file: Path,
    directory: Path,
    options: session.Options,
    number: int,
    key: Ed25519PrivateKey | None,
    *,
    json_lines: bool,
) -> ExitCode:
    runs = prepare(file, directory, options, number)
    spread = carry_out(runs, directory, lambda folder: _one(folder, key, json_lines=json_lines))
    if json_lines:
        print(json.dumps({"event": "spread", "text": str(spread), "file": str(directory / "spread.json")}), flush=True)
    else:
        print(f"{spread}\nspread: {directory / 'spread.json'}", flush=True)
    return ExitCode.CONFIRMED if spread.confirmed else OUTCOMES[Outcome(spread.results[-1].outcome)]
