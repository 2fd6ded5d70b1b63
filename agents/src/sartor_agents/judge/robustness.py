"""Bad input and bad clients: answered as vLLM answers, or handed over; never a crash, a hang, or another user's loss.

Every case is followed by a look at /health. The reference is the recorded table (`answers`). Where a candidate's answer
differs from it, or the table does not have the case, the baseline beside it is asked the same: a hand-over is the baseline's
answer (another version of vLLM, or the fall-back server), and that one is right too.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sartor_agents.measurement.client import LoadClient, healthy
from sartor_agents.measurement.http1 import Exchange
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest

from .answers import Answer, expected, fault
from .cases import Case, api_of, bodies, wire
from .connections import half_requests, idle_connections, pipelined, slow_reader
from .limits import timed
from .opening import Bench

ANSWER_WITHIN = 20.0
"""Seconds for one case. A bad request costs a server nothing; a huge `max_tokens` is streamed, and its first bytes count."""
_HEALTH_WITHIN = 10.0
_HEALTH_TRIES = 3


@dataclass(frozen=True, slots=True)
class Robustness:
    """Runs the battery against the candidate, around a request from the scenario's stream."""

    bench: Bench
    request: GenerationRequest

    async def all(self) -> list[Check]:
        """Bad input, bad HTTP, then bad clients. Stops when the server does not come back."""
        parts: dict[str, Callable[[], Awaitable[Check]]] = {
            "bad-input": self.bad_input,
            "bad-http": self.bad_http,
            "half-requests": lambda: half_requests(self.bench, self.request),
            "idle-connections": lambda: idle_connections(self.bench, self.request),
            "slow-reader": lambda: slow_reader(self.bench, self.request),
        }
        checks: list[Check] = []
        for name, part in parts.items():
            check = await timed(self.bench, name, part())
            checks.append(check)
            if check.reason in (Reason.BAD_INPUT_CRASHED, Reason.CHECK_TIMED_OUT):
                break
        return checks

    async def bad_input(self) -> Check:
        """Bad bodies, each in turn."""
        return await self._battery("bad-input", self._bodies)

    async def bad_http(self) -> Check:
        """Bad HTTP, each in turn; then two requests in one packet, which is good HTTP."""
        check = await self._battery("bad-http", self._wire)
        if not check.passed:
            return check
        problem = await pipelined(self.bench, self.request)
        if problem is not None:
            return Check(
                name="bad-http", passed=False, reason=problem[0], message=f"pipelined requests: {problem[1]}",
                evidence={"case": "pipelined requests"},
            )  # fmt: skip
        return check

    def _bodies(self, client: LoadClient) -> list[Case]:
        longest = self.bench.max_model_len()
        return bodies(self.request, authority=_authority(client), model=client.model, max_model_len=longest)

    def _wire(self, client: LoadClient) -> list[Case]:
        return wire(self.request, authority=_authority(client), model=client.model)

    async def _battery(self, name: str, build: Callable[[LoadClient], list[Case]]) -> Check:
        cases = build(self.bench.client)
        different: list[str] = []
        for number, case in enumerate(cases):
            exchange = await ask(self.bench.client, case)
            answer, wanted = Answer.of(exchange), expected(api_of(self.request), case.name)
            if case.either and answer.outcome in ("answered", "refused"):
                wanted = answer
            problem = fault(answer, wanted, shown=_beginning(exchange))
            if (problem is not None or wanted is None) and (beside := await self._baseline(build, number)) is not None:
                as_baseline = answer.outcome == beside.outcome != "silent"
                problem = None if as_baseline else fault(answer, wanted or beside, shown=_beginning(exchange))
            if problem is None and not await self._alive():
                problem = (Reason.BAD_INPUT_CRASHED, "/health does not answer 200 after it")
            if problem is not None:
                reason, message = problem
                return Check(
                    name=name,
                    passed=False,
                    reason=reason,
                    message=f"{case.name}: {message}",
                    requests=number + 1,
                    reproduce=shown(case),
                    evidence={"case": case.name},
                )
            if wanted is not None and answer != wanted:
                different.append(
                    f"{case.name}: {answer.outcome} {answer.status}, vLLM {wanted.outcome} {wanted.status}"
                )
        return Check(
            name=name, passed=True, reason=Reason.PASSED, message=f"{len(cases)} cases", requests=len(cases),
            evidence={"different_and_allowed": different},
        )  # fmt: skip

    async def _baseline(self, build: Callable[[LoadClient], Sequence[Case]], number: int) -> Answer | None:
        """What the baseline beside the candidate answers to the same case; None without one."""
        baseline = self.bench.baseline
        if baseline is None:
            return None
        exchange = await ask(baseline, build(baseline)[number])
        self.bench.note_baseline(exchange.status == 200)
        return Answer.of(exchange)

    async def _alive(self) -> bool:
        for _ in range(_HEALTH_TRIES):
            if await healthy(self.bench.client.endpoint, timeout=_HEALTH_WITHIN):
                return True
        return False


async def ask(client: LoadClient, case: Case) -> Exchange:
    """Send a case on a connection of its own; a stream is left as soon as it begins."""
    try:
        connection = await client.connect()
    except (OSError, TimeoutError) as error:
        now = client.clock()
        return Exchange(now, end=now, error=ErrorClass.CONNECT, detail=str(error))
    try:
        if case.streamed:
            return await connection.leave_early(case.payload, timeout=ANSWER_WITHIN)
        return await connection.exchange(case.payload, timeout=ANSWER_WITHIN, stall_timeout=ANSWER_WITHIN)
    finally:
        connection.close()


def shown(case: Case) -> dict[str, Any]:
    """The case as it is shown; long values are cut, since the shape is the point."""
    if case.reproduce is None:
        return {"bytes": case.payload[:300].decode("latin-1")}
    return {k: (v[:200] + "…" if isinstance(v, str) and len(v) > 200 else v) for k, v in case.reproduce.items()}


def _beginning(exchange: Exchange) -> str:
    return exchange.detail or repr(exchange.body[:200])


def _authority(client: LoadClient) -> str:
    return urlsplit(client.endpoint.url).netloc
