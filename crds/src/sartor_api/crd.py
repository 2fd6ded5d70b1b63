"""CustomResourceDefinitions from the pydantic models.

Kubernetes takes a subset of OpenAPI, the *structural schema*: every type written out where it is used, no
references, no unions, defaults as data. What pydantic says in JSON Schema beyond that is translated here; a keyword
that this module does not know is an error, so that nothing is lost without anybody noticing.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from sartor_api.base import GROUP, VERSION, WORDS, ApiModel
from sartor_api.meta import Resource
from sartor_api.quantities import DecimalString, Duration, Percentage, Quantity, Threshold

Schema = dict[str, Any]

_KEPT = (
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-validations",
    WORDS,
)
_DROPPED = ("title", "description", "default", "properties", "items", "additionalProperties", "propertyNames")


class _Generator(GenerateJsonSchema):
    """JSON Schema in the order of the models' fields."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:
        return value


def crd(kind: type[Resource]) -> Schema:
    """The CustomResourceDefinition of a kind."""
    naming = kind.naming
    singular = kind.__name__.lower()
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {
                "name": column.name,
                "type": column.type,
                "jsonPath": column.path,
                "description": column.description,
                **({"priority": 1} if column.wide else {}),
            }
            for column in naming.columns
        ],
        "schema": {"openAPIV3Schema": _spoken(structural(kind))},
    }
    if naming.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in naming.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{naming.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "sartor"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Cluster" if naming.cluster_scoped else "Namespaced",
            "names": {
                "kind": kind.__name__,
                "listKind": f"{kind.__name__}List",
                "plural": naming.plural,
                "singular": singular,
                "shortNames": [naming.short_name],
                "categories": list(naming.categories),
            },
            "versions": [version],
        },
    }


def structural(kind: type[ApiModel]) -> Schema:
    """The structural schema of a model. Raises ``ValueError`` for what Kubernetes could not enforce."""
    root = kind.model_json_schema(by_alias=True, schema_generator=_Generator)
    definitions: Mapping[str, Schema] = root.pop("$defs", {})
    schema = _translated(root, definitions, kind.__name__)
    _put_defaults(schema, kind)
    if issubclass(kind, Resource):
        # The API server knows metadata itself; a CRD may only restrict it.
        properties = schema["properties"]
        properties["apiVersion"] = {"type": "string"}
        properties["kind"] = {"type": "string"}
        properties["metadata"] = {"type": "object"}
        schema["required"] = [name for name in schema.get("required", []) if name == "spec"]
        if not schema["required"]:
            del schema["required"]
    return schema


def _spoken(schema: Schema, *, asked: bool = False) -> Schema:
    """The schema with rules that say what is wanted in place of patterns, which the API server would recite.

    In `spec` alone (`asked`): nobody writes a status by hand.
    """
    spoken = {key: value for key, value in schema.items() if key != WORDS}
    if asked and WORDS in schema:
        form = f"self.matches(r'{spoken.pop('pattern')}')"
        if schema.get("x-kubernetes-int-or-string"):
            # A number without quotes has no pattern; it may have as many digits as the pattern allows.
            form = f"type(self) == int ? self >= 0 && self < 1000000000000000 : {form}"
        if spoken.get("format") == "duration":
            del spoken["format"]  # it is looser than the pattern, and has CEL see a length in place of the text
        said = {"rule": form, "message": schema[WORDS]}
        spoken["x-kubernetes-validations"] = [said, *schema.get("x-kubernetes-validations", ())]
    for part in ("items", "additionalProperties"):
        if part in schema:
            spoken[part] = _spoken(schema[part], asked=asked)
    if "properties" in schema:
        spoken["properties"] = {
            name: _spoken(below, asked=asked or name == "spec") for name, below in schema["properties"].items()
        }
    return spoken


def _translated(source: Schema, definitions: Mapping[str, Schema], where: str) -> Schema:
    if "$ref" in source:
        target = definitions[source["$ref"].rpartition("/")[2]]
        return _translated({**target, **{k: v for k, v in source.items() if k != "$ref"}}, definitions, where)
    if "anyOf" in source:
        choices = [choice for choice in source["anyOf"] if choice != {"type": "null"}]
        if len(choices) != 1:
            raise ValueError(f"{where} is a union; Kubernetes wants an object with one field per alternative")
        rest = {k: v for k, v in source.items() if k != "anyOf"}
        return _translated({**choices[0], **rest}, definitions, where)
    if "const" in source:
        source = {**{k: v for k, v in source.items() if k != "const"}, "enum": [source["const"]]}
    unknown = set(source) - set(_KEPT) - set(_DROPPED)
    if unknown:
        raise ValueError(f"{where} uses {', '.join(sorted(unknown))}, which a structural schema cannot say")
    schema: Schema = {}
    if "description" in source:
        schema["description"] = " ".join(str(source["description"]).split())
    schema |= {key: source[key] for key in _KEPT if key in source}
    if source.get("type") == "integer":
        schema["format"] = "int64"
    if "properties" in source:
        schema["properties"] = {
            name: _translated(below, definitions, f"{where}.{name}") for name, below in source["properties"].items()
        }
    if "items" in source:
        schema["items"] = _translated(source["items"], definitions, f"{where}[]")
        schema.setdefault("x-kubernetes-list-type", "atomic")
    if isinstance(source.get("additionalProperties"), dict):
        schema["additionalProperties"] = _translated(source["additionalProperties"], definitions, f"{where}[]")
    _check_bounded(schema, where)
    return schema


def _check_bounded(schema: Schema, where: str) -> None:
    unbounded = {
        "string": not {"maxLength", "enum", "format"} & set(schema),
        "array": "maxItems" not in schema,
        "object": "additionalProperties" in schema and "maxProperties" not in schema,
    }
    if unbounded.get(str(schema.get("type")), False) and ".metadata" not in where:
        raise ValueError(f"{where} has no upper bound; the API server needs one to bound the cost of rules")


def _put_defaults(schema: Schema, model: type[BaseModel]) -> None:
    """Writes each field's default into its schema, in full: the API server checks the rules of a default before it
    fills nested defaults in."""
    for name, field in model.model_fields.items():
        below = schema["properties"][field.alias or name]
        nested = _models_in(field.annotation)
        if nested is not None:
            target = below if "properties" in below else below.get("items", below.get("additionalProperties", {}))
            _put_defaults(target, nested)
        default = field.get_default(call_default_factory=False)
        if not field.is_required() and default is not None:
            below["default"] = plain(default)


def _models_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments: tuple[Any, ...] = getattr(annotation, "__args__", ())
    return next((model for argument in arguments if (model := _models_in(argument))), None)


def plain(value: object) -> Any:
    """A default as JSON data."""
    match value:
        case ApiModel():
            return value.to_dict(defaults=True)
        case tuple():
            return [plain(element) for element in cast(tuple[object, ...], value)]
        case Enum():
            return value.value
        case Duration() | Quantity() | DecimalString() | Percentage() | Threshold():
            return str(value)
        case _:
            return value
