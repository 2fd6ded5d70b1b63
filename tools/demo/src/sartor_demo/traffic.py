"""Users, as the demonstration needs them: streams and short requests through the Gateway, in open loop.

Streams are edits with a prediction of what is written, the work that the stack was made for; short requests are not.

`python -m sartor_demo.traffic PLAN` (JSON, the fields of `Plan`). A line of JSON for each request that has ended, and a last
one that counts; it ends by itself after `seconds`, or when its standard input closes, or on SIGTERM: then nothing more is
sent, and what is under way is waited for.

Each request has its moment and is sent then, whatever became of the others; times count from that moment, so that a server
that stalls is not asked less (no coordinated omission). A request is a POST, which the client never sends again by itself.
"""

import asyncio
import json
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import aiohttp

Result = Literal["answered", "failed", "cut"]
WORDS = ("def", "return", "self", "value", "index", "store", "total", "name", "path", "item", "count", "open", "close")
PROMPT_WORDS = 8
SHORT_TOKENS, STREAM_TOKENS = (6, 14), (16, 32)
"""Fewest and most tokens that a short request and a stream ask for."""
STREAMS = 0.7
"""Share of requests that are streamed. Not a half: the median over both kinds would lie in the gap between them, where a
handful of requests moves it from the slowest short one to the fastest stream, and no verdict on it comes to an end."""
OUTSIDE = {"truncate_prompt_tokens": 64}
"""What the baseline does and a stack hands over to it, at no cost."""
DONE = b"data: [DONE]"


