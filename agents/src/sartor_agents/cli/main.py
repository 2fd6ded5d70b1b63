"""The entry point `sartor`."""

import typer

from sartor_agents.cli import (
    baseline,
    checkpoint,
    codex,
    evaluate,
    evidence,
    inspect,
    run,
    serve,
    skills,
    steer,
    verify,
)
from sartor_agents.cli.exits import terminate_like_interrupt

app = typer.Typer(
    name="sartor",
    help="Have a bespoke LLM serving stack written for one model, one workload and one machine, and proven.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run.run)
app.command()(serve.serve)
app.command()(steer.steer)
app.command()(inspect.status)
app.command()(inspect.report)
app.command()(skills.skills)
app.command()(evidence.evidence)
app.command()(verify.verify)
app.command()(evaluate.evaluate)
app.add_typer(baseline.app, name="baseline", help="The engine that a stack has to beat.")
app.add_typer(codex.app, name="codex", help="The Codex CLI, for the agent backend of that name.")
app.add_typer(checkpoint.app, name="checkpoint", help="Checkpoints that Sartor makes itself.")


def main() -> None:
    """Run the command line; never returns."""
    terminate_like_interrupt()
    app()
