"""`sartor-probe`: the probe of one rollout as a process.

Exit codes: 0 ended by SIGTERM or SIGINT, 2 cannot be started as asked (the sentence is on standard error).
"""

import argparse
import asyncio
import logging
import math
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import uvloop
from aiohttp import web

from sartor_agents.probe.ring import Ring
from sartor_agents.probe.server import Probe, Settings, Surroundings, servers
from sartor_api.probe import CONTROL_PORT, COPIES_PORT


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="sartor-probe", description="Asks both arms of a rollout what users asked, and compares the answers."
    )
    made.add_argument("--baseline", type=_arm, required=True, metavar="URL", help="http://HOST[:PORT] of the baseline")
    made.add_argument(
        "--candidate", type=_arm, required=True, metavar="URL", help="http://HOST[:PORT] of the candidate"
    )
    made.add_argument(
        "--listen", default=environment.get("POD_IP") or "0.0.0.0", metavar="HOST",
        help="address to listen on (default: $POD_IP, else all)",
    )  # fmt: skip
    made.add_argument("--copies-port", type=int, default=COPIES_PORT, metavar="PORT", help="0: any that is free")
    made.add_argument("--control-port", type=int, default=CONTROL_PORT, metavar="PORT", help="0: any that is free")
    made.add_argument("--concurrency", type=_count, default=4, metavar="N", help="pairs at a time (default: 4)")
    made.add_argument(
        "--keep", type=_count, default=100_000, metavar="N", help="records kept for the operator (default: 100000)"
    )
    made.add_argument(
        "--timeout", type=_seconds, default=300.0, metavar="SECONDS",
        help="for the answer of one arm (default: 300)",
    )  # fmt: skip
    return made


async def serve(options: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT. Raises `OSError` where a port cannot be had."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = Settings(
        baseline=options.baseline,
        candidate=options.candidate,
        concurrency=options.concurrency,
        timeout=options.timeout,
    )
    surroundings = Surroundings(clock=time.perf_counter, wall=time.time, draw=random.SystemRandom().random)
    ring = Ring(secrets.token_hex(8), options.keep)
    probe = Probe(settings, surroundings, ring, salt=secrets.token_hex(16))
    copies, control = servers(probe)
    try:
        told: list[str] = []
        for name, runner, port in (
            ("copies", copies, options.copies_port),
            ("control", control, options.control_port),
        ):
            await runner.setup()
            await web.TCPSite(runner, options.listen, port).start()
            told.append(f"{name} on {options.listen}:{runner.addresses[0][1]}")
        sys.stdout.write(f"listening: {', '.join(told)}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await copies.cleanup()
        await control.cleanup()
        await probe.close()


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser(os.environ).parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        uvloop.run(serve(options))
    except OSError as error:
        sys.stderr.write(
            f"sartor-probe: cannot listen on {options.listen}, ports {options.copies_port} and {options.control_port}: "
            f"{error.strerror or error}; give others by --listen, --copies-port, --control-port\n"
        )
        return 2
    return 0


def _arm(text: str) -> str:
    """An arm's address, without a slash at its end."""
    try:
        parts = urlsplit(text)
        known = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and parts.username is None
        known = known and parts.path in ("", "/") and not parts.query and not parts.fragment
    except ValueError:  # brackets that do not match, a port that is none
        known = False
    if not known:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of an arm; write http://HOST or http://HOST:PORT")
    return text.rstrip("/")


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write seconds, above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
