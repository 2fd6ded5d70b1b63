"""A call from its reservation to its record: forwarded, counted, written down."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import aiohttp

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.model_proxy.answers import Reading, asked
from sartor_agents.model_proxy.config import ProxyConfig
from sartor_agents.model_proxy.endpoints import Endpoint, Endpoints, OutError, RefusedByProviderError
from sartor_agents.model_proxy.flight import Flight, Head
from sartor_agents.model_proxy.ledger import Ledger, Recorded
from sartor_agents.model_proxy.policy import FIRST_RATIO, Admitted, learned, most, nano
from sartor_agents.transcripts.events import Answered, Asked, Entry, Failed, Repeated, TranscriptEvent
from sartor_agents.transcripts.redact import Redactor
from sartor_agents.transcripts.store import TranscriptStore
from sartor_api.search.grants import Grant

REMEMBERED = 256
"""Conversations whose last request is remembered, to write down only what is new in the next."""
BYTES_PER_TOKEN = 4
"""Of a stream that broke off: what has come is charged as if every so many bytes of it were a token. Events carry more
around a token than that, so it is too much rather than too little; never more than was reserved."""

JSON = "application/json"


def error_body(message: str, code: str, param: str | None = None) -> bytes:
    """An error as OpenAI's services write it."""
    return json.dumps({"error": {"message": message, "type": "sartor", "param": param, "code": code}}).encode()


@dataclass(frozen=True)
class Under:
    """What is the same for all steps of one call."""

    grant: Grant
    admitted: Admitted
    number: int
    reserved: TokenUse
    began: float
    read: TokenUse = field(default_factory=TokenUse)
    """What providers are taken to have read that were lost before they answered: they may bill it."""


