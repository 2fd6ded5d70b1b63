"""How the API server is reached: a kubeconfig, or the service account of the pod that this runs in."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import kopf
from kubernetes import config as kubeconfig
from kubernetes.client import Configuration


@dataclass(frozen=True)
class Connection:
    """Address and credentials. Tokens that change (a pod's, an exec plugin's) are read anew by `authorization`."""

    configuration: Configuration

    @classmethod
    def load(cls, path: str | None, context: str | None = None) -> "Connection":
        """From a kubeconfig file; without one from the pod, else from $KUBECONFIG or ~/.kube/config.

        Raises `kubernetes.config.ConfigException` where there is none.
        """
        made = Configuration()
        inside = "KUBERNETES_SERVICE_HOST" in os.environ
        if path is None and context is None and inside and "KUBECONFIG" not in os.environ:
            kubeconfig.load_incluster_config(client_configuration=made)
        else:
            kubeconfig.load_kube_config(
                config_file=path, context=context, client_configuration=made, persist_config=False
            )
        return cls(made)

    @property
    def server(self) -> str:
        return str(cast(Any, self.configuration).host).rstrip("/")

    def ssl_context(self) -> ssl.SSLContext | bool:
        """What verifies the server and shows the client's certificate; False for a server without TLS."""
        found = cast(Any, self.configuration)
        if not self.server.startswith("https:"):
            return False
        context = ssl.create_default_context(cafile=found.ssl_ca_cert or None)
        if not found.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if found.cert_file:
            context.load_cert_chain(found.cert_file, found.key_file or None)
        return context

    def authorization(self) -> str | None:
        """The value of the Authorization header, refreshed where it expires."""
        return cast(Any, self.configuration).get_api_key_with_prefix("BearerToken", alias="authorization")

    def kopf_info(self) -> kopf.ConnectionInfo:
        """The same for kopf."""
        found = cast(Any, self.configuration)
        scheme, _, token = (self.authorization() or "").partition(" ")
        return kopf.ConnectionInfo(
            server=self.server,
            ca_path=found.ssl_ca_cert or None,
            insecure=not found.verify_ssl,
            certificate_path=found.cert_file or None,
            private_key_path=found.key_file or None,
            scheme=scheme or None,
            token=token or None,
        )


def own_namespace() -> str:
    """The namespace of the pod that this runs in, `sartor-system` elsewhere."""
    path = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return path.read_text(encoding="ascii").strip() if path.is_file() else "sartor-system"
