"""Kubeconfig files: written for a cluster of ours, read for somebody else's."""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sartor_devcluster.errors import StateError
from sartor_devcluster.pki import Identity


def content(*, cluster: str, server: str, authority: bytes, user: str, credentials: Identity | str) -> dict[str, Any]:
    """A kubeconfig of one context. `credentials` are a certificate with its key, or a bearer token."""
    if isinstance(credentials, str):
        proof: dict[str, Any] = {"token": credentials}
    else:
        proof = {
            "client-certificate-data": base64.b64encode(credentials.certificate).decode(),
            "client-key-data": base64.b64encode(credentials.key).decode(),
        }
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster,
                "cluster": {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()},
            }
        ],
        "users": [{"name": user, "user": proof}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }


def write(path: Path, config: dict[str, Any]) -> None:
    """Write whole or not at all, readable by its owner only: it holds a key."""
    text = io.StringIO()
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.width = 1 << 20  # a certificate is one line
    yaml.dump(config, text)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text.getvalue())
    scratch.replace(path)


@dataclass(frozen=True)
class Context:
    """What the current context of a kubeconfig names."""

    name: str
    server: str


def read_context(path: Path) -> Context:
    """The current context. Raises `StateError` where the file cannot be read or names none."""
    try:
        config = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        name = str(config["current-context"])
        context = _named(config["contexts"], name)["context"]
        return Context(name, str(_named(config["clusters"], context["cluster"])["cluster"]["server"]))
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}; name an existing kubeconfig") from error
    except (YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise StateError(
            f"{path} is no kubeconfig with a current context ({error}); see `kubectl config view`"
        ) from error


def _named(entries: object, name: str) -> dict[str, Any]:
    for entry in cast(list[dict[str, Any]], entries):
        if entry["name"] == name:
            return entry
    raise KeyError(name)
