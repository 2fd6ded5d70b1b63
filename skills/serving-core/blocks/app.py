"""The HTTP surface: which path does what, and which answer every failure becomes. Raw ASGI: a framework costs more
than a token."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from . import metrics, spec
from .errors import BadRequestError, FailedError, NoSuchRouteError, OutsideEnvelope, RequestError, TooLargeError
from .fields import Fields, as_list
from .handover import Baseline
from .protocol import check_model, prompt_tokens
from .service import Message, Receive, Send, Service, parse_body, send_bytes

log = logging.getLogger("stack.app")

MAX_BODY_BYTES = 32 * 1024 * 1024

Handler = Callable[[Message, Receive, Send], Awaitable[None]]


class App:
    """The ASGI application. `created` (Unix seconds) is when the model was loaded."""

    def __init__(self, service: Service, baseline: Baseline | None, *, created: int) -> None:
        self._service = service
        self._baseline = baseline
        self._created = created
        self.engine = service.engine
        self._stats = service.engine.stats
        self.draining = False
        self.active = 0  # requests in work, hand-overs included
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/completions": {"POST": self._completions},
            "/v1/chat/completions": {"POST": self._chat},
            "/v1/models": {"GET": self._models},
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/metrics": {"GET": self._metrics},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
        }

    async def close(self) -> bool:
        """Stop the engine and hang up on the baseline; whether the engine let go of the decoder."""
        stopped = await asyncio.to_thread(self.engine.stop)
        if self._baseline is not None:
            await self._baseline.close()
        return stopped

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.active += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self.active -= 1

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        started = False

        async def tracked(message: Message) -> None:
            nonlocal started
            started = True
            if self.draining and message["type"] == "http.response.start":
                # Clients come back over a new connection, which the load balancer sends elsewhere.
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            await self._route(scope, receive, tracked)
        except RequestError as error:
            if started:  # too late for a status; returning now makes the server close the connection
                log.warning("%s %s broke off: %s", scope["method"], scope["path"], error.message)
            else:
                await send_error(tracked, error)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await send_error(tracked, FailedError("The server failed on this request; its log says why."))

    async def _route(self, scope: Message, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        methods = self._routes.get(path)
        if methods is None and path.startswith("/v1/models/"):
            methods = {"GET": self._model}
        handler = methods.get(scope["method"]) if methods is not None else None
        if handler is not None:
            await handler(scope, receive, send)
        elif self._baseline is not None:
            await self._hand_over("path", scope, await read_body(scope, receive), receive, send)
        else:
            raise NoSuchRouteError(HTTPStatus.NOT_FOUND if methods is None else HTTPStatus.METHOD_NOT_ALLOWED)

    async def _completions(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive)
        try:
            await self._service.generate("completions", body, receive, send)
        except OutsideEnvelope as outside:
            await self._outside(outside, scope, body, receive, send)

    async def _chat(self, scope: Message, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive)
        try:
            await self._service.generate("chat", body, receive, send)
        except OutsideEnvelope as outside:
            await self._outside(outside, scope, body, receive, send)

    async def _outside(
        self, outside: OutsideEnvelope, scope: Message, body: bytes, receive: Receive, send: Send
    ) -> None:
        if self._baseline is None:
            raise outside.otherwise
        await self._hand_over(outside.reason, scope, body, receive, send)

    async def _hand_over(self, reason: str, scope: Message, body: bytes, receive: Receive, send: Send) -> None:
        assert self._baseline is not None
        self._stats.handovers[reason] += 1
        await self._baseline.relay(scope, body, receive, send)

    async def _health(self, _scope: Message, _receive: Receive, send: Send) -> None:
        failure = self.engine.failure
        if failure is not None:
            await send_bytes(send, 503, f"the engine failed: {failure}".encode(), b"text/plain; charset=utf-8")
        elif self.draining:
            await send_bytes(send, 503, b"draining", b"text/plain; charset=utf-8")
        else:
            await send_bytes(send, 200, b"", b"text/plain; charset=utf-8")

    async def _version(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send_json(send, {"version": "stack-1", "decoder": spec.DECODER, "speculation": spec.SPECULATION})

    async def _metrics(self, _scope: Message, _receive: Receive, send: Send) -> None:
        body, content_type = metrics.render(self._stats, spec.SERVED_MODEL_NAME)
        await send_bytes(send, 200, body, content_type.encode())

    async def _models(self, _scope: Message, _receive: Receive, send: Send) -> None:
        await send_json(send, {"object": "list", "data": [self._card()]})

    async def _model(self, scope: Message, _receive: Receive, send: Send) -> None:
        check_model(scope["path"].removeprefix("/v1/models/"))
        await send_json(send, self._card())

    def _card(self) -> dict[str, Any]:
        return {
            "id": spec.SERVED_MODEL_NAME,
            "object": "model",
            "created": self._created,
            "owned_by": "sartor",
            "root": spec.SERVED_MODEL_NAME,
            "parent": None,
            "max_model_len": spec.MAX_MODEL_LEN,
        }

    async def _tokenize(self, scope: Message, receive: Receive, send: Send) -> None:
        fields = Fields(parse_body(await read_body(scope, receive)))
        check_model(fields.text("model"))
        tokens = prompt_tokens(fields, self._service.text)
        strings = None
        if fields.boolean("return_token_strs"):
            strings = [self._service.text.tokenizer.id_to_token(token) for token in tokens]
        await send_json(
            send,
            {
                "count": len(tokens),
                "max_model_len": spec.MAX_MODEL_LEN,
                "tokens": tokens,
                "token_strs": strings,
            },
        )

    async def _detokenize(self, scope: Message, receive: Receive, send: Send) -> None:
        fields = Fields(parse_body(await read_body(scope, receive)))
        check_model(fields.text("model"))
        tokens = as_list(fields.raw("tokens"), "tokens")
        if not all(isinstance(t, int) and 0 <= t < spec.VOCAB_SIZE for t in tokens):
            raise BadRequestError(f"`tokens` must hold token ids below {spec.VOCAB_SIZE}.", "tokens")
        text = self._service.text.detokenizer.decode(tokens, skip_special_tokens=False)
        await send_json(send, {"prompt": text})


async def read_body(scope: Message, receive: Receive) -> bytes:
    """The whole body. Raises `TooLargeError` as soon as it is known to be, or `BadRequestError` if the client broke
    off."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > MAX_BODY_BYTES:
            raise _too_large()
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BadRequestError("The connection closed before the body was complete.")
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _too_large() -> TooLargeError:
    return TooLargeError(f"The body is larger than {MAX_BODY_BYTES} bytes.")


async def send_json(send: Send, value: object) -> None:
    await send_bytes(send, 200, json.dumps(value).encode())


async def send_error(send: Send, error: RequestError) -> None:
    headers = ((b"retry-after", b"1"),) if error.status == HTTPStatus.SERVICE_UNAVAILABLE else ()
    await send_bytes(send, int(error.status), json.dumps(error.body()).encode(), headers=headers)
