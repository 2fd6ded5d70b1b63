"""The two arms of a run on this machine: the baseline, which stays up from step to step, and the candidate of one step."""

import time
from collections.abc import Callable
from pathlib import Path

from sartor_agents.measurement.accelerators import open_accelerators
from sartor_agents.measurement.messages import Endpoint
from sartor_agents.run import candidates, checkouts
from sartor_agents.run.device import NOTHING
from sartor_agents.run.engines import BaselineServer, Engine, chosen_setting
from sartor_agents.run.layout import RunLayout
from sartor_agents.run.placement import Placement
from sartor_agents.run.repository import RunRepository
from sartor_agents.run.sandbox import sandbox_program
from sartor_agents.run.servers import RunningServer, ServerError, free_port
from sartor_api.search.state import RunState


class Arms:
    """On the device `place`, where the run has one. `candidate_bytes`: memory of a candidate's process tree."""

    def __init__(
        self,
        layout: RunLayout,
        repository: RunRepository,
        *,
        model_dir: Path,
        engine: Engine,
        candidate_bytes: int,
        place: Placement | None,
    ) -> None:
        self._layout = layout
        self._repository = repository
        self._model_dir = model_dir
        self._candidate_bytes = candidate_bytes
        self._place = place
        self.engine = engine
        self.baseline = BaselineServer(engine, layout.logs)
        self.port = free_port()

    def ensure_baseline(self, run: RunState) -> RunningServer:
        """The baseline as it was tuned. Raises `ServerError`."""
        assert run.baseline is not None, "candidates are judged after the baseline was measured"
        return self.baseline.ensure(chosen_setting(run.baseline), self.port)

    def endpoint(self, baseline: RunningServer) -> Endpoint:
        return Endpoint(
            name="baseline",
            url=baseline.url,
            pid=baseline.process.pid,
            accepts_prediction=self.engine.accepts_prediction,
        )

    def candidate(
        self,
        commit: str,
        content_hash: str,
        log: Path,
        *,
        baseline_url: str | None,
        deadline: float,
        progress: Callable[[str], None],
    ) -> RunningServer:
        """The candidate of `commit`, built by `deadline` (monotonic seconds) and ready; its output goes to `log`.

        Raises `CandidateError`.
        """
        place, memory = self._place, self._candidate_bytes
        access = NOTHING if place is None else place.access
        folder = checkouts.checkout(self._repository, self._layout, commit, content_hash)
        progress("building the candidate")
        candidates.build(folder, log, timeout=deadline - time.monotonic(), memory_bytes=memory, access=access)
        confined = sandbox_program() is not None
        progress(
            "starting the candidate" if confined else "starting the candidate, not sandboxed: bwrap cannot be used"
        )
        spec = candidates.server_spec(
            folder, self._model_dir, free_port(), baseline_url=baseline_url, memory_bytes=memory, access=access,
            ready_seconds=candidates.READY_SECONDS if place is None else place.ready_seconds,
        )  # fmt: skip
        try:
            server = RunningServer(spec, log)
        except ServerError as error:
            raise candidates.CandidateError(f"Candidate{error.reason}", str(error)) from error
        try:
            if place is not None:
                place.check(server.process.pid, open_accelerators(only=place.device.uuid))
        except BaseException:
            server.stop()
            raise
        return server

    def stop(self) -> None:
        """End the baseline; candidates end with their steps."""
        self.baseline.stop()
