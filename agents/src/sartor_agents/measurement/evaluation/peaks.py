"""Finding the sustainable peak of each arm before the pairs: the stage at the lower of them is measured with the others."""

from sartor_agents.measurement.client import LoadClient
from sartor_agents.measurement.messages import FailureClass, Reason
from sartor_agents.measurement.pairs import MeasurementFailure, require_alive, saturation
from sartor_agents.measurement.peak import FIRST_OF_SWEEP, Level, Peak, climb, level_of
from sartor_api.search import records

from .session import Session

_SHARE = 0.4  # of the wall clock that both sweeps together may take
_REPEATS = 3


async def find_peaks(session: Session) -> None:
    """Sweep every arm, note its peak, and add the stage at the lower one to the windows. Nothing unless asked for.

    Raises `MeasurementFailure` when an arm dies, sustains nothing, or every try at a level was disturbed.
    """
    sweep = session.scenario.sweep
    if sweep is None:
        return
    arms = [session.candidate, *([session.baseline] if session.baseline is not None else [])]
    peaks: dict[str, Peak] = {}
    for number, client in enumerate(arms):
        until = session.clock() + _SHARE * session.policy.wall_clock / len(arms)
        peaks[client.endpoint.name] = await _Sweep(session, client, number == 0, until).run()
    session.peaks = {
        name: records.Peak(concurrency=peak.level.concurrency, goodput=peak.level.goodput, limited_by=peak.limited_by)
        for name, peak in peaks.items()
    }
    common = min(peak.level.concurrency for peak in peaks.values())
    session.runner.stages = (*session.runner.stages, sweep(common))


class _Sweep:
    """The climb of one arm."""

    def __init__(self, session: Session, client: LoadClient, candidate: bool, until: float) -> None:
        self._session = session
        self._client = client
        self._candidate = candidate and session.baseline is not None
        self._until = until
        self._looks = 0

    async def run(self) -> Peak:
        session = self._session
        peak = await climb(self._level, session.policy.service_level, in_time=lambda: session.clock() < self._until)
        if peak is None:
            blamed = FailureClass.CANDIDATE if self._candidate else FailureClass.INFRASTRUCTURE
            raise MeasurementFailure(
                Reason.NO_PEAK,
                blamed,
                f"the {self._client.endpoint.name} does not sustain one request at a time within the service level "
                f"({session.policy.service_level.model_dump(exclude_none=True)}); "
                "ask for a looser one in the guardrails, or measure fixed concurrencies instead (findPeak: false)",
            )
        return peak

    async def _level(self, concurrency: int) -> Level:
        session, client = self._session, self._client
        sweep = session.scenario.sweep
        assert sweep is not None
        repeats = 0
        while True:
            index = FIRST_OF_SWEEP + self._looks
            self._looks += 1
            run = await session.runner.run_stages(
                client, (sweep(concurrency),), index, warmup=session.policy.warmup_requests
            )
            session.keep(run)
            if session.handover is not None and client is session.baseline:
                session.handover.note_samples(run.samples)
            await require_alive(client, run, candidate=self._candidate)
            if not run.disturbances:
                break
            repeats += 1
            if repeats > _REPEATS:
                why = run.disturbances[0]
                raise MeasurementFailure(
                    why.reason, FailureClass.MEASUREMENT, f"while looking for the peak: {why.message}"
                )
        saturated = saturation(run, session.policy) is not None
        level = level_of(run.stages[0], session.policy.service_level, saturated=saturated)
        session.progress(
            "peak", arm=client.endpoint.name, concurrency=concurrency,
            message=f"{client.endpoint.name} at {concurrency}: {level.good_tokens:.0f} tok/s of good requests, "
            f"{level.attainment:.0%} within the service level",
        )  # fmt: skip
        return level
