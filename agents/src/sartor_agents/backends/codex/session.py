"""One invocation of the Codex CLI: in a sandbox, with a fresh home, within its time and tokens.

Codex' own sandbox is switched off, since ours is around the whole program; approvals too, since nobody is there to give
them. Its home lies in the sandbox's memory and is gone with it. What it did to `stack/` is kept as of any command.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tomli_w

from sartor_agents.backends.codex.events import Ended, Event, Lines, Problem, Said, Tokens, read_event
from sartor_agents.backends.codex.install import Codex
from sartor_agents.backends.codex.relay import Endpoint, Relay
from sartor_agents.run.sandbox.command import CommandResult, CommandSandbox, Isolation, Way, socket_folder, started
from sartor_agents.run.servers import free_port
from sartor_agents.run.storage import storage_errors

PORT = 8765
"""Inside. In a pod, whose network others may share, it is one that is free."""
_START = (
    'mkdir -p "$CODEX_HOME" "$TMPDIR" && cp "$2/config.toml" "$CODEX_HOME/" || exit 70\n'
    "codex=$1; prompt=$2/prompt; shift 2\n"
    '"$codex" "$@" <"$prompt" 2>"$TMPDIR/errors"\n'
    'code=$?; tail -c 4000 "$TMPDIR/errors"; exit $code'
)
"""Given the program, the session's folder and the arguments. Errors go to a file first: both streams in one pipe would mix
within lines."""


@dataclass(frozen=True)
class CodexLimits:
    """Of one invocation."""

    seconds: float
    tokens: int | None = None


@dataclass(frozen=True)
class SessionResult:
    """`answer` is the model's last message. `problem`: None, `TimedOut`, `TokensExhausted`, `ProviderFailed`, `CodexFailed`,
    or a limit of the sandbox; `message` says more. `tokens` are those that the provider reported to the relay."""

    answer: str
    problem: str | None
    message: str
    tokens: Tokens
    calls: int
    seconds: float
    kept: bool
    refused: tuple[str, ...]


def run_session(
    codex: Codex,
    endpoint: Endpoint,
    sandbox: CommandSandbox,
    prompt: str,
    *,
    model: str,
    limits: CodexLimits,
    effort: str | None = None,
    schema: Mapping[str, Any] | None = None,
    keep: bool = True,
    on_event: Callable[[Event], None] = lambda _: None,
) -> SessionResult:
    """Run one prompt to its end. `schema` is the JSON schema of the answer. Raises `SandboxError`, `StorageError`."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(socket_folder())
        session = folder / "session"
        port = free_port() if sandbox.isolation is Isolation.POD else PORT
        with storage_errors(folder):
            session.mkdir()
            (session / "config.toml").write_bytes(configuration(model, effort, port))
            (session / "prompt").write_text(prompt, encoding="utf-8")
            if schema is not None:
                (session / "schema.json").write_text(json.dumps(schema), encoding="utf-8")
        relay = stack.enter_context(Relay(endpoint, folder / "relay.sock", most_tokens=limits.tokens))
        box = replace(
            sandbox,
            limits=replace(sandbox.limits, seconds=limits.seconds, cpu_seconds=max(sandbox.limits.cpu_seconds, 36_000)),
            readable={**sandbox.readable, "/run/codex": codex.folder, "/run/session": session},
            ways=(*sandbox.ways, Way(port, folder / "relay.sock")),
            environment={
                **sandbox.environment,
                "CODEX_HOME": f"{sandbox.home}/.codex",
                "TMPDIR": f"{sandbox.home}/codex",
            },
        )
        command = ("/bin/sh", "-c", _START, "codex", "/run/codex/bin/codex", "/run/session", *_arguments(schema))
        heard = _Heard(on_event)
        with started(box, command, keep=keep, hear=heard.add) as running:
            result = running.result()
        return _result(result, heard, relay)


def configuration(model: str, effort: str | None, port: int = PORT) -> bytes:
    """`config.toml` for one session."""
    content: dict[str, Any] = {
        "model": model,
        "model_provider": "sartor",
        "approval_policy": "never",
        "sandbox_mode": "danger-full-access",
        "web_search": "disabled",
        "check_for_update_on_startup": False,
        "model_providers": {
            "sartor": {
                "name": "sartor",
                "base_url": f"http://127.0.0.1:{port}/v1",
                "wire_api": "responses",
                "requires_openai_auth": False,
                "request_max_retries": 3,
                "stream_max_retries": 3,
            }
        },
        "analytics": {"enabled": False},
    }
    if effort is not None:
        content["model_reasoning_effort"] = effort
    return tomli_w.dumps(content).encode()


def _arguments(schema: object) -> tuple[str, ...]:
    wanted = ("--output-schema", "/run/session/schema.json") if schema is not None else ()
    return (
        "exec",
        "--json",
        "--ephemeral",
        "--skip-git-repo-check",
        "--ignore-rules",
        "--color",
        "never",
        *wanted,
        "-",
    )


class _Heard:
    """What was said so far, from the reader's thread."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._lines = Lines()
        self.answer = ""
        self.ended = False
        self.failure: str | None = None
        self.words: list[str] = []

    def add(self, data: bytes) -> None:
        for line in self._lines.add(data):
            event = read_event(line)
            if event is None:
                self.words = [*self.words[-20:], line[:500]]
                continue
            match event:
                case Said(text):
                    self.answer = text
                case Ended():
                    self.ended = True
                case Problem(message, final=True):
                    self.failure = message
                case _:
                    pass
            self._on_event(event)


def _result(result: CommandResult, heard: _Heard, relay: Relay) -> SessionResult:
    problem, message = result.problem, ""
    if relay.refused:
        problem, message = "TokensExhausted", f"it used {relay.tokens.total} tokens in {relay.calls} calls"
    elif problem is not None:
        message = f"it was ended after {result.seconds:.0f} s"
    elif heard.failure is not None or (not heard.ended and relay.last_failure):
        problem, message = "ProviderFailed", heard.failure or relay.last_failure
    elif result.code != 0 or not heard.ended:
        words = "\n".join(heard.words[-8:])
        problem, message = "CodexFailed", f"it ended with exit code {result.code}: {words or 'it wrote nothing'}"
    return SessionResult(
        heard.answer, problem, message, relay.tokens, relay.calls, result.seconds, result.kept, result.refused
    )
