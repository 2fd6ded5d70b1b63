"""The Kubernetes side of every object: metadata, conditions, and what the API server must know of a kind."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sartor_api.base import API_VERSION, ApiModel
from sartor_api.fields import AnnotationMap, Count, LabelMap, ListMap, Name, Pattern, ShortText


class OwnerReference(ApiModel):
    """An object that this one belongs to."""

    api_version: ShortText
    """Group and version of the owner."""
    kind: ShortText
    """Kind of the owner."""
    name: Name
    """Name of the owner."""
    uid: ShortText
    """Identity of the owner."""
    controller: bool | None = None
    """Whether it is the one controller."""
    block_owner_deletion: bool | None = None
    """Whether the owner waits for this one when it is deleted in the foreground."""


class ObjectMeta(ApiModel):
    """Standard metadata of a Kubernetes object."""

    name: Name | None = None
    """Name, unique within namespace and kind."""
    generate_name: ShortText | None = None
    """Prefix of a name that the API server makes."""
    namespace: Name | None = None
    """Namespace."""
    labels: LabelMap | None = None
    """Labels."""
    annotations: AnnotationMap | None = None
    """Annotations."""
    finalizers: Annotated[tuple[ShortText, ...], Field(max_length=32)] | None = None
    """What must happen before the object may go."""
    owner_references: Annotated[tuple[OwnerReference, ...], Field(max_length=16)] | None = None
    """Owners."""
    uid: ShortText | None = None
    """Identity, given by the API server."""
    resource_version: ShortText | None = None
    """Version of the stored object."""
    generation: Count | None = None
    """Number of changes of the spec."""
    creation_timestamp: datetime | None = None
    """When it was made."""
    deletion_timestamp: datetime | None = None
    """When it is to be gone."""
    deletion_grace_period_seconds: Count | None = None
    """Seconds that it has for that."""
    self_link: ShortText | None = None
    """No longer used by Kubernetes."""
    managed_fields: Annotated[tuple[dict[str, Any], ...], Field(max_length=1024)] | None = None
    """Which manager owns which field."""


class Condition(ApiModel):
    """One observation about the object, as metav1.Condition. Types and reasons: `sartor_api.conditions`."""

    type: Annotated[str, Pattern(r"[A-Za-z]([A-Za-z0-9]*)", "a condition type", 316)]
    """What is observed."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Pattern(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", "a CamelCase reason", 1024)]
    """Why, in one word for machines."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, in a sentence for people."""
    last_transition_time: datetime
    """When the status last changed."""
    observed_generation: Count | None = None
    """Generation of the spec that this is about."""


Conditions = Annotated[tuple[Condition, ...], Field(max_length=32), ListMap(("type",))]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of `kubectl get`. `wide` columns are shown with `-o wide` only."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False


AGE = Column(name="Age", path=".metadata.creationTimestamp", description="Time since it was made.", type="date")


@dataclass(frozen=True, kw_only=True)
class Naming:
    """How the API server and kubectl call a kind. ``selectable``: paths that `--field-selector` takes."""

    plural: str
    short_name: str
    columns: tuple[Column, ...]
    cluster_scoped: bool = False
    selectable: tuple[str, ...] = ()
    categories: tuple[str, ...] = ("sartor",)


class Resource(ApiModel):
    """An object of the API: `apiVersion`, `kind`, `metadata`, `spec` and `status`.

    Kinds add ``kind`` (their class's name), ``spec`` and ``status``.
    """

    naming: ClassVar[Naming]

    api_version: Literal["sartor.dev/v1alpha1"] = API_VERSION
    """Group and version."""
    metadata: ObjectMeta = ObjectMeta()
    """Standard metadata."""

    @property
    def name(self) -> str:
        """Name of the object; the empty string while it has none (only a generated name)."""
        return self.metadata.name or ""
