"""`sartor evidence`: put the bundle of a cluster run's winner together."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from sartor_agents.cli.exits import ExitCode, user_errors
from sartor_agents.evidence.cluster import CLUSTER_BUILDER, Repositories, lay_out, read_export
from sartor_agents.evidence.deliver import deliver
from sartor_agents.evidence.errors import EvidenceError
from sartor_agents.evidence.signing import read_private_key
from sartor_agents.pods.remote import RefusedError, Remote, RemoteError
from sartor_agents.run.errors import BadRequestError, RunError
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.storage import write_atomic


@user_errors
def evidence(
    export: Annotated[
        Path,
        typer.Argument(metavar="EXPORT", help="from: kubectl get configmaps,secrets -l sartor.dev/run=RUN -o json"),
    ],
    repository: Annotated[str, typer.Option(metavar="URL", help="of the run's repository, http://HOST/NAMESPACE/RUN")],
    token: Annotated[Path, typer.Option(help="file with the token of a reader of the repositories (--reader)")],
    model: Annotated[Path, typer.Option(help="folder of the checkpoint that was measured")],
    out: Annotated[Path, typer.Option(help="folder that the bundle is written to")] = Path("evidence"),
    signing_key: Annotated[
        Path | None, typer.Option(help="Ed25519 private key (PEM) to sign it with", show_default=False)
    ] = None,
) -> None:
    """Put together the bundle of the winner of a run in a cluster, from what the operator and the roles kept.

    Exit code 0: written, its path is printed. 2: bad options or export. 3: the run has no confirmed winner. 5: something
    that the bundle needs is gone, or is not what was recorded.
    """
    key = read_private_key(signing_key) if signing_key is not None else None
    if not (model / "config.json").is_file():
        raise BadRequestError(f"--model: {model} holds no config.json", "name the folder of the checkpoint")
    if not token.is_file():
        raise BadRequestError(f"--token: {token} is not there", "make one with: kubectl create token")
    url = repository.rstrip("/")
    try:
        memory = read_export(export.read_bytes())
    except (EvidenceError, OSError) as error:
        raise BadRequestError(f"{export}: {error}", "export the run again") from error
    with (
        tempfile.TemporaryDirectory(prefix="sartor-evidence-") as name,
        Remote(url, token.absolute()) as candidates,
        Remote(f"{url}/sealed", token.absolute()) as sealed,
    ):
        try:
            layout = lay_out(memory, Repositories(candidates, sealed), Path(name) / "run")
        except (EvidenceError, RemoteError, RefusedError) as error:
            raise RunError(f"the bundle cannot be put together: {error}") from error
        run = RunRepository(layout.repository)
        path = deliver(run.load().state(0.0), layout, run, model.absolute(), key, builder=CLUSTER_BUILDER)
        if path is None:
            typer.echo("the run has no confirmed winner, so there is nothing to prove", err=True)
            raise typer.Exit(ExitCode.NO_SPEEDUP)
        target = out / Path(path).name
        write_atomic(target, Path(path).read_bytes())
    print(target)
