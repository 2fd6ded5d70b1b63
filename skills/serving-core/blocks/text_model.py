"""The text side of a checkpoint: tokenizer, chat template, and the sampling defaults that its authors recommend.

Reads the files themselves; `transformers` would cost seconds of start-up and hundreds of megabytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from .detokenize import Detokenizer

# What vLLM takes over from generation_config.json.
_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")


class CheckpointError(Exception):
    """The model folder cannot be served; the message names the file and what to do."""


class TemplateError(Exception):
    """The chat template refused these messages."""


@dataclass(frozen=True)
class TextModel:
    """Loaded once and read by every request; safe to use from several threads."""

    tokenizer: Tokenizer
    detokenizer: Detokenizer
    template: str | None
    special_tokens: Mapping[str, str]  # bos_token, eos_token, … as the template sees them
    sampling_defaults: Mapping[str, Any]
    vocabulary: int  # ids below this have a text

    @classmethod
    def load(cls, folder: Path) -> "TextModel":
        """Read `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json`.

        Only the first is required. Raises `CheckpointError`.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; a fast tokenizer in Hugging Face layout is needed")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = read_json(folder / "tokenizer_config.json")
        generation = read_json(folder / "generation_config.json")
        return cls(
            tokenizer,
            Detokenizer(tokenizer),
            _template(folder, config),
            _special_tokens(config),
            {name: generation[name] for name in _SAMPLING_DEFAULTS if generation.get(name) is not None},
            tokenizer.get_vocab_size(with_added_tokens=True),
        )

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids

    def render(self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        """The prompt for a conversation. Raises `TemplateError`, which is the client's to repair."""
        import jinja2

        try:
            return self._compiled.render(messages=messages, **{**self.special_tokens, **variables})
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise TemplateError(str(error)) from error

    @cached_property
    def _compiled(self) -> Any:
        """The template in the environment that `transformers` gives it, so that it renders the same text."""
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment: Any = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        return environment.from_string(self.template or "")


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, empty when there is no such file. Raises `CheckpointError`."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return cast("dict[str, Any]", value)


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text()
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        named = {entry["name"]: entry["template"] for entry in cast("list[dict[str, str]]", template)}
        return named.get("default")
    return template if isinstance(template, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"):
        value = config.get(name)
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get("content")
        if isinstance(value, str):
            tokens[name] = value
    return tokens


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; templates expect plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _generation_tag() -> type[Any]:
    """`{% generation %}…{% endgeneration %}` marks assistant text for training; for serving it is its content."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - the name and type that jinja reads

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
