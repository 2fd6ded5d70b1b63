"""Bad input: a clear 4xx as vLLM gives it, or a hand-over; never a crash, a hang, or a 5xx.

Every case is followed by a look at /health. Cases that vLLM itself answers in either way (an empty prompt, a `max_tokens`
beyond the model's length) may be answered with 200 as well; there only survival counts.
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sartor_agents.measurement.client import LoadClient, healthy
from sartor_agents.measurement.http1 import Connection, Exchange, encode_request
from sartor_agents.measurement.messages import Check, Reason
from sartor_agents.measurement.samples import ErrorClass, GenerationRequest, Sample

from .shrink import with_length

_ANSWER_WITHIN = 20.0
_HEALTH_WITHIN = 10.0
_HEALTH_TRIES = 3
_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Case:
    """One bad request. `lenient`: 200 is an answer too. `explained`: a 4xx must carry a JSON error with a message."""

    name: str
    payload: bytes
    lenient: bool = False
    explained: bool = True
    reproduce: Mapping[str, Any] | None = None


def cases(request: GenerationRequest, *, authority: str, model: str, max_model_len: int) -> list[Case]:
    """The battery, built around one well-formed request."""
    path = request.path
    key = "prompt" if "prompt" in request.body else "messages"
    good: dict[str, Any] = {"model": model, **request.body, "max_tokens": _TOKENS, "stream": False}
    good.pop("prediction", None)

    def post(name: str, body: bytes | Mapping[str, Any], **kind: bool) -> Case:
        shown = None if isinstance(body, bytes) else {"path": path, **body}
        return Case(name, encode_request("POST", authority, path, body), reproduce=shown, **kind)

    def altered(name: str, changes: Mapping[str, Any], **kind: bool) -> Case:
        return post(name, {**good, **changes}, **kind)

    encoded = json.dumps(good).encode()
    long_text = "x " * (2 * max_model_len)
    long_prompt: Any = long_text if key == "prompt" else [{"role": "user", "content": long_text}]
    battery = [
        post("empty body", b""),
        post("malformed JSON", encoded[: len(encoded) // 2]),
        post("JSON that is not an object", b"[1, 2, 3]"),
        post("invalid UTF-8", encoded.replace(b'"model"', b'"mod\xff\xfeel"', 1)),
        post("deeply nested JSON", b"[" * 100_000),
        altered("wrong type of the prompt", {key: {"not": "a prompt"}}),
        altered("wrong type of max_tokens", {"max_tokens": "many"}),
        altered("wrong type of temperature", {"temperature": "hot"}),
        altered("wrong type of stream", {"stream": {"yes": 1}}),
        altered("negative max_tokens", {"max_tokens": -5}),
        altered("negative temperature", {"temperature": -1}),
        altered("top_p above one", {"top_p": 5}),
        altered("no answers asked", {"n": 0}),
        altered("unknown model", {"model": "no-such-model"}),
        altered("over-long prompt", {key: long_prompt}),
        altered("max_tokens zero", {"max_tokens": 0}, lenient=True),
        altered("huge max_tokens", {"max_tokens": 10**9, "stream": True}, lenient=True),
        altered("max_tokens beyond 64 bits", {"max_tokens": 10**30}, lenient=True),
        altered("unknown fields", {"no_such_field": [1, {"a": None}]}, lenient=True),
        altered("null in every option", {"temperature": None, "top_p": None, "stop": None, "seed": None}, lenient=True),
        Case("unknown path", encode_request("GET", authority, "/v1/no-such-path"), explained=False),
        Case("wrong method", encode_request("DELETE", authority, path), explained=False),
    ]
    if key == "prompt":
        battery += [
            altered("empty prompt", {"prompt": ""}, lenient=True),
            altered("empty list of prompts", {"prompt": []}),
            altered("token ids that are no tokens", {"prompt": [1, 10**9]}),
            altered("token ids of mixed types", {"prompt": [1, "two", None]}),
            altered("NUL and lone surrogate", {"prompt": "a\x00b\ud800c"}, lenient=True),
        ]
    else:
        battery += [altered("empty messages", {"messages": []}), altered("unknown role", {"messages": [{"role": 5}]})]
    return battery


@dataclass(frozen=True, slots=True)
class Robustness:
    """Runs the battery against one server, around a request from the scenario's stream."""

    client: LoadClient
    request: GenerationRequest
    max_model_len: int
    idle_connections: int
    timeout: float

    async def all(self) -> list[Check]:
        """Bad input, then idle connections, then a slow reader. Stops when the server does not come back."""
        checks: list[Check] = []
        for part in (self.bad_input, self.idle, self.slow_reader):
            begun = self.client.clock()
            check = await part()
            checks.append(check.model_copy(update={"seconds": self.client.clock() - begun}))
            if check.reason is Reason.BAD_INPUT_CRASHED:
                break
        return checks

    async def bad_input(self) -> Check:
        """Every case in turn."""
        authority = urlsplit(self.client.endpoint.url).netloc
        battery = cases(self.request, authority=authority, model=self.client.model, max_model_len=self.max_model_len)
        for case in battery:
            problem = judge_answer(case, await self._ask(case))
            if problem is None and not await self._alive():
                problem = (Reason.BAD_INPUT_CRASHED, "/health does not answer 200 after it")
            if problem is not None:
                reason, message = problem
                return Check(
                    name="bad-input",
                    passed=False,
                    reason=reason,
                    message=f"{case.name}: {message}",
                    requests=battery.index(case) + 1,
                    reproduce=_short(case),
                    evidence={"case": case.name},
                )
        return Check(name="bad-input", passed=True, reason=Reason.PASSED, message="", requests=len(battery))

    async def idle(self) -> Check:
        """A request is served while many connections are open and silent."""
        idle: list[Connection] = []
        try:
            for _ in range(self.idle_connections):
                try:
                    idle.append(await self.client.connect())
                except (OSError, TimeoutError):
                    break  # the server's limit, or ours; the request below decides
            sample = await self.client.send(self._small(), timeout=self.timeout)
        finally:
            for connection in idle:
                connection.close()
        return self._served("idle-connections", sample, connections=len(idle))

    async def slow_reader(self) -> Check:
        """A client that does not read holds up nobody else, and gets its whole answer when it reads on."""
        try:
            connection = await self.client.connect()
        except (OSError, TimeoutError) as error:
            return _crashed("slow-reader", f"no connection: {error}")
        connection.pause()
        payload = self.client.encode(self.request)
        reading = asyncio.ensure_future(connection.exchange(payload, timeout=self.timeout, stall_timeout=self.timeout))
        try:
            sample = await self.client.send(self._small(), timeout=self.timeout)
            connection.resume()
            exchange = await reading
        finally:
            connection.close()
            if not reading.done():
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading
        if exchange.error is not None or exchange.status != 200:
            return _crashed("slow-reader", f"its answer: {exchange.detail or f'HTTP {exchange.status}'}")
        return self._served("slow-reader", sample)

    def _small(self) -> GenerationRequest:

        return with_length(self.request, min(_TOKENS, self.request.output_tokens))

    async def _ask(self, case: Case) -> Exchange:
        try:
            connection = await self.client.connect()
        except (OSError, TimeoutError) as error:
            now = self.client.clock()
            return Exchange(now, end=now, error=ErrorClass.CONNECT, detail=str(error))
        try:
            return await connection.leave_early(case.payload, timeout=_ANSWER_WITHIN)
        finally:
            connection.close()

    async def _alive(self) -> bool:
        for _ in range(_HEALTH_TRIES):
            if await healthy(self.client.endpoint, timeout=_HEALTH_WITHIN):
                return True
        return False

    def _served(self, name: str, sample: Sample, **evidence: Any) -> Check:
        if not sample.ok:
            return _crashed(name, f"another request meanwhile: {sample.error}: {sample.detail}")
        return Check(name=name, passed=True, reason=Reason.PASSED, message="", requests=1, evidence=evidence)


