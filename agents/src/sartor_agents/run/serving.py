"""Serving the winner of a run on this machine: the stack in front, the baseline behind it."""

from collections.abc import Callable

from sartor_agents.run import candidates, checkouts
from sartor_agents.run.device import NOTHING
from sartor_agents.run.engines import BaselineServer, Engine, chosen_setting
from sartor_agents.run.errors import BadRequestError, NotARunError
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.servers import RunningServer, ServerError, free_port, port_is_free
from sartor_agents.run.session import FindEngine, find_placement, model_folder
from sartor_api.search.records import BaselineRecord, RunSpec

LOOK_SECONDS = 1.0
DRAIN_SECONDS = 40.0
"""What the stack gets to finish its running requests; its own limit is 30 s."""


def serve_run(
    layout: RunLayout,
    repository: RunRepository,
    *,
    port: int,
    baseline_port: int,
    find_engine: FindEngine | None,
    say: Callable[[str], None],
    wait: Callable[[float], None],
) -> None:
    """Serve until interrupted (`KeyboardInterrupt`), or until the stack ends by itself (`ServerError`).

    A baseline that dies is started again. `find_engine` None serves the stack alone.
    """
    stored = repository.load()
    finished = stored.finished
    if finished is None or finished.commit is None or finished.content_hash is None:
        raise NotARunError(
            f"{layout.root} has no confirmed stack to serve",
            "see how it stands with: sartor status " + str(layout.root),
        )
    if not port_is_free(port):
        raise BadRequestError(f"port {port} is in use", "end what listens there, or choose another --port")
    model_dir = model_folder(stored.spec)
    folder = checkouts.checkout(repository, layout, finished.commit, finished.content_hash)
    record = stored.state(0.0).baseline
    assert record is not None, "a run with a winner has a baseline"
    log = layout.logs / "serve-stack.log"
    place = find_placement(repository, stored.spec, model_dir)
    baseline = _Baseline(find_engine(stored.spec, model_dir, place), record, layout) if find_engine else None
    try:
        behind = baseline.start(baseline_port or free_port(), say) if baseline else None
        spec = candidates.server_spec(
            folder, model_dir, port, baseline_url=behind.url if behind else None, memory_bytes=None,
            access=NOTHING if place is None else place.access,
            ready_seconds=candidates.READY_SECONDS if place is None else place.ready_seconds,
        )  # fmt: skip
        say("starting the stack")
        with RunningServer(spec, log) as stack:
            try:
                _announce(stored.spec, stack, behind, say)
                while stack.alive:
                    wait(LOOK_SECONDS)
                    if baseline is not None:
                        baseline.keep_up(say)
                death = stack.death()
                raise ServerError(*(death or ("Died", "the stack ended")))
            except KeyboardInterrupt:
                say("draining")
                stack.stop(DRAIN_SECONDS)
                raise
    finally:
        if baseline is not None:
            baseline.stop()


class _Baseline:
    """The baseline behind the stack: started with the settings that the run chose, and again when it dies."""

    def __init__(self, engine: Engine, record: BaselineRecord, layout: RunLayout) -> None:
        self._server = BaselineServer(engine, layout.logs)
        self._setting = chosen_setting(record)
        self._name = f"{record.engine} {record.version} ({record.chosen})"
        self._port = 0
        self._running: RunningServer | None = None

    def start(self, port: int, say: Callable[[str], None]) -> RunningServer:
        self._port = port
        say(f"starting the baseline, {self._name}")
        self._running = self._server.ensure(self._setting, port)
        return self._running

    def keep_up(self, say: Callable[[str], None]) -> None:
        if self._running is None or self._running.alive:
            return
        say("the baseline ended; starting it again")
        try:
            self._running = self._server.ensure(self._setting, self._port)
        except ServerError as error:
            say(f"the baseline did not start: {error}")

    def stop(self) -> None:
        self._server.stop()


def _announce(spec: RunSpec, stack: RunningServer, behind: RunningServer | None, say: Callable[[str], None]) -> None:
    say(f"stack:    {stack.url}/v1   (ready in {stack.start_seconds:.1f} s)")
    if behind is not None:
        say(f"baseline: {behind.url}/v1   (takes what is outside the envelope)")
    say(
        f"try: curl {stack.url}/v1/completions -H 'content-type: application/json' "
        f'-d \'{{"model": "{spec.model["name"]}", "prompt": "Hello", "max_tokens": 32}}\''
    )
    say("Ctrl-C drains and ends both")
