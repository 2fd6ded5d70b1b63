"""Where the files of a commit come from: the run repository's service, over HTTP.

    GET {repository}/stack/{commit}.tar      a tar of the commit's `stack/`, paths beginning with `stack/`
    404                                      there is no such commit, or no `stack/` in it

with the operator's own service-account token (audience of the repository) as bearer.
"""

import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import aiohttp

from sartor_operator.errors import TransientError
from sartor_operator.pods.archive import extract

MOST_BYTES = 96 << 20
"""Of a tar; a stack may have 64 MiB."""
_TIMEOUT = aiohttp.ClientTimeout(total=60.0, connect=10.0)


class CommitMissingError(Exception):
    """The repository has no such commit, or the commit holds no stack; nothing will change that."""


class StackSource(Protocol):
    """Reads the files of a commit."""

    async def files(self, repository: str, commit: str) -> Mapping[str, bytes]:
        """Path and content. Raises `CommitMissingError`, `TransientError`."""
        ...


class RepositoryStacks:
    """Stacks from the repository service."""

    def __init__(self, session: Callable[[], aiohttp.ClientSession], token_file: Path | None) -> None:
        self._session = session
        self._token_file = token_file

    async def files(self, repository: str, commit: str) -> Mapping[str, bytes]:
        headers = {"User-Agent": "sartor-operator"}
        if self._token_file is not None and self._token_file.is_file():
            headers["Authorization"] = f"Bearer {self._token_file.read_text(encoding='ascii').strip()}"
        url = f"{repository}/stack/{commit}.tar"
        try:
            async with self._session().get(url, headers=headers, timeout=_TIMEOUT) as answer:
                if answer.status == 404:
                    raise CommitMissingError(f"the run's repository has no stack at commit {commit[:12]}")
                if answer.status != 200:
                    raise TransientError(f"{url}: {answer.status} {answer.reason}", status=answer.status)
                data = b""
                async for chunk in answer.content.iter_chunked(1 << 16):
                    data += chunk
                    if len(data) > MOST_BYTES:
                        raise CommitMissingError(
                            f"the stack at commit {commit[:12]} has more than {MOST_BYTES >> 20} MiB"
                        )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TransientError(f"{url}: {error or type(error).__name__}") from error
        try:
            return extract(data)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise CommitMissingError(f"the stack at commit {commit[:12]} cannot be read: {error}") from error
