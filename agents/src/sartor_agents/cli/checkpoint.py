"""`sartor checkpoint make`: checkpoints that Sartor makes itself."""

from pathlib import Path
from typing import Annotated

import typer

from sartor_agents.checkpoints import SIZES, Architecture, Kind, make
from sartor_agents.cli.exits import user_errors

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def checkpoint() -> None:
    """Checkpoints that Sartor makes itself."""


@app.command("make")
@user_errors
def make_command(
    out: Annotated[Path, typer.Option(help="the folder to make; it must not exist yet")],
    kind: Annotated[
        str, typer.Option(help=f"{', '.join(Kind)} (chain: greedy text known in advance, full compute cost)")
    ] = Kind.CHAIN,
    architecture: Annotated[str, typer.Option(help=", ".join(Architecture))] = Architecture.LLAMA,
    size: Annotated[str, typer.Option(help=", ".join(SIZES))] = "52m",
    seed: Annotated[int, typer.Option(help="of the weights and words")] = 0,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32")] = "bfloat16",
    eos_every: Annotated[
        int | None, typer.Option(help="chain: end of sequence follows every so many words; by default never")
    ] = None,
    minutes: Annotated[float, typer.Option(help="tinyTrained: time for training")] = 3.0,
    steps: Annotated[
        int | None, typer.Option(help="tinyTrained: exactly so many steps, whatever time it takes")
    ] = None,
) -> None:
    """Make a checkpoint in Hugging Face layout, which transformers and vLLM load unchanged."""
    made = make(kind, architecture, size, seed, out, dtype=dtype, eos_every=eos_every, minutes=minutes, steps=steps)
    print(f"path        {made.path}")
    print(f"parameters  {made.parameters:,}")
    print(f"bytes       {made.bytes:,}")
    print(f"sha256      {made.sha256}")