def judge_answer(case: Case, answer: Exchange) -> tuple[Reason, str] | None:
    """What is wrong with the answer to a bad request, or None."""
    match answer.error:
        case None:
            pass
        case ErrorClass.TIMEOUT | ErrorClass.STALL:
            return Reason.BAD_INPUT_CRASHED, f"no answer within {_ANSWER_WITHIN:g} s"
        case error:
            return Reason.BAD_INPUT_CRASHED, f"{error}: {answer.detail}"
    if answer.status >= 500 and answer.status != 501:
        return Reason.BAD_INPUT_CRASHED, f"HTTP {answer.status}: {answer.body[:200]!r}"
    if 200 <= answer.status < 300:
        return None if case.lenient else (Reason.BAD_INPUT_ACCEPTED, f"HTTP {answer.status} instead of a 4xx")
    if case.explained and not _explains(answer.body):
        return Reason.BAD_INPUT_ACCEPTED, f"HTTP {answer.status} without a JSON error message: {answer.body[:200]!r}"
    return None


def _explains(body: bytes) -> bool:
    """Whether the body is vLLM's error object, in the current or the older flat form, or FastAPI's."""
    try:
        content: Any = json.loads(body)
    except ValueError:
        return False
    if not isinstance(content, dict):
        return False
    error = content.get("error", content)
    return isinstance(error, dict) and bool(error.get("message") or error.get("detail"))


def _short(case: Case) -> dict[str, Any] | None:
    """The case as it is shown; long values are cut, since the shape is the point."""
    if case.reproduce is None:
        return {"bytes": case.payload[:300].decode("latin-1")}
    return {k: (v[:200] + "…" if isinstance(v, str) and len(v) > 200 else v) for k, v in case.reproduce.items()}


def _crashed(name: str, message: str) -> Check:
    return Check(name=name, passed=False, reason=Reason.BAD_INPUT_CRASHED, message=message)