@dataclass(frozen=True)
class Plan:
    """What is sent. `rate`: requests a second on average; `seconds` bounds all, `timeout` (seconds) one request. `arrivals`:
    independent of each other, or evenly apart. `streams`, `outside`: shares of requests that are streamed, and that ask for
    what a stack leaves to the baseline. `edits`: ends of prompts and what follows them; a stream ends with one of them and
    has what follows as its `prediction` (predicted outputs). The same `seed` gives the same requests at the same moments."""

    url: str
    host: str
    model: str
    rate: float = 3.0
    seconds: float = 600.0
    seed: int = 1
    arrivals: Literal["poisson", "fixed"] = "poisson"
    streams: float = STREAMS
    outside: float = 0.0
    timeout: float = 120.0
    edits: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Planned:
    """One request: `at` seconds from the begin."""

    number: int
    at: float
    stream: bool
    prompt: str
    tokens: int
    outside: bool = False
    prediction: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of it. Times are seconds from its moment; `first`: to the first byte of a stream's body.

    `cut`: an answer began and did not come to its end. `failed`: none began, or it was an error.
    """

    id: str
    number: int
    stream: bool
    result: Result = "failed"
    late: float = 0.0
    """From its moment to its being sent: what the generator itself, or the machine, was behind."""
    seconds: float = 0.0
    first: float | None = None
    status: int | None = None
    handover: bool = False
    detail: str = ""


def schedule(plan: Plan) -> Iterator[Planned]:
    """The requests in their order, for ever."""
    rng = random.Random(plan.seed)
    at, number = 0.0, 0
    while True:
        at = at + rng.expovariate(plan.rate) if plan.arrivals == "poisson" else (number + 1) / plan.rate
        stream = rng.random() < plan.streams
        tokens = rng.randint(*(STREAM_TOKENS if stream else SHORT_TOKENS))
        prompt, prediction = " ".join(rng.choices(WORDS, k=PROMPT_WORDS)), None
        outside = rng.random() < plan.outside
        if stream and plan.edits:
            end, prediction = rng.choice(plan.edits)
            prompt = f"{prompt} {end}"
        yield Planned(number, at, stream, prompt, tokens, outside, prediction)
        number += 1


def body(plan: Plan, one: Planned) -> dict[str, Any]:
    """An engine without predicted outputs passes a `prediction` over, as vLLM does."""
    predicted = {} if one.prediction is None else {"prediction": {"type": "content", "content": one.prediction}}
    return {
        "model": plan.model,
        "prompt": one.prompt,
        "max_tokens": one.tokens,
        "temperature": 0,
        "stream": one.stream,
        **predicted,
        **(OUTSIDE if one.outside else {}),
    }


def whole(answer: bytes, *, stream: bool) -> tuple[Result, str]:
    """Whether the body of a 200 is an answer to its end."""
    if stream:
        lines = [line for line in answer.splitlines() if line]
        if any(line.startswith(b'data: {"error"') for line in lines):
            return "failed", "the stream has an error in it"
        return ("answered", "") if lines and lines[-1].startswith(DONE) else ("cut", "the stream has no end")
    try:
        content = json.loads(answer)
    except ValueError:
        return "cut", "the answer is no JSON"
    if not isinstance(content, dict) or "choices" not in content:
        return "failed", "the answer has no choices"
    return "answered", ""


async def send(
    session: aiohttp.ClientSession, plan: Plan, one: Planned, due: float, clock: Callable[[], float]
) -> Outcome:
    """One request, now. `due`: its moment on `clock`."""
    identity = str(uuid.uuid4())
    found = Outcome(identity, one.number, one.stream, late=clock() - due)
    headers = {"Host": plan.host, "X-Request-Id": identity}
    parts: list[bytes] = []
    try:
        async with session.post(plan.url + "/v1/completions", headers=headers, json=body(plan, one)) as response:
            found = replace(
                found, result="cut", status=response.status, handover="X-Sartor-Handover" in response.headers
            )
            async for part in response.content.iter_any():
                if not parts and one.stream:
                    found = replace(found, first=clock() - due)
                parts.append(part)
        result, detail = whole(b"".join(parts), stream=one.stream)
        if found.status != 200:
            result, detail = "failed", f"HTTP {found.status}: {b''.join(parts)[:120]!r}"
        found = replace(found, result=result, detail=detail)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = str(error) or f"not done after {plan.timeout:g} s"
        found = replace(found, detail=f"{type(error).__name__}: {why}")
    return replace(found, seconds=clock() - due)


class Generator:
    """Sends a plan. `tell` gets each outcome as it comes; `stop` ends it early."""

    def __init__(
        self, plan: Plan, tell: Callable[[Outcome], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan, self._tell, self._clock = plan, tell, clock
        self._stopped = asyncio.Event()
        self.counts: Counter[str] = Counter()
        """By result; `sent` in all."""

    def stop(self) -> None:
        """Send nothing more. Idempotent."""
        self._stopped.set()

    async def run(self) -> None:
        """Returns when everything that was sent has ended."""
        plan, begun = self._plan, self._clock()
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=plan.timeout)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for one in schedule(plan):
                if one.at > plan.seconds or await self._stops_before(begun + one.at):
                    return
                self.counts["sent"] += 1
                group.create_task(self._one(session, one, begun + one.at))

    async def _stops_before(self, moment: float) -> bool:
        try:
            await asyncio.wait_for(self._stopped.wait(), max(0.0, moment - self._clock()))
        except TimeoutError:
            return self._stopped.is_set()
        return True

    async def _one(self, session: aiohttp.ClientSession, one: Planned, due: float) -> None:
        outcome = await send(session, self._plan, one, due, self._clock)
        self.counts[outcome.result] += 1
        self._tell(outcome)


async def _main(plan: Plan) -> None:
    def line(content: dict[str, Any]) -> None:
        print(json.dumps(content), flush=True)

    generator = Generator(plan, lambda outcome: line({"kind": "Outcome", **asdict(outcome)}))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, generator.stop)
    loop.add_reader(0, generator.stop)  # nothing is ever written there: it can only close, with whoever started this
    await generator.run()
    loop.remove_reader(0)
    results = ("sent", "answered", "failed", "cut")
    line({"kind": "Counted", **{result: generator.counts[result] for result in results}})


if __name__ == "__main__":
    asyncio.run(_main(Plan(**json.loads(sys.argv[1]))))
