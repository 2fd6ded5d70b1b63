"""A rollout's probe as a source: its records are read every second, and with the question it learns what share to sample."""

import asyncio
import logging
from collections.abc import Callable

from pydantic import ValidationError

from sartor_api.probe import CONTROL_PORT, ProbePage
from sartor_operator.rollout.analysis.fetch import Fetch, UnreadableError
from sartor_operator.rollout.analysis.probe_records import ProbeRecords
from sartor_operator.rollout.analysis.sight import SourceState
from sartor_operator.rollout.samples import StepAsked
from sartor_operator.rollout.verdict.samples import ArmName, Source

LOG = logging.getLogger(__name__)
EVERY_SECONDS = 1.0
AGAIN_SECONDS = 2.0
"""After a question that was not answered."""
PATIENCE_SECONDS = 5.0
LONGEST_BYTES = 16 << 20
PAGES = 8
"""Pages that one poll reads at most."""


def share_of(step: StepAsked) -> float:
    """The share of the copies that is sampled, from 0 to 1: the step's per cent where it mirrors, else the policy's."""
    return step.mirror / 100 if step.mirror else float(step.spec.policy.analysis.probe.share.number)


class ProbeReader:
    """One rollout's probe. `now` is the wall clock."""

    def __init__(self, step: StepAsked, fetch: Fetch, *, now: Callable[[], float], since: float) -> None:
        self.step = step
        """The newest that was asked for: it says where the probe is, and what share it samples."""
        self._fetch, self._now = fetch, now
        self._records = ProbeRecords(since)
        self._trouble = ""

    @property
    def url(self) -> str:
        """Where the probe is asked."""
        return f"http://{self.step.probe}.{self.step.namespace}.svc:{CONTROL_PORT}/poll"

    async def poll(self) -> float:
        """Read what is new; what goes wrong is a trouble of the state. Returns seconds until it is worth while again."""
        try:
            for _ in range(PAGES):
                if not await self._page():
                    break
        except UnreadableError as error:
            waits = f" ({self.step.probe_waits})" if self.step.probe_waits else ""
            self._trouble = f"the probe{waits}: {error}"
            return AGAIN_SECONDS
        for why in self._records.voids:
            LOG.warning("%s/%s: %s; what was before counts for nothing", self.step.namespace, self.step.name, why)
        self._records.voids.clear()
        self._trouble = ""
        return EVERY_SECONDS

    async def _page(self) -> bool:
        records = self._records  # another step may take its place while this one waits
        asked = records.ask(share_of(self.step))
        answer = await self._fetch.post(
            self.url, seconds=PATIENCE_SECONDS, longest=LONGEST_BYTES, body=asked.model_dump_json()
        )
        now = self._now()
        page = await asyncio.to_thread(self._understood, answer)
        try:
            return records.take(page, now=now)
        except ValueError as error:
            raise UnreadableError(str(error)) from error

    def _understood(self, answer: bytes) -> ProbePage:
        try:
            page = ProbePage.model_validate_json(answer)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            text = f"{self.url} answered with what is no page of records ({where}: {first['msg']})"
            raise UnreadableError(f"{text}; is its image that of this operator?") from error
        return page

    def failed(self, why: str) -> None:
        """A poll broke down."""
        self._trouble = why

    def begin_at(self, since: float) -> None:
        """Nothing before this time (Unix s) counts any more. A time before the one that held is another step's: all that
        was kept is read anew."""
        if since >= self._records.since:
            self._records.begin_at(since)
        else:
            self._records = ProbeRecords(since)

    def forget_all(self, since: float) -> None:
        """All that was read is void: the clock jumped."""
        self._records.forget_all(since)

    def state(self) -> SourceState:
        """What is known, for both arms."""
        return SourceState(
            Source.PROBE,
            since=self._records.since,
            read_until=self._records.read_until,
            trouble=self._trouble,
            baseline=self._records.arm(ArmName.BASELINE),
            candidate=self._records.arm(ArmName.CANDIDATE),
        )
