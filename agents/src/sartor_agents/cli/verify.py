"""`sartor verify`: check a winner's evidence, and measure again on request."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sartor_agents.baselines.find import find_engine
from sartor_agents.cli.exits import ExitCode, user_errors
from sartor_agents.evidence import archive
from sartor_agents.evidence.check import Checked, check
from sartor_agents.evidence.errors import BundleUnreadableError
from sartor_agents.evidence.findings import Outcome
from sartor_agents.evidence.remeasure import Remeasured, remeasure
from sartor_agents.evidence.signing import read_public_key
from sartor_agents.run.errors import BadRequestError

_MARK: dict[Outcome, str] = {"holds": "[green]holds[/]", "fails": "[red]FAILS[/]", "unchecked": "[yellow]unchecked[/]"}


@user_errors
def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="the tar that a run wrote into its folder evidence/")
    ],
    key: Annotated[
        Path | None, typer.Option(help="Ed25519 public key (PEM) that it must be signed with", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="folder of the model, to compare with what was measured", show_default=False)
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--remeasure", help="run the bundled stack (its code!) against the baseline, on a fresh seed"),
    ] = False,
    preset: Annotated[str, typer.Option(help="of the new measurement: quick, default or thorough")] = "default",
    json_out: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Check a bundle offline: hashes, signature, seeds, order, prompts, tokens, every figure. Runs nothing of it
    unless --remeasure is given.

    Exit code 0: everything that was checked holds. 9: something does not, or the claim was not found again.
    2: bad options, or no such file. 5: the new measurement could not be made.
    """
    if again and model is None:
        raise BadRequestError("--remeasure needs the model", "name its folder with --model DIR")
    if model is not None and not (model / "config.json").is_file():
        raise BadRequestError(f"--model: {model} holds no config.json", "name the folder of the checkpoint")
    public = read_public_key(key) if key is not None else None
    try:
        content = archive.read(bundle)
    except BundleUnreadableError as error:
        raise BadRequestError(str(error)) from error
    checked = check(content, key=public, model_dir=model)
    if not json_out:
        _show(checked)
    result: Remeasured | None = None
    if again and not checked.findings.failed:
        assert checked.bundle is not None and model is not None, "it was read, and --model was asked for"
        result = remeasure(
            checked.bundle,
            model.absolute(),
            preset=preset,
            find_engine=find_engine,
            say=lambda line: typer.echo(line, err=True),
        )
        if not json_out:
            print(result.message)
    if json_out:
        print(json.dumps(_as_json(checked, result), indent=1))
    if checked.findings.failed or (result is not None and not result.holds):
        raise typer.Exit(ExitCode.NOT_PROVEN)


def _show(checked: Checked) -> None:
    console = Console()
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in checked.findings.all:
        table.add_row(finding.check, _MARK[finding.outcome], escape(finding.message))
    console.print(table)
    console.print(f"bundle {checked.digest}", highlight=False)


def _as_json(checked: Checked, result: Remeasured | None) -> dict[str, Any]:
    return {
        "bundle": checked.digest,
        "holds": not checked.findings.failed and (result is None or result.holds),
        "findings": [asdict(finding) for finding in checked.findings.all],
        "remeasured": result.as_json() if result is not None else None,
    }
