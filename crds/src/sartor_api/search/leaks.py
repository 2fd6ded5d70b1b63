"""Looks for sealed strings where they must not be: plain, cut up, reversed, encoded or compressed.

A secret (the canary of a run, the key of its seeds) is a long random string, so any sixteen characters of it in a row are
proof enough, and chance finds none: a false alarm in a gigabyte has a probability of about 1e-10 for each piece. What is
looked through is a *view* of the data: as it is, with percent or backslash escapes undone, with everything but letters and
digits taken out (whitespace, quotes, JSON's and C's punctuation), and whatever is compressed or encoded in it, opened, up to
a depth and a size. A deliberate cipher under a key of its own gets through; that is what isolation is for.
"""

import base64
import binascii
import bz2
import hashlib
import hmac
import itertools
import lzma
import re
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

CANARY_PREFIX = "sartorcanary"
LEAKED = "SealedDataLeaked"
"""The reason of a candidate that holds sealed data."""

PIECE = 16
_STRIDE = 8
_DEPTH = 3
_OPENED = 16 << 20
"""Bytes that are opened from within one piece of data."""
_COMPRESSED = re.compile(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]|BZh[1-9]|\xfd7zXZ\x00|\x5d\x00\x00")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-][A-Za-z0-9+/_\-\s\"',\\]{30,}=*")
_HEX = re.compile(rb"(?:(?:0x|\\x)?[0-9a-fA-F]{2}[\s,;:\"']*){16,}")
_NOT_PLAIN = re.compile(rb"[^A-Za-z0-9]+")
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|u00([0-9a-fA-F]{2})|u\{0*([0-9a-fA-F]{2})\}|([0-7]{3}))")
_NUMBERS = re.compile(rb"(?<![0-9])[0-9]{1,3}(?:\D{1,4}[0-9]{1,3}){15,}")


