"""The model proxy of a run on this machine: a process of its own, which alone reads the provider's key.

Its folder in the run holds its configuration (addresses, where the keys are, prices; no key), the key that grants are signed
with, its ledger and the transcripts. It stays from session to session, so that `--resume` gets recorded answers and goes on
counting where it was.
"""

import os
import secrets
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sartor_agents.backends.access import TOKEN_FILE, URL
from sartor_agents.backends.codex.install import PROGRAM, VERSION, CodexMissingError, find_codex
from sartor_agents.backends.conversation.accounting import Price
from sartor_agents.backends.conversation.tool import problems
from sartor_agents.cache import cache_folder
from sartor_agents.model_proxy.config import ConfigError, EndpointConfig, ProxyConfig, TranscriptConfig
from sartor_agents.run.errors import BadRequestError
from sartor_agents.run.process import GuardedProcess, scrubbed_environment
from sartor_agents.run.role import RoleError
from sartor_agents.run.storage import storage_errors, write_atomic
from sartor_api.search.agents import AgentSettings
from sartor_api.search.decide import Begin
from sartor_api.search.grants import LONGER_SECONDS, step_grant
from sartor_api.search.records import RunSpec

START_SECONDS = 120.0


class ModelAccessFile(BaseModel):
    """Where the models of a run are, as the run's folder keeps it for `--resume`: addresses, and where the keys lie."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoints: tuple[EndpointConfig, ...]
    requests_per_minute: int | None = None
    transcripts: TranscriptConfig = TranscriptConfig()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `BadRequestError`."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise BadRequestError(f"{path} is gone: nothing says where the run's models are", "restore it") from None
        except ValidationError as error:
            raise BadRequestError(f"{path} is damaged:\n{problems(error)}", "restore it") from error

    def check_keys(self) -> None:
        """Raises `BadRequestError` when a key is not where it is said to be."""
        try:
            for endpoint in self.endpoints:
                endpoint.key()
        except ConfigError as error:
            raise BadRequestError(str(error)) from error


class LocalModelProxy:
    """A context manager. `access` gives a step's process what it needs to ask its model. Entering raises `RoleError`."""

    def __init__(self, folder: Path, spec: RunSpec, *, log: Path) -> None:
        self._folder, self._spec, self._log = folder, spec, log
        self._settings = AgentSettings.model_validate(spec.agents)
        self._given = ModelAccessFile.read(folder / "models.json")
        self._given.check_keys()
        self._program = agent_program(self._settings)
        self._process: GuardedProcess | None = None
        # Steps of different rounds ask from threads of their own; two proxies would both charge what the other has open.
        self._starting = threading.Lock()

    def __enter__(self) -> Self:
        self._key = self._grant_key()
        self._listening()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def access(self, begin: Begin, folder: Path) -> dict[str, str]:
        """Variables for the process of a step, its token in `folder`; none where no model is asked. Raises `RoleError`."""
        role = self._settings.asks(begin.step)
        if role is None:
            return {}
        port = self._listening()
        grant = step_grant(
            begin.id,
            run=self._spec.name,
            role=role,
            model=self._settings.roles[role].model,
            reserve=begin.reserve,
            budget=self._spec.budget,
            expires=time.time() + begin.deadline_seconds + LONGER_SECONDS,
        )
        token = folder / "token"
        write_atomic(token, grant.signed(self._key).encode(), mode=0o600)
        return {URL: f"http://127.0.0.1:{port}/v1", TOKEN_FILE: str(token), **self._program}

    def _grant_key(self) -> bytes:
        path = self._folder / "grant-key"
        if not path.exists():
            write_atomic(path, secrets.token_hex(32).encode(), mode=0o600)
        return path.read_bytes()

    def _listening(self) -> int:
        """The port of the proxy, which is started if it does not run. Raises `RoleError`."""
        with self._starting:
            if self._process is None or not self._process.alive:
                self._stop()
                self._port = self._start()
            return self._port

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _start(self) -> int:
        port_file = self._folder / "port"
        with storage_errors(port_file):
            port_file.unlink(missing_ok=True)
        prices = {name: Price(**price.model_dump()) for name, price in self._settings.prices.items()}
        config = ProxyConfig(
            state=self._folder,
            grant_key_file=self._folder / "grant-key",
            endpoints=self._given.endpoints,
            prices=prices,
            port_file=port_file,
            maximum_output_tokens=max(role.maximum_output_tokens for role in self._settings.roles.values()),
            requests_per_minute=self._given.requests_per_minute,
            transcripts=self._given.transcripts,
        )
        file = self._folder / "config.json"
        write_atomic(file, config.model_dump_json(indent=1).encode(), mode=0o600)
        keys = {one.key_variable for one in self._given.endpoints if one.key_variable is not None}
        home = self._folder / "home"
        with storage_errors(home):
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(mode=0o700)
        self._process = GuardedProcess(
            (sys.executable, "-m", "sartor_agents.model_proxy", str(file)),
            cwd=home,
            environment=scrubbed_environment(home, {name: os.environ[name] for name in keys if name in os.environ}),
            log=self._log,
        )
        deadline = time.monotonic() + START_SECONDS
        while not port_file.exists():
            if not self._process.alive or time.monotonic() > deadline:
                said = self._process.tail(3) or "it wrote nothing"
                self._process.stop()
                raise RoleError("ModelProxyFailed", f"the model proxy did not start: {said}")
            time.sleep(0.02)
        return int(port_file.read_text())


def agent_program(settings: AgentSettings) -> dict[str, str]:
    """What a step's process is told of the program that its backend needs. Raises `BadRequestError` when it is missing."""
    if settings.backend != "codex":
        return {}
    try:
        return {PROGRAM: str(find_codex(cache_folder(), settings.codex_version or VERSION).program)}
    except CodexMissingError as error:
        raise BadRequestError(str(error)) from error


def write_access(folder: Path, given: ModelAccessFile) -> None:
    """Keep where the models are in the run's folder. Raises `StorageError`."""
    with storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True, parents=True)
        folder.chmod(0o700)
    write_atomic(folder / "models.json", given.model_dump_json(indent=1, exclude_none=True).encode(), mode=0o600)
