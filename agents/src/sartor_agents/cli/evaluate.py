"""`sartor evaluate`: the gates that a candidate has to pass, for any OpenAI-compatible server."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from sartor_agents.cli.evaluate_view import as_json, show
from sartor_agents.cli.exits import ExitCode, user_errors
from sartor_agents.evaluate.gates import Options, evaluate_server
from sartor_agents.run.errors import BadRequestError


@user_errors
def evaluate(
    url: Annotated[str, typer.Argument(metavar="URL", help="the server, http://HOST:PORT")],
    model: Annotated[Path, typer.Option(help="folder of the checkpoint that it serves: tokenizer, reference weights")],
    against: Annotated[
        str | None,
        typer.Option(metavar="URL", help="a second server, to say how many times as fast", show_default=False),
    ] = None,
    scenario: Annotated[str, typer.Option(help="chat or code-edit")] = "chat",
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="of the scenario, as in spec.workload.parameters"),
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="requests of your own, JSON lines", show_default=False)] = None,
    preset: Annotated[str, typer.Option(help="how much is measured: quick, default or thorough")] = "default",
    served_name: Annotated[
        str | None, typer.Option("--served-name", help="`model` of requests [default: the first of /v1/models]")
    ] = None,
    prediction: Annotated[
        bool,
        typer.Option("--prediction/--no-prediction", help="whether URL takes the `prediction` field (vLLM does not)"),
    ] = False,
    only: Annotated[str | None, typer.Option(help="judge or measure; both by default", show_default=False)] = None,
    samples: Annotated[int, typer.Option(min=1, help="answers that the judge checks")] = 24,
    seed: Annotated[str | None, typer.Option(help="64 hex digits; fresh by default", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="new folder for raw samples and logs; by default they go", show_default=False)
    ] = None,
    json_out: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Judge and measure a server that Sartor did not make.

    Exit code 0: every gate passed and the measurement is valid. 9: a gate did not pass. 5: it could not be measured.
    2: bad options.
    """
    if out is not None and out.exists():
        raise BadRequestError(f"--out: {out} is there already", "name a folder that is new")
    folder = out.absolute() if out is not None else Path(tempfile.mkdtemp(prefix="sartor-evaluate-"))
    try:
        options = Options(
            url=url.rstrip("/"),
            against=against.rstrip("/") if against else None,
            model_dir=model.absolute(),
            scenario=scenario,
            parameters=tuple(parameter or ()),
            trace=trace.absolute() if trace is not None else None,
            preset=preset,
            served_name=served_name,
            prediction=prediction,
            only=only,
            samples=samples,
            seed=seed,
            folder=folder,
        )
        result = evaluate_server(options, lambda line: typer.echo(line, err=True))
    finally:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
    if json_out:
        print(json.dumps(as_json(result), indent=1))
    else:
        show(result, Console())
    if not result.judged_well:
        raise typer.Exit(ExitCode.NOT_PROVEN)
    if result.unmeasured is not None:
        raise typer.Exit(ExitCode.NOT_PROVEN if result.blamed else ExitCode.FAILED)
