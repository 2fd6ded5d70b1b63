"""The runner's own keys on disk: the certificate of the kubelet API, and the node's client certificate by bootstrap.

A bootstrap token lets a new machine ask for a certificate as a node; the cluster's approver signs it, and the runner
renews it by itself before it ends. The certificate of the kubelet API can be asked for in the same way.
Specification: Kubernetes "TLS bootstrapping", signers `kubernetes.io/kube-apiserver-client-kubelet` and
`kubernetes.io/kubelet-serving`.
"""

import asyncio
import base64
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sartor_runner.api.client import ApiClient
from sartor_runner.api.credentials import Credentials
from sartor_runner.api.errors import ApiError, UnreachableError
from sartor_runner.errors import ConfigurationError

logger = logging.getLogger(__name__)

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
RENEW_SHARE = 0.7
POLL_SECONDS = 1.0
APPROVAL_SECONDS = 900.0
RETRY_SECONDS = 10.0
LEAST_SECONDS, STEP_SECONDS = 60.0, 600.0
PKI = Path(__file__).with_name("pki.py")
END_OF_KEY = b"-----END PRIVATE KEY-----\n"


async def serving_pair(folder: Path, name: str, address: str) -> Path:
    """The file with key and certificate of the kubelet API, made if it is not there for this name and address."""
    path = folder / f"serving-{name}-{address.replace(':', '_')}.pem"
    if not path.exists():
        write_private(path, await _pki("serving", name, address))
    return path


async def node_credentials(folder: Path, name: str, bootstrap: Credentials, now: float) -> Credentials:
    """The node's own certificate, asked for with the bootstrap credentials when there is none that is still good.

    Waits for the approval; raises `ConfigurationError` when it is refused or does not come, and the API's errors.
    """
    path = folder / "node-client.pem"
    if not path.exists() or (await _validity(path))[1] <= now:
        write_private(path, await _ask(name, bootstrap))
    return _with_pair(bootstrap, path)


async def keep_renewed(
    folder: Path, name: str, bootstrap: Credentials, client: ApiClient, clock: Callable[[], float]
) -> None:
    """Renews the node's certificate in time, for ever; ends by cancellation only. One that has run out, as on a machine
    that was asleep, opens nothing any more: the next is asked for with the `bootstrap` credentials."""
    path = folder / "node-client.pem"
    while True:
        begins, ends = await _validity(path)
        await _sleep_until(begins + (ends - begins) * RENEW_SHARE, clock)
        try:
            write_private(path, await _ask(name, bootstrap if clock() >= ends else client.credentials))
            await client.replace(_with_pair(client.credentials, path))
        except (ApiError, UnreachableError, ConfigurationError) as error:
            logger.warning("the node's certificate was not renewed: %s", error)


async def keep_serving(
    folder: Path,
    name: str,
    address: str,
    client: ApiClient,
    clock: Callable[[], float],
    use: Callable[[Path], None],
) -> None:
    """Has the kubelet API use a certificate of the cluster, and renews it, for ever; ends by cancellation only."""
    path = folder / f"serving-cluster-{name}-{address.replace(':', '_')}.pem"
    while True:
        try:
            begins, ends = await _validity(path) if path.exists() else (0.0, 0.0)
            if clock() >= begins + (ends - begins) * RENEW_SHARE:
                asked = await _pki("request", name, address)
                write_private(path, await _signed(asked, client, SERVING_SIGNER, "server auth"))
                begins, ends = await _validity(path)
            use(path)
            await _sleep_until(begins + (ends - begins) * RENEW_SHARE, clock)
        except (ApiError, UnreachableError, ConfigurationError) as error:
            logger.warning("the kubelet API has no certificate of the cluster yet: %s", error)
            await asyncio.sleep(RETRY_SECONDS)


async def _sleep_until(moment: float, clock: Callable[[], float]) -> None:
    """At least `LEAST_SECONDS`, so that what fails is not tried in a circle. In steps: the loop's clock stands still while
    a machine sleeps, the calendar does not."""
    await asyncio.sleep(LEAST_SECONDS)
    while (left := moment - clock()) > 0:
        await asyncio.sleep(min(left, STEP_SECONDS))


async def _ask(name: str, credentials: Credentials) -> bytes:
    client = ApiClient(credentials)
    try:
        return await _signed(await _pki("request", name), client, CLIENT_SIGNER, "client auth")
    finally:
        await client.close()


async def _signed(pem: bytes, client: ApiClient, signer: str, usage: str) -> bytes:
    """Key and signed certificate, once somebody approved it. Raises `ConfigurationError` when it is refused or late."""
    key, asked = _split(pem)
    body = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "sartor-runner-"},
        "spec": {
            "request": base64.b64encode(asked).decode(),
            "signerName": signer,
            "usages": ["digital signature", usage],
        },
    }
    created = (await client.create(REQUESTS, body))["metadata"]["name"]
    logger.info("waiting for the approval of certificate request %s (kubectl certificate approve %s)", created, created)
    for _ in range(int(APPROVAL_SECONDS / POLL_SECONDS)):
        status = (await client.get(f"{REQUESTS}/{created}")).get("status") or {}
        if status.get("certificate"):
            return key + base64.b64decode(status["certificate"])
        for condition in status.get("conditions") or ():
            if condition["type"] in ("Denied", "Failed"):
                said = condition.get("message") or condition.get("reason") or ""
                raise ConfigurationError(f"certificate request {created} was {condition['type'].lower()}: {said}")
        await asyncio.sleep(POLL_SECONDS)
    raise ConfigurationError(f"certificate request {created} was not approved within {APPROVAL_SECONDS:.0f} s")


def _with_pair(credentials: Credentials, path: Path) -> Credentials:
    key, certificate = _split(path.read_bytes())
    return replace(credentials, token=None, token_file=None, certificate=certificate, key=key)


def _split(pem: bytes) -> tuple[bytes, bytes]:
    key, marker, rest = pem.partition(END_OF_KEY)
    return key + marker, rest


def write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, readable by the runner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.rename(path)


async def _pki(*arguments: str, stdin: bytes = b"") -> bytes:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(PKI), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(stdin)
    if process.returncode != 0:
        last = errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ConfigurationError(f"keys cannot be made ({' '.join(arguments)}): {last}")
    return output


async def _validity(path: Path) -> tuple[float, float]:
    _, certificate = _split(path.read_bytes())
    begins, ends = (await _pki("validity", stdin=certificate)).split()
    return float(begins), float(ends)
