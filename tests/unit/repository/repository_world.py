"""A real git service on 127.0.0.1 in a thread, callers by made-up tokens, and a real git client."""

import asyncio
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from sartor_repository.auth import DeniedError, UnavailableError
from sartor_repository.backend import Patience
from sartor_repository.policy import LIMITS, Caller, Limits, Role
from sartor_repository.server import MOST_CONNECTIONS, GuardedServer
from sartor_repository.service import Capacity, Service
from sartor_repository.store import Store

NAMESPACE, RUN = "team-a", "editor-1"


def caller(role: Role, step: str | None = None, *, namespace: str = NAMESPACE, run: str | None = RUN) -> Caller:
    if role is Role.OPERATOR:
        return Caller("system:serviceaccount:sartor-system:sartor-operator", role)
    return Caller(f"system:serviceaccount:{namespace}:sartor-{role}", role, namespace, run, step)


PLANNER = caller(Role.PLANNER, "001-plan-1-1")
IMPLEMENTER = caller(Role.IMPLEMENTER, "001-implement-1-1")
JUDGE = caller(Role.JUDGE, "001-judge-1-1")
EVALUATOR = caller(Role.EVALUATOR, "001-evaluate-1-1")
OPERATOR = caller(Role.OPERATOR)

TOKENS = {"planner": PLANNER, "implementer": IMPLEMENTER, "judge": JUDGE, "evaluator": EVALUATOR, "operator": OPERATOR}


@dataclass
class World:
    """The service at `url`; `tokens` and `runs` may be changed while it runs."""

    root: Path
    folder: Path
    tokens: dict[str, Caller] = field(default_factory=lambda: dict(TOKENS))
    runs: set[tuple[str, str]] = field(default_factory=lambda: {(NAMESPACE, RUN)})
    away: bool = False
    asked: int = 0
    url: str = ""
    service: Service | None = None
    store: Store | None = None

    async def authenticate(self, token: str) -> Caller:
        self.asked += 1
        if self.away:
            raise UnavailableError("the API server cannot be reached (ConnectTimeoutError)")
        if token not in self.tokens:
            raise DeniedError("the token is not valid")
        return self.tokens[token]

    async def run_exists(self, namespace: str, run: str) -> bool:
        return (namespace, run) in self.runs

    def address(self, namespace: str = NAMESPACE, run: str = RUN) -> str:
        return f"{self.url}/{namespace}/{run}"

    def git(
        self, who: str | None, *arguments: str, at: Path | None = None, input: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A git command with the token of `who`; in `at`, else in the world's folder."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=at or self.folder,
            env=environment(who),
            input=input,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def ok(self, who: str | None, *arguments: str, at: Path | None = None, input: bytes | None = None) -> str:
        done = self.git(who, *arguments, at=at, input=input)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def clone(self, who: str, name: str, **place: str) -> Path:
        folder = self.folder / name
        self.ok(who, "clone", "--quiet", self.address(**place), str(folder))
        return folder

    def work(self, name: str, remote: str | None = None) -> Path:
        """An empty working tree whose `origin` is the run."""
        folder = self.folder / name
        self.ok(None, "init", "--quiet", "--initial-branch=main", str(folder))
        self.ok(None, "remote", "add", "origin", remote or self.address(), at=folder)
        return folder

    def commit(self, tree: Path, files: dict[str, str | bytes], message: str = "work") -> str:
        for path, content in files.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.ok(None, "add", "--all", at=tree)
        self.ok(None, "commit", "--quiet", "--message", message, at=tree)
        return self.ok(None, "rev-parse", "HEAD", at=tree)

    def push(self, who: str, tree: Path, spec: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.git(who, "push", *options, "origin", spec, at=tree)


def environment(who: str | None) -> dict[str, str]:
    """Of a git client; the token comes by a credential helper, as in a role's pod."""
    helper = f"!f() {{ echo username=x; echo password={who}; }}; f"
    config = {"user.name": "t", "user.email": "t@t.invalid", "protocol.file.allow": "always", "core.fsync": "none"}
    if who is not None:
        config["credential.helper"] = helper
    return {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": str(len(config)),
        **{f"GIT_CONFIG_KEY_{n}": key for n, key in enumerate(config)},
        **{f"GIT_CONFIG_VALUE_{n}": value for n, value in enumerate(config.values())},
    }


@contextmanager
def serving(
    folder: Path,
    *,
    limits: dict[Role, Limits] | None = None,
    patience: Patience | None = None,
    capacity: Capacity | None = None,
    most_connections: int = MOST_CONNECTIONS,
    tls: ssl.SSLContext | None = None,
) -> Iterator[World]:
    """A service over `folder/volume`."""
    world = World(folder / "volume", folder)
    started, ended = threading.Event(), threading.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        with Store(world.root) as store:
            service = Service(
                store,
                world.authenticate,
                world.run_exists,
                limits=limits or LIMITS,
                patience=patience or Patience(grace=2.0),
                capacity=capacity,
            )
            server = GuardedServer(
                service.handle,
                header_seconds=service.patience.header,
                on_cut=lambda reason: service.metrics.cut.labels(reason).inc(),
                most_connections=most_connections,
            )
            runner = web.ServerRunner(server, shutdown_timeout=5.0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
            world.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
            world.service, world.store = service, store
            started.set()
            await asyncio.to_thread(ended.wait)
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    try:
        assert started.wait(20), "the service did not start"
        yield world
    finally:
        ended.set()
        thread.join(20)
        loop.close()
