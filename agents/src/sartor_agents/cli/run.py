"""`sartor run`: search, prove and deliver a stack."""

import time
from pathlib import Path
from typing import Annotated

import typer

from sartor_agents.baselines.find import find_engine
from sartor_agents.cli.exits import OUTCOMES, ExitCode, user_errors
from sartor_agents.cli.views import view
from sartor_agents.evidence.signing import read_private_key
from sartor_agents.run import events, session
from sartor_agents.run.errors import BadRequestError


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
    signing_key: Annotated[
        Path | None,
        typer.Option(help="Ed25519 private key (PEM) that the winner's evidence is signed with", show_default=False),
    ] = None,
) -> None:
    """Write a serving stack for one model, workload and machine; prove it; measure it against the baseline.

    Exit code 0: a speed-up was confirmed. 3: none found. 4: not confirmed. 5: the run failed. 2: bad input.
    6: the folder is in use or no run. 7: its repository is damaged. 8: disk full. 130: interrupted (--resume goes on).
    """
    key = read_private_key(signing_key) if signing_key is not None else None
    if resume:
        if directory is None:
            raise BadRequestError("--resume needs --dir", "name the folder of the run to go on with")
        if rounds is not None or no_skills:
            raise BadRequestError(
                "--resume goes on with what the run was started with", "leave --rounds and --no-skills out"
            )
        _, repository = session.open_run(directory)
        if file is not None:
            session.check_same(file, repository)
    else:
        if file is None:
            raise BadRequestError("-f is missing", "name a manifest: sartor run -f examples/code-edit/quickstart.yaml")
        synthesis, _ = session.read_synthesis(file)
        directory = directory or Path("runs") / synthesis.name
        session.create(file, directory, session.Options(rounds=rounds, skills=False if no_skills else None))
    with view(json_lines=json_lines) as emit:
        try:
            finished = session.drive(directory, emit, find_engine=find_engine, signing_key=key)
        except KeyboardInterrupt:
            emit(events.Interrupted(at=time.time(), run=str(directory)))
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    raise typer.Exit(OUTCOMES[finished.outcome])
