"""The copy of a request that both arms are asked: the user's own, decoded greedily and streamed.

Only a greedy answer can be compared to the byte, and only a stream shows when its tokens came. All other fields, predicted
outputs among them, are the user's.

One field is added: `cache_salt`, the same for all copies. Engines that keep the state of prompts they have seen (vLLM does
by default) would otherwise answer a copy of a prompt that one of the arms has just served to its user from that state, and
that arm, most often the baseline, would look faster than it is. With the salt copies share state among themselves only, and
both arms have seen the same copies. An engine that does not know the field ignores it.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import urlsplit

GENERATION_PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})

# RFC 9110, section 7.6.1.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# What is the copy's own: where it goes, how long it is, and that its answer must not be compressed, which would make events
# wait for each other. Its id, too: an engine that names work by it would take the copy for the user's request.
_OWN = frozenset({b"host", b"content-length", b"expect", b"accept-encoding", b"x-request-id"})


class UnfitError(ValueError):
    """A request that both arms cannot be asked alike; the message says why, without its content."""


def greedy_body(body: bytes, salt: str) -> bytes:
    """The body to send. Raises `UnfitError`.

    `salt` is of letters and digits, at most 64; a salt of the user's keeps requests apart as before. Beam search has no
    greedy form, and engines refuse to stream it.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        raise UnfitError("the body is no JSON") from None
    if not isinstance(request, dict):
        raise UnfitError("the body is no JSON object")
    request = cast("dict[str, Any]", request)
    if request.get("use_beam_search"):
        raise UnfitError("beam search")
    options = request.get("stream_options")
    own = cast("dict[str, Any]", options) if isinstance(options, dict) else {}
    request |= {"temperature": 0, "n": 1, "stream": True, "stream_options": {**own, "include_usage": True}}
    if "best_of" in request:
        request["best_of"] = 1  # it must not be greater than n
    theirs = request.get("cache_salt")
    if isinstance(theirs, str) and theirs:
        salt = hashlib.sha256(f"{salt} {theirs}".encode("utf-8", "surrogatepass")).hexdigest()
    request["cache_salt"] = salt
    return json.dumps(request).encode()


def encode_copy(
    url: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, request_id: str
) -> bytes:
    """The bytes of the request to the arm at `url`. `target` is path and query; `headers` are the user's, of which those
    of the hop are left out and all others, authorization included, go through; `request_id` replaces the user's."""
    given = [(name.lower(), value) for name, value in headers]
    named = {token.strip().lower() for name, value in given if name == b"connection" for token in value.split(b",")}
    drop = _HOP_BY_HOP | _OWN | named
    lines = [
        f"POST {target} HTTP/1.1".encode(),
        b"host: " + urlsplit(url).netloc.encode(),
        b"content-length: " + str(len(body)).encode(),
        b"x-request-id: " + request_id.encode(),
        *(name + b": " + value for name, value in given if name not in drop),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
