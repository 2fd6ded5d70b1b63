"""What a provider sends, read as it comes by: whether it is whole, what it used, and what it said."""

import json
from dataclasses import dataclass, field
from typing import Any, cast

from sartor_agents.backends.conversation.accounting import TokenUse
from sartor_agents.model_proxy.policy import Api
from sartor_agents.transcripts.events import Entry

Json = dict[str, Any]
_ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


@dataclass
class Reading:
    """Fed with the bytes of one answer; knows what it holds after each of them.

    `whole`: the answer came to its end. `error` is what a provider says that breaks off inside of a stream. `use` is None
    until usage was reported.
    """

    api: Api
    streamed: bool
    whole: bool = False
    error: str = ""
    use: TokenUse | None = None
    said: int = 0
    _line: bytearray = field(default_factory=bytearray)
    _final: Json | None = None
    _text: list[str] = field(default_factory=list[str])
    _calls: dict[int, Json] = field(default_factory=dict[int, Json])
    _finish: str = ""
    _body: bytearray = field(default_factory=bytearray)

    def feed(self, chunk: bytes) -> None:
        if not self.streamed:
            self._body += chunk
            return
        ended, newline, rest = chunk.rpartition(b"\n")
        if not newline:  # a long line is not looked through again with each of its pieces
            self._line += chunk
            return
        whole, self._line = bytes(self._line) + ended, bytearray(rest)
        for line in whole.split(b"\n"):
            self._event(line.strip())

    def end(self) -> None:
        """All bytes have come."""
        if self.streamed:
            self._event(bytes(self._line).strip())
            if self.api == "chat":
                self.whole = bool(self._finish)
            return
        try:
            content = json.loads(bytes(self._body))
        except (ValueError, RecursionError):
            return
        if isinstance(content, dict):
            self.whole = True
            self._final = cast(Json, content)
            self._usage(self._final.get("usage"))
            self.said = len(self._body)

    def _event(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        data = line.removeprefix(b"data:").strip()
        self.said += len(data)
        if data == b"[DONE]":
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict):
            (self._response if self.api == "responses" else self._chunk)(cast(Json, event))

    def _response(self, event: Json) -> None:
        kind = str(event.get("type"))
        if kind not in _ENDS:
            return
        response = event.get("response")
        self._final = cast(Json, response) if isinstance(response, dict) else {}
        self._usage(self._final.get("usage"))
        if kind in ("response.failed", "error"):
            self.error = _message(self._final.get("error") or event)
        else:
            self.whole = True

    def _chunk(self, event: Json) -> None:
        if event.get("error"):
            self.error = _message(event["error"])
        self._usage(event.get("usage"))
        for choice in _dicts(event.get("choices")):
            self._finish = str(choice.get("finish_reason") or self._finish)
            delta = choice.get("delta")
            if not isinstance(delta, dict):
                continue
            told = cast(Json, delta)
            self._text.append(str(told.get("content") or told.get("refusal") or ""))
            for call in _dicts(told.get("tool_calls")):
                known = self._calls.setdefault(_whole(call.get("index")), {"id": "", "name": "", "arguments": ""})
                function = call.get("function")
                inside = cast(Json, function) if isinstance(function, dict) else {}
                known["id"] = known["id"] or str(call.get("id") or "")
                known["name"] = known["name"] or str(inside.get("name") or "")
                known["arguments"] += str(inside.get("arguments") or "")

    def _usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        told = cast(Json, usage)
        responses = self.api == "responses"
        inside = _dict(told.get("input_tokens_details" if responses else "prompt_tokens_details"))
        made = _dict(told.get("output_tokens_details" if responses else "completion_tokens_details"))
        self.use = TokenUse.reported(
            input=told.get("input_tokens" if responses else "prompt_tokens"),
            output=told.get("output_tokens" if responses else "completion_tokens"),
            cached=inside.get("cached_tokens"),
            reasoning=made.get("reasoning_tokens"),
        )

    # --- for the transcript -------------------------------------------------------------------------------------------

    def ended(self) -> str:
        """How the answer ended, in the provider's word."""
        if self.api == "chat" and self.streamed:
            return self._finish
        if self._final is None:
            return ""
        details = _dict(self._final.get("incomplete_details"))
        return str(details.get("reason") or self._final.get("status") or "")

    def entries(self) -> tuple[Entry, ...]:
        """What the model said."""
        if self.api == "responses":
            output = _dicts(self._final.get("output")) if self._final is not None else []
            return tuple(entry for item in output for entry in response_item(item))
        if not self.streamed:
            choices = _dicts(self._final.get("choices")) if self._final is not None else []
            return tuple(entry for choice in choices for entry in chat_message(_dict(choice.get("message"))))
        text = "".join(self._text)
        said = (Entry(kind="assistant", text=text),) if text else ()
        calls = (self._calls[place] for place in sorted(self._calls))
        return (
            *said,
            *(Entry(kind="call", id=call["id"], name=call["name"], text=call["arguments"]) for call in calls),
        )


