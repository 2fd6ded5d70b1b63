"""`sartor codex`: the Codex CLI, for the agent backend of that name."""

import typer

from sartor_agents.backends.codex.install import CodexMissingError, ensure_codex
from sartor_agents.cache import cache_folder
from sartor_agents.cli.exits import user_errors
from sartor_agents.run.errors import BadRequestError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The Codex CLI, for the agent backend of that name."""


@app.command()
@user_errors
def setup() -> None:
    """Install the pinned version with npm into the cache folder ($SARTOR_CACHE, else ~/.cache/sartor); nothing if it is
    there."""
    try:
        codex = ensure_codex(cache_folder(), lambda line: typer.echo(line, err=True))
    except CodexMissingError as error:
        raise BadRequestError(str(error)) from error
    typer.echo(f"Codex CLI {codex.version} is ready ({codex.program})")
