"""`sartor skills`: what agents can look up, and what it was worth in runs that were made."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sartor_agents.cli.exits import user_errors
from sartor_agents.run import session
from sartor_api.search.skill_effects import pooled, skill_effects
from sartor_api.search.state import RunState
from sartor_skills.catalog import Setting, load_catalog
from sartor_skills.library import library_root


@user_errors
def skills(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="folders of runs", show_default=False)
    ] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", help="only those that apply there", show_default=False)
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="only those that apply to it", show_default=False)
    ] = None,
) -> None:
    """List the skills. With RUN: how often each was read, used and rejected there, and what it gained where it came in.

    The gain is the ratio of a candidate that uses a skill to its parent that does not, by the runs' own measurements. Runs
    of the same manifest with and without --no-skills show what all of them are worth together.
    """
    catalog = load_catalog(library_root()).applying(Setting(platform=platform, scenario=scenario))
    effects = {one.name: one for one in pooled(skill_effects(_state(run)) for run in runs or ())}
    table = Table(box=None, pad_edge=False)
    for name in ("skill", *(("read", "used", "rejected", "gain") if runs else ("what it is for",))):
        table.add_column(name, overflow="fold")
    for name, description in catalog.index():
        if not runs:
            table.add_row(name, escape(description))
        elif (one := effects.get(name)) is not None:
            gain = "-" if one.gain is None else f"{one.gain.value:.2f}x [{one.gain.low:.2f}, {one.gain.high:.2f}]"
            table.add_row(name, str(one.consulted), str(one.used), str(one.rejected), gain)
    Console().print(table)


def _state(directory: Path) -> RunState:
    _, repository = session.open_run(directory)
    return repository.load().state(0.0)
