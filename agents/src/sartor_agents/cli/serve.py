"""`sartor serve`: the winner of a run, with the baseline behind it."""

import time
from pathlib import Path
from typing import Annotated

import typer

from sartor_agents.baselines.find import find_engine
from sartor_agents.cli.exits import user_errors
from sartor_agents.run import session
from sartor_agents.run.serving import serve_run


@user_errors
def serve(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="folder of the run")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the stack on 127.0.0.1")] = 8000,
    baseline_port: Annotated[int, typer.Option(min=0, max=65535, help="port of the baseline; 0 takes a free one")] = 0,
    no_baseline: Annotated[
        bool,
        typer.Option("--no-baseline", help="serve the stack alone: what it does not take is refused"),
    ] = False,
) -> None:
    """Serve the winner; requests outside its envelope go to the baseline. Ctrl-C drains and ends both."""
    layout, repository = session.open_run(directory)
    serve_run(
        layout,
        repository,
        port=port,
        baseline_port=baseline_port,
        find_engine=None if no_baseline else find_engine,
        say=lambda text: print(text, flush=True),
        wait=time.sleep,
    )
