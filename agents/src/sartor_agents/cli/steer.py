"""`sartor steer`: say what you want of a run that is under way."""

from typing import Annotated

import typer

from sartor_agents.cli.exits import user_errors
from sartor_agents.cli.inspect import RunFolder
from sartor_agents.run import session
from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.steering import write_control


@user_errors
def steer(
    directory: RunFolder,
    message: Annotated[
        str | None,
        typer.Option(
            "--message", help="a word to the planner, told with each plan; '' takes it back", show_default=False
        ),
    ] = None,
    pause: Annotated[
        bool | None,
        typer.Option("--pause/--resume", help="hold after the step in flight, or go on", show_default=False),
    ] = None,
    stop_after_round: Annotated[
        bool | None,
        typer.Option(
            "--stop-after-round/--no-stop-after-round",
            help="finish the round, confirm the best, and end; or take that back",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Steer a run: a word to its planner, pause and resume, stop after the round. Works from another terminal."""
    layout, repository = session.open_run(directory)
    if (finished := repository.load().finished) is not None:
        raise BadRequestError(f"{directory} has ended ({finished.outcome.value})", "start a new run to go on")
    wishes = {"message": message, "pause": pause, "stop_after_round": stop_after_round}
    changes = {name: value for name, value in wishes.items() if value is not None}
    if not changes:
        raise BadRequestError("nothing is asked for", "use --message, --pause, --resume or --stop-after-round")
    now = write_control(layout, **changes)
    held = "paused" if now.pause else "not paused"
    stop = "; ends after the round" if now.stop_after_round else ""
    word = f"; message: {now.message}" if now.message else ""
    print(f"{held}{stop}{word}")
