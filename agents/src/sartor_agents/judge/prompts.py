"""A request's prompt as one text, whichever of the contract's shapes it has: `prompt`, or the last of `messages`."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sartor_agents.measurement.samples import GenerationRequest

PromptIds = Callable[[Mapping[str, Any]], tuple[int, ...]]
"""Token ids that a model is given for the `prompt` or `messages` of a body (`Scenario.prompt_ids`)."""


def text_of(request: GenerationRequest) -> str | None:
    """The text that can be changed; None for prompts of token ids."""
    prompt: Any = request.body.get("prompt")
    if isinstance(prompt, str):
        return prompt
    messages: Any = request.body.get("messages")
    content = messages[-1].get("content") if messages else None
    return content if isinstance(content, str) else None


def with_text(request: GenerationRequest, text: str, ids_of: PromptIds) -> GenerationRequest:
    """The same request over another text; earlier messages of a conversation stay."""
    if "messages" in request.body:
        messages: Any = request.body["messages"]
        changed: dict[str, Any] = {"messages": [*messages[:-1], {**messages[-1], "content": text}]}
    else:
        changed = {"prompt": text}
    return with_changes(request, changed, ids_of)


def with_changes(request: GenerationRequest, changes: Mapping[str, Any], ids_of: PromptIds) -> GenerationRequest:
    """The same request with its prompt or messages replaced, ids and name with it."""
    body = {**request.body, **changes}
    name = request.id if request.id.endswith("/changed") else f"{request.id}/changed"
    return replace(request, id=name, body=body, prompt_ids=ids_of(body))


def with_length(request: GenerationRequest, tokens: int) -> GenerationRequest:
    """The same request for `tokens` tokens."""
    return replace(request, body={**request.body, "max_tokens": tokens}, output_tokens=tokens)


def shown(request: GenerationRequest) -> dict[str, Any]:
    """The request for people: what to send where."""
    return {"path": request.path, **request.body}
