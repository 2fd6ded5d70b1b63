"""The command line: `sartor-runner run` and `sartor-runner check`."""

import argparse
import asyncio
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sartor_runner import __version__
from sartor_runner.config import Config, load
from sartor_runner.errors import ConfigurationError, RunnerError
from sartor_runner.host.bubblewrap import Bubblewrap
from sartor_runner.host.images import Images
from sartor_runner.host.process import settle
from sartor_runner.node.machine import sandbox_program
from sartor_runner.node.runner import Runner

DEFAULT_CONFIG = "/etc/sartor-runner.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: ended as asked, or all is well; 1: something a person has to put right, said on standard error."""
    parser = argparse.ArgumentParser(prog="sartor-runner", description="A Kubernetes node of sandboxed host processes")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("run", "be the node"), ("check", "tell whether this machine and configuration can be one")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--config", type=Path, default=Path(DEFAULT_CONFIG), metavar="FILE")
        command.add_argument("--verbose", action="store_true")
    chosen = parser.parse_args(arguments)
    level = logging.DEBUG if chosen.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = load(chosen.config)
        if chosen.command == "check":
            print(check(config))  # noqa: T201 - the answer
        else:
            settle()
            asyncio.run(Runner(config).run())
    except RunnerError as error:
        print(f"sartor-runner: {error}", file=sys.stderr)  # noqa: T201 - the last word
        return 1
    return 0


def check(config: Config) -> str:
    """What this node would be. Raises `ConfigurationError` for the first thing that stands in the way."""
    images = Images(config.environments, linux=sys.platform == "linux")
    program = sandbox_program(config)
    if isinstance(program, Bubblewrap):
        command = [program.program, "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ConfigurationError(
                f"bubblewrap cannot make a sandbox here: {done.stderr.strip()}; user namespaces must be allowed "
                "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
            )
    lines = [f"node {config.node.name}, platform {config.node.platform}, sandbox {program.name}"]
    lines += [f"environment {e.name}: {', '.join(e.table.images)} ({e.identity})" for e in images.environments]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
