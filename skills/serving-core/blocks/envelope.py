"""What this stack takes itself. Everything else is the baseline's, and is handed over rather than refused."""

from typing import Any, cast

from . import spec
from .errors import BadRequestError, OutsideEnvelope, UnsupportedError
from .fields import Fields

# Features of vLLM that are left to it.
_FEATURES = (
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "use_beam_search",
    "prompt_embeds",
    "truncate_prompt_tokens",
    "bad_words",
    "allowed_token_ids",
    "logits_processors",
    "kv_transfer_params",
    "vllm_xargs",
    "suffix",
    "thinking_token_budget",
    "logprob_token_ids",
)
_CHAT_FEATURES = ("functions", "documents", "chat_template", "mm_processor_kwargs", "audio")


def check_features(fields: Fields) -> None:
    """Raises `OutsideEnvelope` for the first field that asks for something that this stack does not do."""
    for name in _FEATURES:
        if fields.given(name):
            raise unsupported(name)
    if fields.raw("prompt_logprobs") is not None:
        raise unsupported("prompt_logprobs")
    if fields.raw("echo") is True and (fields.raw("logprobs") is not None or fields.raw("max_tokens") == 0):
        raise unsupported("prompt_logprobs")
    response_format = fields.raw("response_format")
    if response_format is not None and not (
        isinstance(response_format, dict) and cast("dict[str, Any]", response_format).get("type") == "text"
    ):
        raise unsupported("response_format")


def check_chat_features(fields: Fields) -> None:
    """As `check_features`, for what only chat completions have."""
    for name in _CHAT_FEATURES:
        if fields.given(name):
            raise unsupported(name)
    choice = fields.raw("tool_choice")
    if fields.given("tools") and choice != "none":
        raise unsupported("tools")
    if choice not in (None, "none"):
        raise BadRequestError("When using `tool_choice`, `tools` must be set.", "tool_choice")
    modalities = fields.raw("modalities")
    if modalities is not None and modalities != ["text"]:
        raise unsupported("modalities")
    messages = fields.raw("messages")
    if not isinstance(messages, list):
        return
    for message in cast("list[object]", messages):
        if not isinstance(message, dict):
            continue
        values = cast("dict[str, Any]", message)
        if values.get("tool_calls") or values.get("role") == "tool":
            raise unsupported("tools")
        if values.get("role") != "assistant" and "content" not in values:
            raise unsupported("messages without content")  # how one is shown is vLLM's business
        content = values.get("content")
        for part in cast("list[object]", content) if isinstance(content, list) else []:
            if isinstance(part, dict) and cast("dict[str, Any]", part).get("type") not in ("text", None):
                raise unsupported("multimodal")


def check_length(prompt: int, max_tokens: int | None) -> None:
    """`prompt` tokens in and `max_tokens` out (None: as many as fit) against the limits."""
    limit = spec.MAX_MODEL_LEN
    if prompt >= limit:
        raise OutsideEnvelope(
            "prompt_too_long",
            BadRequestError(
                f"This model's maximum context length is {limit} tokens. However, your request has {prompt} input "
                "tokens. Please reduce the length of the input messages.",
                "input_tokens",
            ),
        )
    if max_tokens is not None and prompt + max_tokens > limit:
        raise OutsideEnvelope(
            "max_tokens_too_large",
            BadRequestError(
                f"'max_tokens' or 'max_completion_tokens' is too large: {max_tokens}. This model's maximum context "
                f"length is {limit} tokens and your request has {prompt} input tokens "
                f"({max_tokens} > {limit} - {prompt}).",
                "max_tokens",
            ),
        )
    if prompt > spec.MAX_INPUT_TOKENS:
        raise OutsideEnvelope(
            "prompt_too_long",
            BadRequestError(
                f"The prompt has {prompt} tokens and this stack takes at most {spec.MAX_INPUT_TOKENS}.", "input_tokens"
            ),
        )
    if max_tokens is not None and max_tokens > spec.MAX_OUTPUT_TOKENS:
        raise OutsideEnvelope(
            "max_tokens_too_large",
            BadRequestError(
                f"max_tokens is {max_tokens} and this stack generates at most {spec.MAX_OUTPUT_TOKENS}.", "max_tokens"
            ),
        )


def unsupported(feature: str) -> OutsideEnvelope:
    return OutsideEnvelope(
        feature,
        UnsupportedError(f"This stack does not support `{feature}`, and no baseline is configured behind it.", feature),
    )
