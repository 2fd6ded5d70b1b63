"""Provenance: an in-toto Statement v1 with the SLSA Provenance v1 predicate (slsa.dev/spec/v1.0/provenance).

The subject is the stack by its content hash: SHA-256 over the sorted files, each as `LENGTH:PATH` and `LENGTH:` CONTENT
(`sartor_agents.run.content.content_hash`). `resolvedDependencies` are what the build and its proof rest on (model, baseline,
run repository), `byproducts` every other file of the bundle.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from sartor_agents.evidence.archive import digest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://sartor.dev/synthesis/v1"
PROVENANCE = "provenance.json"
ENVELOPE = "provenance.dsse.json"

Digests = Mapping[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Resource(_Part):
    """A ResourceDescriptor of in-toto: what it is called, and its hash."""

    name: str
    digest: dict[str, str] = {}
    uri: str | None = None
    annotations: dict[str, JsonValue] | None = None


class BuildDefinition(_Part):
    build_type: Literal["https://sartor.dev/synthesis/v1"] = BUILD_TYPE
    external_parameters: dict[str, JsonValue]
    internal_parameters: dict[str, JsonValue]
    resolved_dependencies: tuple[Resource, ...]


class Builder(_Part):
    id: str
    version: dict[str, str]


class Metadata(_Part):
    invocation_id: str
    started_on: str
    finished_on: str


class RunDetails(_Part):
    builder: Builder
    metadata: Metadata
    byproducts: tuple[Resource, ...]


class Predicate(_Part):
    build_definition: BuildDefinition
    run_details: RunDetails


class Statement(_Part):
    """The whole of `provenance.json`."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    subject: tuple[Resource, ...] = Field(min_length=1, max_length=1)
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = PREDICATE_TYPE
    predicate: Predicate

    def as_file(self) -> bytes:
        """The bytes that are signed."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode() + b"\n"

    def dependency(self, name: str) -> Resource | None:
        return next((one for one in self.predicate.build_definition.resolved_dependencies if one.name == name), None)


def byproducts(files: Mapping[str, bytes]) -> tuple[Resource, ...]:
    """Every file of a bundle but the statement and its envelope."""
    return tuple(
        Resource(name=path, digest={"sha256": digest(files[path])})
        for path in sorted(files)
        if path not in (PROVENANCE, ENVELOPE)
    )


def timestamp(seconds: float) -> str:
    """Unix time as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
