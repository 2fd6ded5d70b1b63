"""Where the API server is and who we are to it: from a kubeconfig, or from the service account mounted in a pod."""

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sartor_runner.errors import ConfigurationError

IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Credentials:
    """`server` without a slash at its end. `token_file` is read anew for every request, as tokens are renewed in place."""

    server: str
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str | None = None
    token_file: Path | None = None
    insecure: bool = False
    server_name: str | None = None

    @property
    def host_and_port(self) -> tuple[str, int]:
        parts = urlsplit(self.server)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def authorization(self) -> str | None:
        """The header's value; None when the certificate is what identifies us."""
        if self.token_file is not None:
            return f"Bearer {self.token_file.read_text(encoding='ascii').strip()}"
        return f"Bearer {self.token}" if self.token else None

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Raises `ConfigurationError` for certificates that cannot be used."""
        if not self.server.startswith("https:"):
            return False
        try:
            context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate and self.key:
                load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"the certificates for {self.server} cannot be used: {error}") from error
        return context


def load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """A certificate and its key from memory: the library takes files only, so one is there for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pair.pem")
        path.touch(mode=0o600)
        path.write_bytes(certificate.rstrip() + b"\n" + key)
        context.load_cert_chain(path)


def in_cluster(environment: Mapping[str, str] = os.environ, folder: Path = IN_CLUSTER) -> Credentials:
    """Raises `ConfigurationError` outside of a pod."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (folder / "token").is_file():
        raise ConfigurationError(
            "no credentials: set api.kubeconfig in the configuration, or api.bootstrap_kubeconfig to ask for some "
            "(this is no pod with a service account)"
        )
    shown = f"[{host}]" if ":" in host else host
    ca = folder / "ca.crt"
    return Credentials(
        f"https://{shown}:{port}", ca=ca.read_bytes() if ca.is_file() else None, token_file=folder / "token"
    )


def kubeconfig(path: Path) -> Credentials:
    """The current context of a kubeconfig. Raises `ConfigurationError` for what is missing or not supported."""
    try:
        content: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        name = content["current-context"]
        context = _named(content, "contexts", name)["context"]
        cluster = _named(content, "clusters", context["cluster"])["cluster"]
        user = _named(content, "users", context["user"]).get("user") or {}
        server = cluster["server"].rstrip("/")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: not a kubeconfig with a current context: {error!r}") from error
    for unsupported in ("exec", "auth-provider", "username"):
        if unsupported in user:
            raise ConfigurationError(
                f"{path}: users[].user.{unsupported} is not supported; use a client certificate, token or tokenFile"
            )
    return Credentials(
        server,
        ca=_data(cluster, "certificate-authority", path),
        certificate=_data(user, "client-certificate", path),
        key=_data(user, "client-key", path),
        token=user.get("token"),
        token_file=path.parent / user["tokenFile"] if user.get("tokenFile") else None,
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
        server_name=cluster.get("tls-server-name"),
    )


def _named(content: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any]:
    for entry in content.get(kind) or ():
        if entry.get("name") == name:
            return entry
    raise KeyError(f"{kind} has no {name!r}")


def _data(table: Mapping[str, Any], key: str, path: Path) -> bytes | None:
    if table.get(f"{key}-data"):
        return base64.b64decode(table[f"{key}-data"])
    if not table.get(key):
        return None
    file = path.parent / table[key]
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {key}: {file}: {error.strerror}") from error
