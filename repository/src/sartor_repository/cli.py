"""`sartor-repository serve`: the git service as a process.

Exit codes: 0 ended by SIGTERM or SIGINT, 2 cannot be started as asked (the sentence is on standard error).
"""

import argparse
import asyncio
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from sartor_repository.auth import TokenAuthenticator
from sartor_repository.kubernetes_facts import ClusterError, KubernetesFacts
from sartor_repository.policy import LIMITS, MIB
from sartor_repository.server import Certificate, GuardedServer
from sartor_repository.service import Service
from sartor_repository.store import Store, StoreError
from sartor_repository.sweep import keep_sweeping

AUDIENCE = "sartor-repository"
OPERATOR = "system:serviceaccount:sartor-system:sartor-operator"
SHUTDOWN_SECONDS = 20.0

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="sartor-repository", description="The git service of runs.")
    serve = made.add_subparsers(dest="command", required=True).add_parser(
        "serve", help="serve the repositories of runs"
    )
    serve.add_argument("--root", type=Path, required=True, metavar="DIR", help="the volume; one service per volume")
    serve.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
    serve.add_argument("--port", type=int, default=8080, help="0: any that is free; it is told on standard output")
    serve.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: the service account of this pod")
    serve.add_argument("--audience", default=AUDIENCE, help=f"audience of the tokens (default: {AUDIENCE})")
    serve.add_argument(
        "--reader", action="append", default=[], metavar="USER",
        help=f"may read everything; may be given several times (default: {OPERATOR})",
    )  # fmt: skip
    serve.add_argument("--tls-certificate", type=Path, metavar="FILE", help="PEM chain; with --tls-key")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM key")
    serve.add_argument("--repository-mib", type=int, metavar="N", help="quota of each repository (default: by role)")
    serve.add_argument("--push-mib", type=int, metavar="N", help="quota of one push (default: by role)")
    serve.add_argument(
        "--keep-days", type=float, default=7.0, metavar="N",
        help="how long the repositories of a deleted run are kept (default: 7)",
    )  # fmt: skip
    serve.add_argument("--verbose", action="store_true", help="log every request")
    return made


async def serve(options: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT. Raises `StoreError`, `ClusterError`, `OSError`."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    certificate = Certificate(options.tls_certificate, options.tls_key) if options.tls_certificate else None
    facts = KubernetesFacts(options.kubeconfig)
    authenticate = TokenAuthenticator(
        facts, audience=options.audience, operators=frozenset(options.reader or [OPERATOR])
    )
    quotas: dict[str, int] = {}
    if options.repository_mib is not None:
        quotas["repository_bytes"] = options.repository_mib * MIB
    if options.push_mib is not None:
        quotas["push_bytes"] = options.push_mib * MIB
    limits = {role: replace(one, **quotas) for role, one in LIMITS.items()}
    with Store(options.root) as store:
        service = Service(store, authenticate, facts.run_exists, limits=limits)
        server = GuardedServer(
            service.handle,
            header_seconds=service.patience.header,
            on_cut=lambda reason: service.metrics.cut.labels(reason).inc(),
        )
        runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        site = web.TCPSite(runner, options.host, options.port, ssl_context=certificate.context if certificate else None)
        sweeping = keep_sweeping(store, facts.run_exists, keep_seconds=86400 * options.keep_days, now=time.time)
        background = [asyncio.create_task(sweeping)]
        if certificate is not None:
            background.append(asyncio.create_task(certificate.watch()))
        try:
            await site.start()
            port = runner.addresses[0][1]
            sys.stdout.write(f"listening on {options.host}:{port}\n")
            sys.stdout.flush()
            await stop.wait()
        finally:
            for task in background:
                task.cancel()
            await runner.cleanup()
            facts.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if bool(options.tls_certificate) != bool(options.tls_key):
        return _cannot("--tls-certificate and --tls-key are given together or not at all")
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    os.umask(0o077)
    try:
        asyncio.run(serve(options))
    except (StoreError, ClusterError) as error:
        return _cannot(str(error))
    except ssl.SSLError as error:
        return _cannot(f"{options.tls_certificate}: no certificate with this key ({error.reason})")
    except OSError as error:
        return _cannot(f"{error.filename or f'port {options.port}'}: {error.strerror or error}")
    return 0


def _cannot(sentence: str) -> int:
    sys.stderr.write(f"sartor-repository: {sentence}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
