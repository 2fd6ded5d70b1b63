"""An OpenAI request, as JSON, to a `Generation`: checked, with vLLM's defaults, limits and error messages.

What this stack does not do raises `OutsideEnvelope`; what nobody could do raises `BadRequestError`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from . import spec
from .envelope import check_chat_features, check_features, check_length
from .errors import BadRequestError, UnknownModelError
from .fields import Fields, as_list, as_object, as_text
from .sampling import SamplingParams
from .text_model import TemplateError, TextModel

Endpoint = Literal["completions", "chat"]
_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt, tokenised. `text` is what `echo` repeats."""

    tokens: list[int]
    text: str | None


@dataclass(frozen=True, slots=True)
class Generation:
    """What is to be generated, and how it is to be shown. Choice `i` belongs to prompt `i // n`."""

    endpoint: Endpoint
    prompts: tuple[Prompt, ...]
    params: SamplingParams  # of the first choice; the others differ in their seed
    n: int
    prediction: list[int] | None
    stream: bool
    include_usage: bool
    continuous_usage: bool
    echo: bool
    return_token_ids: bool
    tokens_as_ids: bool


def parse(endpoint: Endpoint, body: Mapping[str, Any], text: TextModel, random_seed: Callable[[], int]) -> Generation:
    """Check and tokenise a request body; may take milliseconds for long prompts.

    Raises `BadRequestError`, `UnknownModelError` or `OutsideEnvelope`.
    """
    fields = Fields(body, text.sampling_defaults)
    check_model(fields.text("model"))
    check_features(fields)
    if endpoint == "chat":
        check_chat_features(fields)
        prompts = (_chat_prompt(fields, text),)
        echo = fields.boolean("echo")
        if echo:
            raise BadRequestError("`echo` is not supported for chat completions.", "echo")
    else:
        echo = fields.boolean("echo")
        prompts = _prompts(fields, text)
    for prompt in prompts:
        _check_tokens(prompt.tokens)
    longest = max(len(prompt.tokens) for prompt in prompts)
    max_tokens = _max_tokens(endpoint, fields, longest)
    n = fields.integer("n", 1, low=1)
    if n * len(prompts) > spec.MAX_WAITING:
        raise BadRequestError(f"n times the number of prompts must be at most {spec.MAX_WAITING}.", "n")
    params = _sampling(endpoint, fields, max_tokens, random_seed)
    if n > 1 and params.greedy:
        raise BadRequestError(f"n must be 1 when using greedy sampling, got {n}.", "n")
    stream = fields.boolean("stream")
    options = fields.raw("stream_options")
    if options is not None and not stream:
        raise BadRequestError("Stream options can only be defined when `stream=True`.", "stream_options")
    stream_fields = Fields(as_object(options, "stream_options") if options is not None else {})
    include_usage = stream_fields.boolean("include_usage")
    return Generation(
        endpoint=endpoint,
        prompts=prompts,
        params=params,
        n=n,
        prediction=_prediction(fields, text),
        stream=stream,
        include_usage=include_usage,
        continuous_usage=include_usage and stream_fields.boolean("continuous_usage_stats"),
        echo=echo,
        return_token_ids=fields.boolean("return_token_ids"),
        tokens_as_ids=fields.boolean("return_tokens_as_token_ids"),
    )


def check_model(name: str | None) -> None:
    """A missing or empty name means the model that is served."""
    if name and name != spec.SERVED_MODEL_NAME:
        raise UnknownModelError(f"The model `{name}` does not exist.", "model")


def prompt_tokens(fields: Fields, text: TextModel) -> list[int]:
    """The prompt of a `/tokenize` request: `messages` as a chat, or one `prompt`."""
    if fields.raw("messages") is not None:
        return _chat_prompt(fields, text).tokens
    return _text_prompt(fields.raw("prompt"), text, fields.boolean("add_special_tokens", True)).tokens


def _prompts(fields: Fields, text: TextModel) -> tuple[Prompt, ...]:
    value = fields.raw("prompt")
    if value is None or value in ("", []):  # vLLM refuses both, whatever a tokenizer puts in front of them
        raise BadRequestError("`prompt` must be given and must not be empty.", "prompt")
    special = fields.boolean("add_special_tokens", True)
    if isinstance(value, str):
        return (_text_prompt(value, text, special),)
    items = as_list(value, "prompt")
    if all(isinstance(item, str) for item in items):
        return tuple(_text_prompt(item, text, special) for item in items)
    if all(isinstance(item, int) for item in items):
        items = [items]
    if not all(isinstance(item, list) for item in items):
        raise BadRequestError(
            "`prompt` must be a string, a list of strings, a list of token ids or a list of lists of token ids.",
            "prompt",
        )
    return tuple(Prompt(_token_ids(item), None) for item in items)


