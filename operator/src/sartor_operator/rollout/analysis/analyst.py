"""The task that reads the sources and judges, and what rollouts ask of it.

Asking is a look into a table. Files are read and verdicts are reached in a thread, one after the other; Prometheus and
probes are asked beside that, and what is slow there holds up nothing. Nothing that goes wrong in here ends the operator: it
is the reading of the step that it concerns.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sartor_operator.rollout.accesslog import Arm
from sartor_operator.rollout.analysis.access_logs import AccessLogs
from sartor_operator.rollout.analysis.agenda import Agenda, Followed, outcome_of
from sartor_operator.rollout.analysis.fetch import Fetch
from sartor_operator.rollout.analysis.outages import Outages
from sartor_operator.rollout.analysis.outcome import Outcome, conclude, defective, jumped
from sartor_operator.rollout.analysis.probe import ProbeReader
from sartor_operator.rollout.analysis.prometheus import PrometheusReader
from sartor_operator.rollout.analysis.sight import SourceState, together
from sartor_operator.rollout.records import backends
from sartor_operator.rollout.samples import ArmsAsked, Outage, Reading, StepAsked
from sartor_operator.rollout.verdict.integrity import CLOCK_TOLERANCE
from sartor_operator.rollout.verdict.judge import Policy
from sartor_operator.rollout.verdict.samples import ArmName, Source

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.5
"""Between two looks at the files, and at what is due."""
AGAIN_SECONDS = 10.0
"""After a defect."""

Changed = Callable[[str, str, bool], None]
"""Called with namespace and name of a rollout whose step has another outcome, or one of whose arms is out or no longer, and
whether it cannot wait."""


@dataclass(slots=True)
class _Polled:
    """A source that is asked over the network."""

    reader: ProbeReader | PrometheusReader
    due: float = 0.0
    task: "asyncio.Task[None] | None" = None


@dataclass(slots=True)
class _Readers:
    """Those of one rollout. They outlive its steps: what a probe has said need not be read twice."""

    followed: Followed
    wants: tuple[object, ...]
    """What of the policy they were made by."""
    probe: _Polled | None = None
    prometheus: _Polled | None = None

    def polled(self) -> list[_Polled]:
        return [one for one in (self.probe, self.prometheus) if one is not None]

    def end(self) -> None:
        for one in self.polled():
            if one.task is not None:
                one.task.cancel()


@dataclass(slots=True)
class _Clocks:
    """The wall clock beside one that never goes back: how far the first has jumped."""

    clock: Callable[[], float]
    now: Callable[[], float]
    _offset: float | None = field(default=None)

    def jump(self) -> float:
        """Seconds by which the wall clock jumped since the last time that was asked; 0 for what clocks do by themselves."""
        offset = self.now() - self.clock()
        before, self._offset = self._offset, offset
        moved = 0.0 if before is None else offset - before
        return moved if abs(moved) > CLOCK_TOLERANCE else 0.0


class Analyst:
    """Implements `Verdicts`. `latest` belongs to the event loop that `run` runs in.

    `logs` are the gateway's access logs, one for each Envoy. `clock` counts seconds and never goes back, `now` is the wall
    clock.
    """

    def __init__(
        self,
        logs: Sequence[Path],
        fetch: Fetch,
        *,
        changed: Changed,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._fetch, self._changed, self._clock, self._now = fetch, changed, clock, now
        self._logs = AccessLogs(logs, clock=clock, now=now)
        self._outages = Outages(self._logs, lambda namespace, name: changed(namespace, name, True))
        self._agenda = Agenda()
        self._readers: dict[str, _Readers] = {}
        self._clocks = _Clocks(clock, now)
        self._asked = asyncio.Event()

    def latest(self, step: StepAsked) -> Reading:
        """The newest reading of this very step; the task goes on looking at it while it is asked for."""
        self._asked.set()
        return self._agenda.ask(step, now=self._clock(), wall=self._now())

    def outage(self, arms: ArmsAsked) -> Outage | None:
        """The arm that is out; only who names the access log as a source is told of one."""
        if Source.GATEWAY_ACCESS_LOG not in arms.spec.policy.analysis.sources:
            return None
        self._asked.set()
        return self._outages.ask(arms, self._clock())

    async def run(self) -> None:
        """For ever, until it is cancelled."""
        try:
            while True:
                try:
                    busy = await self.look()
                except Exception:
                    # Rollouts go on without verdicts, and say so when the newest one is too old: an abort has to work.
                    LOG.exception("the analysis broke down; again in %.0f s", AGAIN_SECONDS)
                    await asyncio.sleep(AGAIN_SECONDS)
                    continue
                if busy:
                    await asyncio.sleep(LOOK_SECONDS)
                else:
                    self._asked.clear()
                    await self._asked.wait()
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End what is under way."""
        tasks = [one.task for readers in self._readers.values() for one in readers.polled() if one.task is not None]
        for readers in self._readers.values():
            readers.end()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> bool:
        """Read what is due, look for outages, and judge one step if one is due. Whether anybody asks for anything."""
        live = self._agenda.live(self._clock())
        if jump := self._clocks.jump():
            self._begin_again(live, jump)
        self._arrange(live)
        watched = self._outages.arrange(self._clock())
        if not live and not watched:
            return False
        for readers in self._readers.values():
            for polled in readers.polled():
                self._poll(polled)
        await asyncio.to_thread(self._logs.read)
        self._outages.look(self._now())
        due = self._agenda.next(self._clock())
        readers = None if due is None else self._readers.get(due.step.uid)
        if due is not None and readers is not None and readers.followed is due:  # not one that came meanwhile
            await self._judge(due, readers)
        return True

    # --- readers ----------------------------------------------------------------------------------------------------

    def _arrange(self, live: Sequence[Followed]) -> None:
        """Readers for the steps that there are, and for no others."""
        for uid in self._readers.keys() - {f.step.uid for f in live}:
            self._readers.pop(uid).end()
        arms: dict[Arm, float] = {}
        for followed in live:
            self._arrange_one(followed)
            if Source.GATEWAY_ACCESS_LOG in followed.step.spec.policy.analysis.sources:
                for arm in zip(backends(followed.step), ArmName, strict=True):
                    arms[arm] = min(followed.since, arms.get(arm, followed.since))
        self._logs.follow(arms)

    def _arrange_one(self, followed: Followed) -> None:
        step, analysis = followed.step, followed.step.spec.policy.analysis
        wants = (analysis.sources, analysis.prometheus_address)
        known = self._readers.get(step.uid)
        if known is None or known.wants != wants:
            if known is not None:
                known.end()
            known = self._readers[step.uid] = _Readers(followed, wants)
        if known.followed is not followed:
            known.followed = followed
            for polled in known.polled():
                polled.reader.begin_at(followed.since)
        if Source.PROBE in analysis.sources and known.probe is None:
            known.probe = _Polled(ProbeReader(step, self._fetch, now=self._now, since=followed.since))
        if Source.PROMETHEUS in analysis.sources and known.prometheus is None:
            reader = PrometheusReader(step, self._fetch, now=self._now, clock=self._clock, since=followed.since)
            known.prometheus = _Polled(reader)
        if known.probe is not None and isinstance(known.probe.reader, ProbeReader):
            known.probe.reader.step = step

    def _poll(self, polled: _Polled) -> None:
        if polled.task is None and polled.due <= self._clock():
            polled.task = asyncio.create_task(self._polling(polled))

    async def _polling(self, polled: _Polled) -> None:
        wait = AGAIN_SECONDS
        try:
            wait = await polled.reader.poll()
        except Exception as error:
            LOG.exception("a source of samples broke down")
            polled.reader.failed(f"a defect of the operator's analysis: {error!r}; its log has the whole of it")
        finally:
            polled.due, polled.task = self._clock() + wait, None

    def _begin_again(self, live: Sequence[Followed], jump: float) -> None:
        """The wall clock jumped: no time of before can be compared with one of now."""
        now = self._now()
        LOG.warning("the wall clock jumped by %+.0f s; samples of before count for nothing", jump)
        self._logs.begin_again()
        for followed in live:
            followed.begun = followed.since = now
            before, followed.reading = followed.reading, jumped(jump, now)
            if outcome_of(before) != outcome_of(followed.reading):
                self._tell(followed)
        for readers in self._readers.values():
            if readers.probe is not None and isinstance(readers.probe.reader, ProbeReader):
                readers.probe.reader.forget_all(now)
            if readers.prometheus is not None:
                readers.prometheus.reader.begin_at(now)

    # --- verdicts ---------------------------------------------------------------------------------------------------

    async def _judge(self, followed: Followed, readers: _Readers) -> None:
        remote = {state.source: state for state in (polled.reader.state() for polled in readers.polled())}
        began, wall = self._clock(), self._now()
        try:
            outcome = await asyncio.to_thread(self._concluded, followed.step, followed, remote, wall)
        except Exception as error:
            LOG.exception("a verdict on %s/%s broke down", followed.step.namespace, followed.step.name)
            outcome = Outcome(defective(error, wall))
        if self._agenda.judged(followed, outcome.reading, outcome.void_before, began=began, ended=self._clock()):
            self._tell(followed)

    def _concluded(
        self, step: StepAsked, followed: Followed, remote: dict[Source, SourceState], wall: float
    ) -> Outcome:
        """In a thread, while nothing else reads the logs."""
        states: list[SourceState] = []
        for name in step.spec.policy.analysis.sources:
            source = Source(name)
            if source is Source.GATEWAY_ACCESS_LOG:
                states.append(self._logs.state(*backends(step), followed.since))
            elif source in remote:
                states.append(remote[source])
        sight = together(states, since=followed.since, begun=followed.begun, now=wall)
        return conclude(sight, Policy.of(step.spec), wall)

    def _tell(self, followed: Followed) -> None:
        """Its rollout is looked at now; before all others where traffic has to go back."""
        self._changed(followed.step.namespace, followed.step.name, outcome_of(followed.reading) == "fail")
