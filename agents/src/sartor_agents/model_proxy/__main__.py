"""`python -m sartor_agents.model_proxy CONFIG`: serve until SIGTERM or Ctrl-C.

`--export RUN FILE` writes a run's recorded conversation instead, for replaying it in tests: a line of JSON for each call,
redacted. Read it before you give it to anybody: it holds what the agents saw and wrote.
"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from sartor_agents.model_proxy.config import ConfigError, ProxyConfig, read_config
from sartor_agents.model_proxy.exported import redacted
from sartor_agents.model_proxy.ledger import Ledger
from sartor_agents.model_proxy.service import Service
from sartor_agents.run.errors import StorageError
from sartor_agents.run.storage import write_atomic
from sartor_agents.transcripts.redact import Redactor
from sartor_api.search.grants import SHORTEST_KEY


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sartor_agents.model_proxy", description=__doc__)
    parser.add_argument("config", type=Path, help="configuration (JSON; see config.py)")
    parser.add_argument("--export", nargs=2, metavar=("RUN", "FILE"), help="write a run's recorded calls and end")
    parser.add_argument("--host", help="address to listen on instead of the configuration's: a pod's own, say")
    given = parser.parse_args(arguments)
    try:
        config = read_config(given.config)
        if given.host is not None:
            config = config.model_copy(update={"host": given.host})
        if given.export is not None:
            return export(config, given.export[0], Path(given.export[1]))
        asyncio.run(serve(config))
    except (ConfigError, StorageError) as error:
        sys.stderr.write(f"model proxy: {error}\n")
        return 2
    return 0


async def serve(config: ProxyConfig) -> None:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError`."""
    service = Service(config, grant_key(config))
    runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, config.host, config.port).start()
        except OSError as error:
            raise ConfigError(f"{config.host}:{config.port} cannot be listened on: {error.strerror}") from error
        port = runner.addresses[0][1]
        if config.port_file is not None:
            write_atomic(config.port_file, f"{port}\n".encode(), mode=0o600)
        sys.stderr.write(f"model proxy: listening on {config.host}:{port}\n")
        ended = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, ended.set)
        await ended.wait()
    finally:
        await runner.cleanup()


def grant_key(config: ProxyConfig) -> bytes:
    """The key that grants are signed with. Raises `ConfigError`."""
    try:
        key = config.grant_key_file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"grant_key_file: {config.grant_key_file} cannot be read: {error.strerror}") from error
    if len(key) < SHORTEST_KEY:
        raise ConfigError(f"grant_key_file: {config.grant_key_file} has less than {SHORTEST_KEY} bytes")
    return key


def export(config: ProxyConfig, run: str, file: Path) -> int:
    """Write the recorded calls of `run`. The ledger must not be in use."""
    redact = Redactor(key for one in config.endpoints if (key := one.key()))
    ledger = Ledger(config.state / "ledger.sqlite")
    lines = [
        json.dumps({
            "step": one.step,
            "call": one.id,
            "api": one.api,
            "request": redact.json(json.loads(one.request)),
            "status": one.answer.status,
            "content_type": one.answer.content_type,
            "answer": redacted(one.answer.body.decode(errors="replace"), redact),
        })
        for one in ledger.exchanges(run)
    ]  # fmt: skip
    ledger.close()
    write_atomic(file, "".join(f"{line}\n" for line in lines).encode(), mode=0o600)
    sys.stderr.write(f"model proxy: {len(lines)} calls of {run} are in {file}; read it before you give it away\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
