"""One question by HTTP, with a bound on its time and on its answer."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

CHUNK_BYTES = 1 << 16
SHOWN = 200
"""Characters of somebody else's words that a message holds at most."""


class UnreadableError(Exception):
    """A source did not answer, or not as it has to; the text says which and how."""


class Fetch:
    """Posts with the session that `session` gives; that belongs to whoever made it."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession]) -> None:
        self._session = session

    async def post(
        self,
        url: str,
        *,
        seconds: float,
        longest: int,
        form: Mapping[str, str] | None = None,
        body: str | None = None,
    ) -> bytes:
        """The answer to a form, or to a body of JSON. It must be a 200 within `seconds` and of at most `longest` bytes;
        anything else is an `UnreadableError`. Redirections are not followed: who names the address does not get further."""
        headers = {"Content-Type": "application/json"} if body is not None else None
        data = body.encode() if body is not None else dict(form or {})
        limit = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session().post(
                url, data=data, headers=headers, timeout=limit, allow_redirects=False
            ) as answer:
                found = await _read(answer, longest, url)
                if answer.status != 200:
                    raise UnreadableError(f"{url} answered {answer.status}{_said(found)}")
                return found
        except TimeoutError:
            raise UnreadableError(f"{url} did not answer within {seconds:.0f} s") from None
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            raise UnreadableError(f"{url} cannot be asked: {str(error) or type(error).__name__}") from error


async def _read(answer: aiohttp.ClientResponse, longest: int, url: str) -> bytes:
    found = bytearray()
    async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
        found += chunk
        if len(found) > longest:
            raise UnreadableError(f"{url} answers with more than {longest >> 20} MiB")
    return bytes(found)


def _said(answer: bytes) -> str:
    """The word that servers of this kind give with an error; nothing else of an answer is shown, whoever gave it."""
    try:
        content: Any = json.loads(answer)
    except (ValueError, RecursionError):
        return ""
    error = content.get("error") if isinstance(content, dict) else None
    return f": {error[:SHOWN]}" if isinstance(error, str) else ""