def canary_of(key: str) -> str:
    """The canary of the run with this key (hexadecimal): it lies with everything that is sealed, and nowhere else."""
    return CANARY_PREFIX + hmac.new(bytes.fromhex(key), b"canary", hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class Leak:
    """Where a secret was found: a name of the place, and how it was hidden there. The secret itself is not told."""

    where: str
    how: str

    def __str__(self) -> str:
        return f"{self.where} ({self.how})"


def find(secrets: Iterable[str], places: Iterable[tuple[str, bytes]]) -> Leak | None:
    """The first of `places` (name, content) that holds a piece of a secret; names are looked through as well."""
    needles = _needles(tuple(sorted(set(secrets))))
    for name, content in places:
        for part, what in ((content, ""), (name.encode(errors="surrogateescape"), "in its name")):
            how = _search(needles, part)
            if how is not None:
                return Leak(name, ", ".join(word for word in (what, how) if word) or "as it is")
    return None


def find_in_files(secrets: Iterable[str], files: Mapping[str, bytes]) -> Leak | None:
    """As `find`; a secret that is cut over several files is found where they follow each other by name."""
    wanted = tuple(secrets)
    found = find(wanted, sorted(files.items()))
    if found is not None:
        return found
    joined = b"".join(_NOT_PLAIN.sub(b"", files[path]) for path in sorted(files))
    return find(wanted, [("all files together", joined)])


@cache
def _needles(secrets: tuple[str, ...]) -> tuple[tuple[bytes, str], ...]:
    """What is searched for in views without punctuation, and what it is called."""
    found: dict[bytes, str] = {}
    for secret in secrets:
        if len(secret) < PIECE:
            raise ValueError(f"a secret of {len(secret)} characters is too short to be told from chance")
        for start in range(0, len(secret) - PIECE + 1, _STRIDE):
            piece = secret[start : start + PIECE]
            for text, how in ((piece, ""), (piece[::-1], "reversed")):
                data = text.encode()
                found.setdefault(data, how or "as it is")
                found.setdefault(text.upper().encode(), f"{how} in capitals".strip())
                found.setdefault(data.hex().encode(), f"{how} in hexadecimal".strip())
                found.setdefault(data.hex().upper().encode(), f"{how} in hexadecimal".strip())
                for shift in range(3):
                    encoded = base64.b64encode(b"\x00" * shift + data)
                    # Only the characters that follow from the piece alone, not from what stands around it.
                    inner = encoded[-(-8 * shift // 6) : len(encoded) // 4 * 4 - 4]
                    found.setdefault(_NOT_PLAIN.sub(b"", inner), f"{how} in base64".strip())
                encoded = base64.b32encode(data)
                found.setdefault(encoded.rstrip(b"=")[:24], f"{how} in base32".strip())
    return tuple(found.items())


def _search(needles: tuple[tuple[bytes, str], ...], content: bytes) -> str | None:
    budget = [_OPENED]
    for view, what in _views(content, _DEPTH, budget):
        plain = _NOT_PLAIN.sub(b"", view)
        for needle, how in needles:
            if needle in plain:
                return f"{what} {how}".strip()
    return None


def _views(content: bytes, depth: int, budget: list[int]) -> Iterator[tuple[bytes, str]]:
    """The content and everything that can be made of it, each with how it was got."""
    yield content, ""
    if b"%" in content:
        yield urllib.parse.unquote_to_bytes(content), "percent-encoded"
    if b"\\" in content:
        yield _ESCAPE.sub(_unescape, content), "behind backslashes"
    if b"\x00" in content:
        yield content.replace(b"\x00", b""), "in wide characters"
    if depth == 0:
        return
    for opened, how in _opened(content, budget):
        for view, more in _views(opened, depth - 1, budget):
            yield view, f"{how} {more}".strip()


def _unescape(match: re.Match[bytes]) -> bytes:
    sixteen = match[1] or match[2] or match[3]
    return bytes([int(sixteen, 16) if sixteen else int(match[4], 8) & 255])


def _opened(content: bytes, budget: list[int]) -> Iterator[tuple[bytes, str]]:
    """What is compressed or encoded within, as long as the budget lasts."""
    for match in _COMPRESSED.finditer(content):
        opened = _decompress(content[match.start() :], budget[0])
        if len(opened) >= PIECE:
            budget[0] -= len(opened)
            yield opened, "compressed"
    for match in _BASE64.finditer(content):
        text = re.sub(rb"[\s\"',\\]|\\n", b"", match[0]).rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        for shift in range(4) if len(text) < 4096 else (0,):
            part = text[shift:]
            part = part[: len(part) // 4 * 4] if len(part) % 4 == 1 else part + b"=" * (-len(part) % 4)
            yield from _spend(base64.b64decode(part), "base64 within", budget)
    for match in _HEX.finditer(content):
        text = re.sub(rb"0x|\\x|[^0-9a-fA-F]", b"", match[0])
        try:
            yield from _spend(bytes.fromhex(text[: len(text) // 2 * 2].decode()), "hexadecimal within", budget)
        except (ValueError, binascii.Error):
            continue
    for match in _NUMBERS.finditer(content):
        codes = [int(number) for number in re.findall(rb"[0-9]+", match[0])]
        yield from _spend(bytes(code for code in codes if code < 256), "as numbers", budget)
    if b"PK\x03\x04" in content:
        for match in itertools.islice(re.finditer(rb"PK\x03\x04", content), 1000):
            head = content[match.start() : match.start() + 30]
            if len(head) == 30 and head[8:10] == b"\x08\x00":
                start = (
                    match.start() + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
                )
                opened = _inflate(zlib.decompressobj(-15), content[start:], budget[0])
                yield from _spend(opened, "compressed", budget)


def _spend(opened: bytes, how: str, budget: list[int]) -> Iterator[tuple[bytes, str]]:
    if PIECE <= len(opened) <= budget[0]:
        budget[0] -= len(opened)
        yield opened, how


def _decompress(data: bytes, most: int) -> bytes:
    """As much as can be got from the beginning of `data`, at most so many bytes."""
    if data.startswith(b"BZh"):
        return _inflate(bz2.BZ2Decompressor(), data, most)
    if data.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
        return _inflate(lzma.LZMADecompressor(memlimit=256 << 20), data, most)
    return _inflate(zlib.decompressobj(47), data, most)  # zlib or gzip, whichever it is


class _Opener(Protocol):
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _inflate(opener: _Opener, data: bytes, most: int) -> bytes:
    try:
        return opener.decompress(data, most) if most > 0 else b""
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError, MemoryError):
        return b""