def _text_prompt(value: object, text: TextModel, special: bool) -> Prompt:
    content = as_text(value, "prompt")
    return Prompt(text.encode(content, add_special_tokens=special), content)


def _token_ids(value: object) -> list[int]:
    items = as_list(value, "prompt")
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int):
            raise BadRequestError(f"`prompt` must hold token ids, got {item!r:.40}.", "prompt")
        if not 0 <= item < spec.VOCAB_SIZE:
            raise BadRequestError(f"Token id {item} is out of vocabulary", "prompt")
    return cast("list[int]", items)


def _check_tokens(tokens: list[int]) -> None:
    if not tokens:
        raise BadRequestError("The decoder prompt cannot be empty", "prompt")
    if max(tokens) >= spec.VOCAB_SIZE:
        raise BadRequestError(f"Token id {max(tokens)} is out of vocabulary", "prompt")


def _chat_prompt(fields: Fields, text: TextModel) -> Prompt:
    messages = [_message(as_object(m, "messages")) for m in as_list(fields.raw("messages"), "messages")]
    if not messages:
        raise BadRequestError("`messages` must not be empty.", "messages")
    if text.template is None:
        raise BadRequestError(
            "This model has no chat template, so it cannot take `messages`; use /v1/completions instead.", "messages"
        )
    add_prompt = fields.boolean("add_generation_prompt", True)
    unfinished = fields.boolean("continue_final_message")
    if unfinished and add_prompt:
        raise BadRequestError(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.", "continue_final_message"
        )
    extra = fields.raw("chat_template_kwargs")
    variables = as_object(extra, "chat_template_kwargs") if extra is not None else {}
    reserved = {"messages", "add_generation_prompt", "tools", "documents"} & variables.keys()
    if reserved:
        raise BadRequestError(f"`chat_template_kwargs` may not set {sorted(reserved)}.", "chat_template_kwargs")
    try:
        rendered = text.render(
            messages, {**variables, "add_generation_prompt": add_prompt, "tools": None, "documents": None}
        )
    except TemplateError as error:
        raise BadRequestError(f"The chat template refused these messages: {error}", "messages") from error
    if unfinished:
        final = messages[-1]["content"].strip()
        rendered = rendered[: rendered.rindex(final) + len(final)] if final and final in rendered else rendered
    special = fields.boolean("add_special_tokens", False)
    return Prompt(text.encode(as_text(rendered, "messages"), add_special_tokens=special), None)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its content as one string, other fields (`name`, …) left for the template."""
    role = as_text(message.get("role"), "messages.role")
    content = message.get("content")
    if isinstance(content, list):
        parts = [as_object(part, "messages.content") for part in cast("list[object]", content)]
        content = "\n".join(as_text(part.get("text"), "messages.content.text") for part in parts)
    elif content is None and role == "assistant":
        content = ""
    return {**message, "role": role, "content": as_text(content, "messages.content")}


def _max_tokens(endpoint: Endpoint, fields: Fields, prompt: int) -> int:
    name = "max_tokens"
    if endpoint == "chat" and fields.raw("max_completion_tokens") is not None:
        name = "max_completion_tokens"
    room = spec.MAX_MODEL_LEN - prompt
    if fields.raw(name) is not None:
        asked = fields.integer(name, 16, low=1)
        check_length(prompt, asked)
        return asked
    check_length(prompt, None)
    if endpoint == "completions":
        return min(16, room)
    return min(room, fields.integer("max_new_tokens", room, low=1))


def _sampling(endpoint: Endpoint, fields: Fields, max_tokens: int, random_seed: Callable[[], int]) -> SamplingParams:
    top_p = fields.number("top_p", 1.0, high=1.0, low=0.0)
    if top_p == 0.0:
        raise BadRequestError("top_p must be in (0, 1], got 0.0.", "top_p")
    repetition = fields.number("repetition_penalty", 1.0)
    if repetition <= 0.0:
        raise BadRequestError(f"repetition_penalty must be greater than zero, got {repetition}.", "repetition_penalty")
    top_k = fields.integer("top_k", 0, low=-1)
    min_tokens = fields.integer("min_tokens", 0, low=0)
    if min_tokens > max_tokens:
        raise BadRequestError(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.", "min_tokens"
        )
    has_seed = fields.raw("seed") is not None
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=fields.number("temperature", 1.0, low=0.0),
        top_p=top_p,
        top_k=max(top_k, 0),
        min_p=fields.number("min_p", 0.0, low=0.0, high=1.0),
        presence_penalty=fields.number("presence_penalty", 0.0, low=-2.0, high=2.0),
        frequency_penalty=fields.number("frequency_penalty", 0.0, low=-2.0, high=2.0),
        repetition_penalty=repetition,
        logit_bias=_logit_bias(fields),
        seed=fields.integer("seed", 0, low=-_INT64, high=_INT64 - 1) if has_seed else random_seed(),
        stop=_stop(fields),
        stop_token_ids=_stop_token_ids(fields),
        include_stop_str_in_output=fields.boolean("include_stop_str_in_output"),
        ignore_eos=fields.boolean("ignore_eos"),
        min_tokens=min_tokens,
        logprobs=_logprobs(endpoint, fields),
        skip_special_tokens=fields.boolean("skip_special_tokens", True),
    )


def _logprobs(endpoint: Endpoint, fields: Fields) -> int | None:
    name = "logprobs" if endpoint == "completions" else "top_logprobs"
    value = fields.raw(name)
    if value is not None and not isinstance(value, int | float):  # the one number that vLLM does not read from a string
        raise BadRequestError(f"`{name}` must be an integer.", name)
    count = int(value) if isinstance(value, bool) else fields.integer(name, 0)
    if count < -1:
        raise BadRequestError(f"`{name}` must be a positive value or -1.", name)
    wanted = value is not None if endpoint == "completions" else fields.boolean("logprobs")
    if count and not wanted:
        raise BadRequestError("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    asked = spec.VOCAB_SIZE if count == -1 else count
    if wanted and asked > spec.MAX_LOGPROBS:
        raise BadRequestError(
            f"Requested sample logprobs of {asked}, which is greater than max allowed: {spec.MAX_LOGPROBS}", name
        )
    return asked if wanted else None


def _logit_bias(fields: Fields) -> dict[int, float]:
    value = fields.raw("logit_bias")
    bias: dict[int, float] = {}
    for key, amount in (as_object(value, "logit_bias") if value is not None else {}).items():
        try:
            token = int(key)
        except ValueError:
            raise BadRequestError(
                f"`logit_bias` must map token ids to numbers, got {key[:40]!r}.", "logit_bias"
            ) from None
        if not 0 <= token < spec.VOCAB_SIZE:
            raise BadRequestError(f"token_id {token} in logit_bias is out of vocabulary", "logit_bias")
        # As vLLM does, clipped to OpenAI's range.
        bias[token] = min(100.0, max(-100.0, Fields({"logit_bias": amount}).number("logit_bias", 0.0)))
    return bias


def _stop(fields: Fields) -> tuple[str, ...]:
    value = fields.raw("stop")
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else as_list(value, "stop")
    texts = tuple(as_text(stop, "stop") for stop in stops)
    if "" in texts:
        raise BadRequestError("stop cannot contain an empty string.", "stop")
    return texts


def _stop_token_ids(fields: Fields) -> frozenset[int]:
    value = fields.raw("stop_token_ids")
    items = as_list(value, "stop_token_ids") if value is not None else []
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        raise BadRequestError("`stop_token_ids` must contain only integers.", "stop_token_ids")
    return frozenset(items)


def _prediction(fields: Fields, text: TextModel) -> list[int] | None:
    """OpenAI's predicted output: it changes the speed and never the text."""
    value = fields.raw("prediction")
    if value is None:
        return None
    prediction = as_object(value, "prediction")
    if prediction.get("type") != "content":
        raise BadRequestError('`prediction.type` must be "content".', "prediction")
    content = prediction.get("content")
    if isinstance(content, list):
        parts = [as_object(part, "prediction.content") for part in cast("list[object]", content)]
        content = "".join(as_text(part.get("text"), "prediction.content.text") for part in parts)
    content = as_text(content, "prediction.content")
    if spec.SPECULATION == "prediction":
        return text.encode(content, add_special_tokens=False) or None
    return None
