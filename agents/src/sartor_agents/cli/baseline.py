"""`sartor baseline`: the engine that a stack has to beat."""

import typer

from sartor_agents.baselines.environment import BaselineEnvironmentError, ensure_environment
from sartor_agents.cache import cache_folder
from sartor_agents.cli.exits import user_errors
from sartor_agents.run.errors import BadRequestError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The engine that a stack has to beat."""


@app.command()
@user_errors
def setup() -> None:
    """Make vLLM's own environment in the cache folder ($SARTOR_CACHE, else ~/.cache/sartor); nothing if it is there."""
    try:
        environment = ensure_environment(cache_folder(), lambda line: typer.echo(line, err=True))
    except BaselineEnvironmentError as error:
        raise BadRequestError(f"vLLM's environment: {error}") from error
    typer.echo(f"vLLM {environment.version} is ready ({environment.python})")
