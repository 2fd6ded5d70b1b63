"""The baseline engine of a run, as the driver needs it: its settings, and how a server with one of them is started."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sartor_agents.run.servers import RunningServer, ServerError, ServerSpec
from sartor_api.search.records import BaselineRecord


@dataclass(frozen=True)
class Setting:
    """One point of the grid over which the baseline is tuned."""

    name: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict[str, str])


class Engine(Protocol):
    """vLLM or its fall-back on this machine."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def fallback_reason(self) -> str | None:
        """Why this is not the engine that was asked for; None when it is."""
        ...

    @property
    def accepts_prediction(self) -> bool:
        """Whether its API takes the `prediction` field."""
        ...

    def settings(self) -> Sequence[Setting]:
        """The grid for this run's scenario and tuning, the one to fall back on first."""
        ...

    def server(self, setting: Setting, port: int) -> ServerSpec: ...


class BaselineServer:
    """The tuned baseline, kept up across rounds: its start takes longer than most rounds."""

    def __init__(self, engine: Engine, logs: Path) -> None:
        self._engine = engine
        self._logs = logs
        self._running: RunningServer | None = None
        self._setting: Setting | None = None

    def ensure(self, setting: Setting, port: int) -> RunningServer:
        """A healthy server with this setting: the one that runs, or a new one. Raises `ServerError`."""
        running = self._running
        if running is not None and self._setting == setting and running.alive and running.healthy():
            return running
        self.stop()
        self._running = RunningServer(self._engine.server(setting, port), self._logs / "baseline.log")
        self._setting = setting
        return self._running

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
        self._running = self._setting = None


def chosen_setting(record: BaselineRecord) -> Setting:
    """The setting that tuning chose, from its record."""
    return Setting(record.chosen, record.arguments, dict(record.environment))


__all__ = ["BaselineServer", "Engine", "RunningServer", "ServerError", "Setting", "chosen_setting"]
