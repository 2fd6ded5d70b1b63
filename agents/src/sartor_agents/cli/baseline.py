"""`sartor baseline`: the engine that a stack has to beat."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sartor_agents.baselines.environment import BaselineEnvironmentError, ensure_environment, remember
from sartor_agents.cache import cache_folder
from sartor_agents.cli.exits import user_errors
from sartor_agents.run.errors import BadRequestError

app = typer.Typer(no_args_is_help=True)


class Platform(StrEnum):
    """Where vLLM computes."""

    CPU = "cpu"
    CUDA = "cuda"


@app.callback()
def _group() -> None:
    """The engine that a stack has to beat."""


@app.command()
@user_errors
def setup(
    platform: Annotated[Platform, typer.Option("--platform", help="what vLLM is to compute on")] = Platform.CPU,
    python: Annotated[
        Path | None,
        typer.Option(
            "--python",
            help="interpreter of an environment that has vLLM already: nothing is installed, it is checked and remembered",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make vLLM's own environment in the cache folder ($SARTOR_CACHE, else ~/.cache/sartor); nothing if it is there."""
    try:
        if python is not None:
            environment = remember(cache_folder(), platform.value, python)
        else:
            environment = ensure_environment(cache_folder(), lambda line: typer.echo(line, err=True), platform.value)
    except BaselineEnvironmentError as error:
        raise BadRequestError(f"vLLM's environment: {error}") from error
    typer.echo(f"vLLM {environment.version} is ready ({environment.python})")
