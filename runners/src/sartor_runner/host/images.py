"""Images on a machine without images: a prepared environment for every image name that the configuration knows.

Nothing is pulled. What a pod's image stands for is the environment whose pattern matches it first; its identity is the hash
of its definition, so that a change of the configuration shows in the pods' `imageID`.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sartor_runner.config import EnvironmentTable
from sartor_runner.errors import ConfigurationError
from sartor_runner.host.sandbox import Bind

SYSTEM_FOLDERS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl",
)
SHOWN_BY_SANDBOX = frozenset({"proc", "dev", "tmp", "sys"})


@dataclass(frozen=True)
class Environment:
    """An environment ready for use. `links`: symbolic links to make, target to what it points at."""

    name: str
    identity: str
    table: EnvironmentTable
    binds: tuple[Bind, ...]
    links: Mapping[str, str]
    variables: Mapping[str, str]


class Images:
    """The environments of this node. Raises `ConfigurationError` for one that names what is not there."""

    def __init__(self, tables: Mapping[str, EnvironmentTable], *, linux: bool = True) -> None:
        self.environments = tuple(_prepare(name, table, linux=linux) for name, table in tables.items())

    def find(self, image: str) -> Environment | None:
        return next((e for e in self.environments if any(fnmatchcase(image, p) for p in e.table.images)), None)

    def missing(self, image: str) -> str:
        """The sentence for an image that no environment stands for."""
        known = ", ".join(sorted({p for e in self.environments for p in e.table.images})) or "none"
        return (
            f'image "{image}" stands for no environment on this node, which pulls nothing; add a table '
            f"[environments.NAME] with a matching pattern to its configuration (patterns that are there: {known})"
        )

    def names(self) -> list[str]:
        """Patterns without wildcards, for the node's `status.images`."""
        return sorted({p for e in self.environments for p in e.table.images if not set(p) & set("*?[")})


def _prepare(name: str, table: EnvironmentTable, *, linux: bool) -> Environment:
    binds: list[Bind] = []
    links: dict[str, str] = {}
    path = list(table.path)
    if table.root is not None:
        binds += _root(Path(table.root), name)
    elif table.system and linux:
        for bind, link in _system():
            if bind is not None:
                binds.append(bind)
            links.update(link)
    for text in table.binds:
        source, _, target = text.partition(":")
        binds.append(Bind(source, target or source))
    binds += [Bind(device, device, writable=True, device=True) for device in table.devices]
    if table.python is not None:
        folders = python_folders(Path(table.python))
        binds += [Bind(str(folder), str(folder)) for folder in folders if not _shown(folder, binds)]
        path.insert(0, f"{table.python}/bin")
    for bind in binds:
        if not os.path.lexists(bind.source):
            raise ConfigurationError(
                f"environments.{name}: {bind.source} is not there; correct the path or leave it out"
            )
    variables = {"PATH": ":".join(path), **table.environment}
    if table.python is not None and (Path(table.python) / "pyvenv.cfg").is_file():
        variables.setdefault("VIRTUAL_ENV", table.python)
    digest = hashlib.sha256(table.model_dump_json().encode()).hexdigest()
    return Environment(name, f"sartor-runner/{name}@sha256:{digest}", table, tuple(_sorted(binds)), links, variables)


def _sorted(binds: list[Bind]) -> Iterator[Bind]:
    """Outer paths before inner ones, so that no mount hides another; the last one given wins a path."""
    by_target = {bind.target: bind for bind in binds}
    yield from sorted(by_target.values(), key=lambda bind: bind.target.count("/") if bind.target != "/" else 0)


def _system() -> Iterator[tuple[Bind | None, dict[str, str]]]:
    yield Bind("/usr", "/usr"), {}
    for folder in SYSTEM_FOLDERS:
        if Path(folder).is_symlink():
            yield None, {folder: str(Path(folder).readlink())}
        elif Path(folder).is_dir():
            yield Bind(folder, folder), {}
    for file in SYSTEM_FILES:
        if Path(file).exists():
            yield Bind(file, file), {}


def _root(root: Path, name: str) -> Iterator[Bind]:
    """The entries of a prepared root folder, each on its own: the root itself stays a private file system."""
    if not root.is_dir():
        raise ConfigurationError(f"environments.{name}.root: {root} is not a folder")
    for entry in sorted(root.iterdir()):
        if entry.name not in SHOWN_BY_SANDBOX:
            yield Bind(str(entry), f"/{entry.name}")


def _shown(folder: Path, binds: list[Bind]) -> bool:
    return any(folder.is_relative_to(bind.target) and bind.source == bind.target for bind in binds)


def python_folders(prefix: Path) -> list[Path]:
    """The folders that the interpreter in `prefix/bin/python` needs: its own, and that of every hop of its links.

    Raises `ConfigurationError` when there is no interpreter.
    """
    folders = [prefix]
    link = next((p for p in (prefix / "bin" / "python3", prefix / "bin" / "python") if os.path.lexists(p)), None)
    if link is None:
        raise ConfigurationError(
            f"{prefix}: there is no bin/python3 in it; name a virtual environment or a Python prefix"
        )
    for _ in range(20):
        folder = link.parent.parent
        if folder not in folders:
            folders.append(folder)
        if not link.is_symlink():
            return [f for f in folders if f == prefix or not _system_prefix(f)]
        link = Path(os.path.normpath(link.parent / link.readlink()))
    raise ConfigurationError(f"{prefix}: bin/python3 is a circle of links")


def _system_prefix(folder: Path) -> bool:
    return str(folder) in ("/", "/usr", "/usr/local")
