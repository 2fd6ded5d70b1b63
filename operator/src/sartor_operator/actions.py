"""What a decision may ask for: a closed set of writes, each safe to repeat.

`decide` gives actions in the order in which they have to be done. A write that turns out to be done already is a success;
one that fails ends the list, and the next look at the cluster decides again from what is there then.
"""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from sartor_operator.kinds import Kind, Manifest

Manager = Literal[
    "sartor-run",
    "sartor-delivery",
    "sartor-replicas",
    "sartor-access",
    "sartor-cleanup",
    "sartor-rollout",
    "sartor-rollout-scale",
    "sartor-rollout-probe",
    "sartor-rollout-finalizer",
    "sartor-synthesis",
    "sartor-profile",
]
"""Field managers of server-side apply, one for each concern."""


@dataclass(frozen=True)
class Create:
    """Make an object that never changes. There already, and of the same owner: done."""

    manifest: Manifest


@dataclass(frozen=True)
class CreateSecret:
    """Make a Secret with 32 random bytes under `key`, in hexadecimal. There already: done, and its value stays."""

    manifest: Manifest
    key: str


@dataclass(frozen=True)
class Apply:
    """Server-side apply: the manager owns exactly these fields of the object."""

    manifest: Manifest
    manager: Manager


@dataclass(frozen=True)
class Delete:
    """Delete exactly this object: another one of the same name is left alone. Gone already: done."""

    kind: Kind
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class PublishStack:
    """Put the `stack/` of a commit into the cluster: parts first, then the index, which makes it count.

    What makes it impossible for good (no such commit, other content, too large) is published as the index, too, so that
    the decision can say so; anything else is an error of the attempt, and it is tried again.
    """

    owner: Manifest
    name: str
    labels: dict[str, str]
    repository: str
    commit: str
    content_hash: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What a stack may not hold: the run's canary and the key of its seeds. In no log."""


@dataclass(frozen=True)
class Tell:
    """An Event for people. `key` makes it one event, however often the decision is taken."""

    about: Manifest
    reason: str
    message: str
    key: str
    warning: bool = False


Action = Create | CreateSecret | Apply | Delete | PublishStack | Tell


@dataclass(frozen=True)
class StatusOf:
    """The status that an object should have. It is written only where it differs from what is there."""

    kind: Kind
    manifest: Manifest
    status: BaseModel


@dataclass(frozen=True)
class Decision:
    """Actions in order, then statuses. `wake_at` (Unix seconds) is when time alone makes another look worth while."""

    actions: tuple[Action, ...] = ()
    statuses: tuple[StatusOf, ...] = ()
    wake_at: float | None = None
    followers: tuple[tuple[Kind, str, str], ...] = field(default=())
    """Keys (kind, namespace, name) to look at afterwards."""
    afterwards: tuple[Action, ...] = ()
    """Done when all else is. One that the API server refuses is told as an Event and holds nothing up: it is tried again
    with the next look."""
    rests_on: tuple[Kind, ...] = ()
    """Kinds by whose objects something is decided that is not taken back, where a watch that is behind would say the same.
    They are listed anew first, it is decided again, and only that decision is carried out."""
    unbooked: tuple[str, ...] = ()
    """Steps of a run whose cost the model proxy alone knows. It is asked first, and it is decided again."""
