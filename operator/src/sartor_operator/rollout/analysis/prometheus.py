"""Prometheus as a source: the gateway's counters of both arms since the step began, asked for anew each time.

The whole range is asked for every time, so that nothing has to be joined: 20 minutes of one gateway are 300 kB. What makes
the counters of before worthless (one began again, a gateway came or went) moves the begin of what counts behind it.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping

from sartor_operator.rollout.analysis.fetch import SHOWN, Fetch, UnreadableError
from sartor_operator.rollout.analysis.sight import SourceState
from sartor_operator.rollout.samples import StepAsked
from sartor_operator.rollout.scrapes import ENVOY, query, scrapes
from sartor_operator.rollout.verdict.samples import ArmName, ArmSamples, SampleError, Scrape, Source

LOG = logging.getLogger(__name__)
EVERY_SECONDS = 5.0
REST = 20.0
"""An answer that took t seconds to be read is followed by none for this multiple of t."""
PATIENCE_SECONDS = 10.0
LONGEST_BYTES = 32 << 20
LONGEST_RANGE = 4 * 3600.0
"""Of a step that lasts longer the newer half counts, so that the answer stays bounded."""
MARGIN_SECONDS = 15.0
"""More than the range that counts, so that clocks that differ lose nothing."""


class PrometheusReader:
    """One rollout's counters. `now` is the wall clock, `clock` one that never goes back."""

    def __init__(
        self, step: StepAsked, fetch: Fetch, *, now: Callable[[], float], clock: Callable[[], float], since: float
    ) -> None:
        self._fetch, self._now, self._clock = fetch, now, clock
        self._url = f"{(step.spec.policy.analysis.prometheus_address or '').rstrip('/')}/api/v1/query"
        self._arms = {
            f"{step.namespace}_{arm.service}_{arm.port}": name
            for name, arm in ((ArmName.BASELINE, step.spec.baseline), (ArmName.CANDIDATE, step.spec.candidate))
        }
        self._since = since
        self._found: Mapping[ArmName, list[Scrape]] = {}
        self._trouble = ""

    async def poll(self) -> float:
        """Ask once; what goes wrong is a trouble of the state. Returns seconds until it is worth while again."""
        now, took = self._now(), 0.0
        if now - self._since > LONGEST_RANGE:
            self._since = now - LONGEST_RANGE / 2
        asked = query(ENVOY, self._arms, max(1.0, now - self._since) + MARGIN_SECONDS)
        try:
            answer = await self._fetch.post(
                self._url, seconds=PATIENCE_SECONDS, longest=LONGEST_BYTES, form={"query": asked}
            )
            begun = self._clock()
            self._found = await asyncio.to_thread(self._read, answer)
            took = self._clock() - begun
            self._trouble = "" if self._until() is not None else self._nothing()
        except UnreadableError as error:
            self._trouble = str(error)
        except SampleError as error:
            self._void(error)
        return max(EVERY_SECONDS, REST * took)

    def failed(self, why: str) -> None:
        """A poll broke down."""
        self._trouble = why

    def begin_at(self, since: float) -> None:
        """Nothing before this time (Unix s) counts, and all that comes from then on does."""
        self._since, self._found = since, {}

    def state(self) -> SourceState:
        """What is known, for both arms."""
        return SourceState(
            Source.PROMETHEUS,
            since=self._since,
            read_until=self._until(),
            trouble=self._trouble,
            baseline=ArmSamples(scrapes=self._found.get(ArmName.BASELINE, [])),
            candidate=ArmSamples(scrapes=self._found.get(ArmName.CANDIDATE, [])),
        )

    def _read(self, answer: bytes) -> dict[ArmName, list[Scrape]]:
        try:
            content = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise UnreadableError(f"{self._url} answered with what is no JSON: {str(error)[:SHOWN]}") from error
        return scrapes(content, ENVOY, self._arms, since=self._since)

    def _until(self) -> float | None:
        return max((rows[-1].at for rows in self._found.values() if rows), default=None)

    def _nothing(self) -> str:
        return (
            f"{self._url} has no {ENVOY.requests} of {' or '.join(sorted(self._arms))} since the step began; does it "
            "scrape the gateway?"
        )

    def _void(self, error: SampleError) -> None:
        self._trouble = str(error)[: 2 * SHOWN]
        if error.before is None or error.before <= self._since:
            return
        LOG.warning("%s: %s; what was before counts for nothing", self._url, error)
        self.begin_at(error.before)