class Calls:
    """All calls under way. Runs in one event loop; the ledger's commits are the only thing that blocks it."""

    def __init__(
        self,
        config: ProxyConfig,
        ledger: Ledger,
        endpoints: Endpoints,
        transcripts: TranscriptStore,
        redact: Redactor,
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._config, self._ledger, self._endpoints = config, ledger, endpoints
        self._transcripts, self._redact = transcripts, redact
        self._now, self._clock = now, clock
        self._flights: dict[tuple[str, str], Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ratios: dict[str, float] = {}
        self._heard: OrderedDict[tuple[str, str], tuple[list[bytes], list[bytes]]] = OrderedDict()

    def make(self, grant: Grant, admitted: Admitted) -> Flight | Recorded:
        """The call under its name: begun, joined if it is under way, or its recorded answer.

        Raises `BudgetError`; then nothing was asked.
        """
        key = (grant.run, admitted.id)
        if (flight := self._flights.get(key)) is not None:
            return flight
        reserved = most(admitted, self._ratios.get(admitted.model, FIRST_RATIO))
        # Nobody works on an open call that has no flight: its record could not be written. It is charged in full.
        self._ledger.lose(grant.run, admitted.id, now=self._now())
        made = self._ledger.reserve(
            grant,
            admitted.id,
            model=admitted.model,
            api=admitted.api,
            tokens=reserved.total,
            money=self._money(admitted, reserved),
            request=admitted.body,
            now=self._now(),
        )
        if isinstance(made, Recorded):
            self._tell(grant, Repeated(at=self._now(), call=admitted.id))
            return made
        flight = self._flights[key] = Flight()
        under = Under(grant, admitted, made, reserved, self._clock())
        task = asyncio.create_task(self._fly(flight, under), name=f"call {admitted.id}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._landed(key, flight, done))
        return flight

    async def close(self) -> None:
        """End what is under way; it is charged with what had come of it."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _landed(self, key: tuple[str, str], flight: Flight, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._flights.pop(key, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})
        if error is not None or task.cancelled():
            flight.break_off()

    async def _fly(self, flight: Flight, under: Under) -> None:
        self._tell(under.grant, self._asked(under))
        read = TokenUse()

        def unanswered() -> None:
            nonlocal read
            read = read + TokenUse(input=under.reserved.input)

        try:
            endpoint, response = await self._endpoints.open(
                under.admitted.api, under.admitted.body, unanswered=unanswered
            )
        except OutError as error:
            self._fail(under, "ProviderOut", str(error), read, "")
            text = error_body(self._redact(str(error)), error.code)
            flight.answer(Head(error.status, JSON, max(0.0, error.retry_after)), text)
            return
        except RefusedByProviderError as error:
            said = self._redact(error.body.decode(errors="replace"))
            self._fail(under, "ProviderRefused", said[:500], read, "")
            flight.answer(Head(error.status, error.content_type), said.encode())
            return
        except asyncio.CancelledError:
            # The provider may have taken the request: what it bills for it is unknown, as after a kill.
            self._fail(under, "Ended", "the proxy was stopped", under.reserved, "")
            raise
        await self._listen(flight, replace(under, read=read), endpoint, response)

    async def _listen(self, flight: Flight, under: Under, endpoint: Endpoint, response: aiohttp.ClientResponse) -> None:
        endpoint.breaker.released()
        streamed = response.content_type == "text/event-stream"
        reading = Reading(under.admitted.api, streamed)
        pieces: list[bytes] = []
        size = 0
        problem = ""
        try:
            async with response:
                flight.begin(Head(200, response.headers.get("Content-Type", JSON)))
                async for piece in response.content.iter_any():
                    size += len(piece)
                    if size > self._config.maximum_answer_bytes:
                        break
                    pieces.append(piece)
                    reading.feed(piece)
                    flight.add(piece)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = f"{endpoint.url}: the answer broke off: {type(error).__name__}"
        except asyncio.CancelledError:
            self._fail(under, "Ended", "the proxy was stopped", under.read + self._so_far(under, size), endpoint.url)
            raise
        if size > self._config.maximum_answer_bytes:
            self._too_long(flight, under, endpoint, size)
            return
        reading.end()
        if not problem and not reading.whole:
            problem = f"{endpoint.url}: {reading.error or 'the answer ended before its end'}"
        if problem:
            endpoint.breaker.failed(problem, self._clock())
            self._fail(
                under, "BrokenOff", problem, under.read + (reading.use or self._so_far(under, size)), endpoint.url
            )
            # An error that the provider told inside of the stream is the caller's to read.
            if reading.error:
                flight.end()
            else:
                flight.break_off()
            return
        endpoint.breaker.succeeded()
        answer = Recorded(200, response.headers.get("Content-Type", JSON), b"".join(pieces))
        self._record(under, endpoint, reading, answer)
        flight.end()

    def _too_long(self, flight: Flight, under: Under, endpoint: Endpoint, size: int) -> None:
        """Recorded as the call's answer: asking again under the same name would only pay for it again."""
        endpoint.breaker.succeeded()
        message = f"an answer of more than {self._config.maximum_answer_bytes >> 20} MiB"
        answer = Recorded(502, JSON, error_body(message, "answer_too_long"))
        use = under.read + self._so_far(under, size)
        money = self._money(under.admitted, use)
        self._ledger.record(under.number, use, money, answer, endpoint=endpoint.url, estimated=True, now=self._now())
        self._tell(
            under.grant,
            Failed(at=self._now(), call=under.admitted.id, reason="AnswerTooLong", message=message, tokens=use.total),
        )
        flight.break_off()

    # --- books and transcripts ----------------------------------------------------------------------------------------

    def _money(self, admitted: Admitted, use: TokenUse) -> int:
        return nano(self._config.money(admitted.model), use)

    def _so_far(self, under: Under, size: int) -> TokenUse:
        """What a call is charged with that broke off after `size` bytes."""
        return TokenUse(input=under.reserved.input, output=min(under.reserved.output, size // BYTES_PER_TOKEN))

    def _record(self, under: Under, endpoint: Endpoint, reading: Reading, answer: Recorded) -> None:
        admitted, estimated = under.admitted, reading.use is None or not reading.use.total
        use = self._so_far(under, reading.said) if estimated or reading.use is None else reading.use
        if not estimated:
            self._ratios[admitted.model] = learned(self._ratios.get(admitted.model), len(admitted.body), use.input)
        charged = use + under.read
        money = self._money(admitted, charged)
        self._ledger.record(
            under.number, charged, money, answer, endpoint=endpoint.url, estimated=estimated, now=self._now()
        )
        price = self._config.money(admitted.model)
        entries = reading.entries()
        self._tell(
            under.grant,
            Answered(
                at=self._now(),
                call=admitted.id,
                entries=entries,
                end=reading.ended()[:64],
                endpoint=endpoint.url,
                seconds=max(0.0, self._clock() - under.began),
                input=use.input,
                cached_input=use.cached_input,
                output=use.output,
                reasoning=use.reasoning,
                money=None if price is None else str(price.of(use)),
                estimated=estimated,
            ),
        )
        before, _ = self._heard.get((under.grant.run, under.grant.step), ([], []))
        self._heard[(under.grant.run, under.grant.step)] = (before, [_mark(entry) for entry in entries])

    def _fail(self, under: Under, reason: str, message: str, use: TokenUse, endpoint: str) -> None:
        money = self._money(under.admitted, use)
        self._ledger.fail(under.number, use, money, endpoint=endpoint, now=self._now())
        self._tell(
            under.grant,
            Failed(at=self._now(), call=under.admitted.id, reason=reason, message=message, tokens=use.total),
        )

    def _asked(self, under: Under) -> Asked:
        """The request without what the transcript has of this conversation already."""
        admitted, grant = under.admitted, under.grant
        entries = asked(admitted.api, json.loads(admitted.body))
        marks = [_mark(entry) for entry in entries]
        key = (grant.run, grant.step)
        before, answered = self._heard.pop(key, ([], []))
        goes_on = bool(before) and marks[: len(before)] == before
        new: tuple[Entry, ...] = entries
        if goes_on:
            at = len(before)
            while at < len(marks) and at - len(before) < len(answered) and marks[at] == answered[at - len(before)]:
                at += 1
            new = entries[at:]
        self._heard[key] = (marks, [])
        while len(self._heard) > REMEMBERED:
            self._heard.popitem(last=False)
        return Asked(
            at=self._now(),
            call=admitted.id,
            role=grant.role,
            model=admitted.model,
            api=admitted.api,
            anew=not goes_on,
            entries=new,
        )

    def _tell(self, grant: Grant, event: TranscriptEvent) -> None:
        self._transcripts.append(grant.run, grant.step, event)


def _mark(entry: Entry) -> bytes:
    return hashlib.sha256(f"{entry.kind}\0{entry.id}\0{entry.name}\0{entry.text}".encode(errors="replace")).digest()
