"""The access logs of a gateway, one file for each Envoy, as one source.

What is known begins where all of them are known and ends where the least of them was read to: a request is in one of them,
and nobody knows in which.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sartor_operator.rollout.accesslog import KEEP, AccessLog, Arm
from sartor_operator.rollout.analysis.reach import Reach
from sartor_operator.rollout.analysis.sight import SourceState
from sartor_operator.rollout.record_samples import sample_of
from sartor_operator.rollout.records import Backend, RequestRecord
from sartor_operator.rollout.tail import Tail
from sartor_operator.rollout.verdict.samples import ArmName, ArmSamples, Source

LOG = logging.getLogger(__name__)
SAMPLES = 400_000
"""Samples of all arms of all rollouts together, about 120 MB."""
LOOKS = 4
"""Looks at a file in one reading: what one of them takes is bounded, so that others get their turn."""
GONE_SECONDS = 30.0
"""A file that was there may be away for so long: whoever rotates it takes it away before the new one is made."""

NOT_GIVEN = (
    "policy.analysis.sources names it, and this operator was started without --access-log; start it with the gateway's log, "
    "or take the source out of the policy"
)


@dataclass(slots=True)
class _File:
    path: Path
    log: AccessLog
    trouble: str = ""
    gone_since: float | None = None
    gaps: int = 0
    behind: bool = True
    """There is more to read already."""


class AccessLogs:
    """`clock` counts seconds and never goes back; `now` is the wall clock. Not safe in several threads at once."""

    def __init__(
        self, paths: Sequence[Path], *, clock: Callable[[], float], now: Callable[[], float], samples: int = SAMPLES
    ) -> None:
        self._paths, self._clock, self._now, self._samples = tuple(paths), clock, now, samples
        self._files = [self._opened(path, from_end=False) for path in self._paths]
        self._reach: dict[Backend, Reach] = {}

    def begin_again(self) -> None:
        """Forget everything, and go on with what is written from now on: the clock jumped."""
        self._files = [self._opened(path, from_end=True) for path in self._paths]
        self._begin_reach_again()

    def follow(self, arms: Mapping[Arm, float]) -> None:
        """Keep the samples of these arms, each from the time (Unix s) on that is given with it."""
        keep = min(KEEP, self._samples // max(1, len(arms) * len(self._files)))
        for file in self._files:
            file.log.follow(arms, keep=keep)
            for arm, since in arms.items():
                file.log.forget(arm, since)

    def watch(self, backends: Collection[Backend]) -> None:
        """Keep what `reach` tells of these and of no others, from what is read next on."""
        self._reach = {backend: self._reach.get(backend) or Reach() for backend in backends}

    def reach(self, backend: Backend) -> Reach | None:
        """What the records of all files say of one Service; None where it is not watched."""
        return self._reach.get(backend)

    @property
    def whole(self) -> bool:
        """Whether every file was read to its end: what none of them tells of was not written (yet)."""
        return bool(self._files) and not any(file.trouble or file.behind for file in self._files)

    def read(self) -> None:
        """Read on in every file. What cannot be read is a trouble of the state; nothing is raised."""
        for file in self._files:
            try:
                for _ in range(LOOKS):
                    file.behind = file.log.read()
                    if not file.behind:
                        break
                file.trouble = self._missing(file)
            except OSError as error:
                file.trouble = f"{file.path}: {error.strerror or error}; let the operator read it (--access-log)"
            if file.log.losses.gaps > file.gaps:
                file.gaps = file.log.losses.gaps
                self._begin_reach_again()
                LOG.warning("%s: lines were lost; what was before counts for nothing", file.path)

    def state(self, baseline: Backend, candidate: Backend, since: float) -> SourceState:
        """What the logs have of both arms."""
        if not self._files:
            return SourceState(Source.GATEWAY_ACCESS_LOG, trouble=NOT_GIVEN, lasting=True)
        trouble = "; ".join(file.trouble for file in self._files if file.trouble)
        found = [file.log.observed(baseline=baseline, candidate=candidate, since=since) for file in self._files]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return SourceState(Source.GATEWAY_ACCESS_LOG, trouble=trouble or "it is read from its begin on")
        return SourceState(
            Source.GATEWAY_ACCESS_LOG,
            since=max(one.since for one in known),
            read_until=min(one.read_until for one in known),
            trouble=trouble,
            baseline=_merged([one.baseline for one in known]),
            candidate=_merged([one.candidate for one in known]),
        )

    def _opened(self, path: Path, *, from_end: bool) -> _File:
        tail = Tail(path, clock=self._clock, from_end=from_end)
        return _File(path, AccessLog(tail, now=self._now, seen=self._see))

    def _see(self, record: RequestRecord) -> None:
        backend = record.backend
        reach = None if backend is None else self._reach.get(backend)
        if backend is None or reach is None:
            return
        sample = sample_of(record, {backend: ArmName.BASELINE})  # whichever of the two it is
        if sample is not None:
            reach.take(sample)

    def _begin_reach_again(self) -> None:
        self._reach = {backend: Reach() for backend in self._reach}

    def _missing(self, file: _File) -> str:
        if not file.log.there:
            return f"{file.path} does not exist; does the gateway write its log there (--access-log)?"
        if file.path.exists():
            file.gone_since = None
            return ""
        now = self._clock()
        file.gone_since = now if file.gone_since is None else file.gone_since
        gone = now - file.gone_since > GONE_SECONDS
        return f"{file.path} was there and does not exist any more; where does the gateway write?" if gone else ""


def _merged(arms: Sequence[ArmSamples]) -> ArmSamples:
    return ArmSamples([sample for arm in arms for sample in arm.requests])