def asked(api: Api, body: Json) -> tuple[Entry, ...]:
    """The conversation in a request, instructions first."""
    if api == "responses":
        told = str(body.get("instructions") or "")
        given = body.get("input")
        items = [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else _dicts(given)
        return (
            *((Entry(kind="instructions", text=told),) if told else ()),
            *(entry for item in items for entry in response_item(item)),
        )
    return tuple(entry for message in _dicts(body.get("messages")) for entry in chat_message(message))


def response_item(item: Json) -> tuple[Entry, ...]:
    """One item of the Responses protocol, of a request or of an answer."""
    kind = str(item.get("type", "message"))
    name = str(item.get("name") or "")
    call = str(item.get("call_id") or "")
    if kind == "message":
        role = str(item.get("role"))
        who = {"assistant": "assistant", "user": "user"}.get(role, "instructions")
        return (Entry(kind=who, text=_text(item.get("content"))),)  # pyright: ignore[reportArgumentType]
    if kind == "reasoning":
        return (Entry(kind="reasoning", text=_text(item.get("summary")) or _text(item.get("content"))),)
    if kind.endswith("_output"):
        return (Entry(kind="result", id=call, text=_text(item.get("output"))),)
    if kind.endswith("_call"):
        told = item.get("arguments", item.get("input", item.get("action")))
        return (
            Entry(kind="call", id=call, name=name or kind, text=told if isinstance(told, str) else json.dumps(told)),
        )
    return (Entry(kind="user", name=kind[:64], text=json.dumps(item)),)


def chat_message(message: Json) -> tuple[Entry, ...]:
    """One message of the Chat Completions protocol."""
    role, text = str(message.get("role")), _text(message.get("content"))
    if role == "tool":
        return (Entry(kind="result", id=str(message.get("tool_call_id") or ""), text=text),)
    if role != "assistant":
        return (Entry(kind="user" if role == "user" else "instructions", text=text),)
    said = (Entry(kind="assistant", text=text),) if text else ()
    refused = str(message.get("refusal") or "")
    refusal = (Entry(kind="refusal", text=refused),) if refused else ()
    calls = [(str(call.get("id") or ""), _dict(call.get("function"))) for call in _dicts(message.get("tool_calls"))]
    made = (
        Entry(kind="call", id=i, name=str(f.get("name") or ""), text=str(f.get("arguments") or "")) for i, f in calls
    )
    return (*said, *refusal, *made)


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or part.get("refusal") or "") for part in _dicts(content))
    return "" if content is None else str(content)


def _dict(value: object) -> Json:
    return cast(Json, value) if isinstance(value, dict) else {}


def _dicts(value: object) -> list[Json]:
    return (
        [cast(Json, one) for one in cast(list[Any], value) if isinstance(one, dict)] if isinstance(value, list) else []
    )


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _message(error: object) -> str:
    return str(_dict(error).get("message") or "no reason was given")[:500]
