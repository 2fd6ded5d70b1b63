"""The tokenizer of random and chain checkpoints: byte-level, every word of the vocabulary one token.

A byte-level BPE without merges and with `ignore_merges`: text is split into whitespace-plus-word pieces; a piece that
is in the vocabulary is that token, anything else falls to its bytes. So arbitrary Unicode round-trips, and generated
text re-tokenises to exactly the tokens that made it. Token ids: special tokens, then the 256 bytes, then the words.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from .shapes import Architecture

SPECIAL_TOKENS = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|close|>")
"""Ids 0…6. `<|end|>` is end of sequence; `<|close|>` ends a turn of a chat."""
PAD, BOS, EOS = 0, 1, 2
FIRST_BYTE = len(SPECIAL_TOKENS)
FIRST_WORD = FIRST_BYTE + 256

PIECE = r"\s*[^\s]+|\s+"
"""One pre-token: whitespace goes with the word after it."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|close|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Content joins the special tokens without whitespace, so it tokenises in a chat as it does alone."""


def begins_with_bos(architecture: Architecture) -> bool:
    """Whether encoding prepends `<|begin|>`: Llama's tokenizers do, Qwen's do not; both paths get exercised."""
    return architecture is Architecture.LLAMA


def byte_characters() -> list[str]:
    """The character that stands for each byte 0…255 in a byte-level vocabulary (the table of GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {byte: chr(byte) for byte in printable}
    shifted = (byte for byte in range(256) if byte not in table)
    table.update({byte: chr(256 + place) for place, byte in enumerate(shifted)})
    return [table[byte] for byte in range(256)]


def build_tokenizer(words: Sequence[str], architecture: Architecture) -> Tokenizer:
    """The tokenizer whose words have the ids FIRST_WORD, FIRST_WORD + 1, …, in the given order."""
    characters = byte_characters()
    pieces = [*SPECIAL_TOKENS, *characters]
    pieces += ["".join(characters[byte] for byte in word.encode()) for word in words]
    tokenizer = Tokenizer(BPE({piece: place for place, piece in enumerate(pieces)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    finish_tokenizer(tokenizer, architecture)
    return tokenizer


def finish_tokenizer(tokenizer: Tokenizer, architecture: Architecture) -> None:
    """What all made tokenizers share: byte-level decoding, the special tokens, and BOS where the family has it."""
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    if begins_with_bos(architecture):
        begin = SPECIAL_TOKENS[BOS]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, BOS)]
        )


def save_tokenizer(tokenizer: Tokenizer, architecture: Architecture, max_positions: int, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json (with the chat template) and special_tokens_map.json."""
    begin, end, pad = SPECIAL_TOKENS[BOS], SPECIAL_TOKENS[EOS], SPECIAL_TOKENS[PAD]
    with_bos = begins_with_bos(architecture)
    template = CHAT_TEMPLATE if with_bos else CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    special: dict[str, str] = {"eos_token": end, "pad_token": pad}
    if with_bos:
        special["bos_token"] = begin
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": list(SPECIAL_TOKENS[EOS + 1 :]),
        "chat_template": template,
        **special,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)


def write_json(path: Path, value: object) -> None:
    """One JSON file as the hub's are: indented, UTF-8, newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
