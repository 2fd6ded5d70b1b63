"""`sartor checkpoint`: checkpoints that Sartor makes itself."""

from pathlib import Path
from typing import Annotated

import typer

from sartor_agents import checkpoints
from sartor_agents.cli.exits import user_errors

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Checkpoints that Sartor makes itself."""


@app.command()
@user_errors
def make(
    out: Annotated[Path, typer.Option("--out", help="folder to make; must not exist", show_default=False)],
    kind: Annotated[checkpoints.Kind, typer.Option(help="what kind of weights")] = checkpoints.Kind.CHAIN,
    architecture: Annotated[checkpoints.Architecture, typer.Option()] = checkpoints.Architecture.LLAMA,
    size: Annotated[str, typer.Option(help=f"one of {', '.join(checkpoints.SIZES)}")] = "52m",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "bfloat16",
    minutes: Annotated[float, typer.Option(min=0.1, help="longest training, for tinyTrained")] = 3.0,
) -> None:
    """Make a checkpoint in Hugging Face layout; `transformers` and vLLM load it unchanged."""
    made = checkpoints.make(kind, architecture, size, seed, out, dtype=dtype, minutes=minutes)
    typer.echo(f"{made.path}: {made.parameters:,} parameters, {made.bytes:,} bytes, sha256 {made.sha256}")
