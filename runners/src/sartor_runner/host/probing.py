"""Sends one probe. Specification: k8s.io/kubernetes/pkg/probe (`http`, `tcp`, `exec`)."""

import asyncio
import ssl
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp

from sartor_runner import __version__
from sartor_runner.core.pod import Container, ExecAction, Handler, HttpGet, Sleep, TcpSocket
from sartor_runner.host import containers

REDIRECTS = 10
BODY_BYTES = 10 << 10


class Prober:
    """Probes of all pods. Certificates are not verified, as with the kubelet."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._unverified = ssl.create_default_context()
        self._unverified.check_hostname = False
        self._unverified.verify_mode = ssl.CERT_NONE

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(
        self, handler: Handler, container: Container, attempt: Path, address: str, timeout: float
    ) -> tuple[bool, str]:
        """(passed, what was seen). Never raises for what a container may do; at most `timeout` seconds."""
        if isinstance(handler, ExecAction):
            code, output = await containers.execute(attempt, handler.command, timeout)
            return code == 0, output if code is None else f"{output} (exit code {code})" if code else output
        if isinstance(handler, Sleep):
            await asyncio.sleep(handler.seconds)
            return True, ""
        port = container.port(handler.port)
        if port is None:
            return False, f"the container has no port named {handler.port!r}"
        try:
            async with asyncio.timeout(timeout):
                if isinstance(handler, TcpSocket):
                    return await self._tcp(handler.host or address, port)
                return await self._http(handler, handler.host or address, port)
        except TimeoutError:
            return False, f"no answer within {timeout:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return False, str(error) or type(error).__name__

    async def _tcp(self, host: str, port: int) -> tuple[bool, str]:
        _, writer = await asyncio.open_connection(host, port)
        writer.transport.abort()
        return True, ""

    async def _http(self, get: HttpGet, host: str, port: int) -> tuple[bool, str]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True, ssl=self._unverified),
                headers={"User-Agent": f"kube-probe/sartor-runner-{__version__}", "Accept": "*/*"},
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        shown = f"[{host}]" if ":" in host else host
        path = get.path if get.path.startswith("/") else f"/{get.path}"
        url = f"{get.scheme.lower()}://{shown}:{port}{path}"
        headers = {name: value for name, value in get.headers if value}
        for _ in range(REDIRECTS):
            async with self._session.get(url, headers=headers, allow_redirects=False) as response:
                await response.content.read(BODY_BYTES)
                status, location = response.status, response.headers.get("Location")
            if status not in (301, 302, 303, 307, 308) or not location:
                return 200 <= status < 400, f"HTTP probe failed with statuscode: {status}"
            following = urljoin(url, location)
            if urlsplit(following).hostname != urlsplit(url).hostname:
                return True, "a redirect to another host counts as success"
            url = following
        return False, f"stopped after {REDIRECTS} redirects"
