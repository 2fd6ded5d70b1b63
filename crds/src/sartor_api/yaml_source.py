"""YAML 1.2 as plain data that remembers where each part stood.

ruamel's composer gives nodes with marks; the data is built from them here, rather than by ruamel's constructors,
because a resource is JSON data and nothing else (no dates, no tags, no shared objects), and because every key and
value needs its line for error messages.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]

MOST_VALUES = 100_000
"""Values in one document, aliases counted as often as they are used: a few lines of nested aliases can stand for
billions of values."""

_TAG = "tag:yaml.org,2002:"


class InvalidYamlError(Exception):
    """The text is not YAML, or not the YAML of a resource."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


@dataclass
class Document:
    """One YAML document: JSON data, and the line (from 1) of every key and element by its path."""

    line: int
    data: Any
    lines: dict[Path, int] = field(default_factory=dict[Path, int])

    def line_of(self, path: Path) -> int:
        """The line of the part at ``path``, or of the closest part around it that exists."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


def parse(text: str) -> Iterator[Document]:
    """The documents of ``text`` that are not empty. Raises ``InvalidYamlError`` at the first thing that cannot be read."""
    tab = next((number for number, line in enumerate(text.splitlines(), 1) if _indented_by_tab(line)), None)
    try:
        for node in _reader().compose_all(text):
            if node is not None and not (isinstance(node, ScalarNode) and node.tag == _TAG + "null"):
                yield _Builder().document(node)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        if tab is not None and line >= tab:
            raise InvalidYamlError(tab, "is indented by a tab; YAML allows spaces only") from error
        raise InvalidYamlError(line, f"is not YAML: {error.problem or error.context}") from error
    except YAMLError as error:
        raise InvalidYamlError(1, f"is not YAML: {str(error).splitlines()[0]}") from error


def _indented_by_tab(line: str) -> bool:
    return "\t" in line[: len(line) - len(line.lstrip())]


def _reader() -> YAML:
    return YAML(typ="safe", pure=True)


class _Builder:
    def __init__(self) -> None:
        self._lines: dict[Path, int] = {}
        self._values = 0

    def document(self, node: Node) -> Document:
        line = node.start_mark.line + 1
        return Document(line, self._build(node, (), line), self._lines)

    def _build(self, node: Node, path: Path, line: int) -> Any:
        self._values += 1
        if self._values > MOST_VALUES:
            raise InvalidYamlError(line, f"stands for more than {MOST_VALUES} values; write less, or use fewer aliases")
        if len(path) > 64:
            raise InvalidYamlError(line, "is nested more than 64 levels deep")
        self._lines.setdefault(path, line)
        if isinstance(node, MappingNode):
            return self._mapping(node, path)
        if isinstance(node, SequenceNode):
            return [
                self._build(element, (*path, index), element.start_mark.line + 1)
                for index, element in enumerate(node.value)
            ]
        return _scalar(node, line)

    def _mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise InvalidYamlError(line, "has a list or mapping as a key; keys are text")
            key = str(key_node.value)
            if key_node.tag == _TAG + "merge":
                raise InvalidYamlError(
                    line, "uses a merge key (<<), which YAML 1.2 and kubectl do not know; write it out"
                )
            if key in built:
                first = self._lines[*path, key]
                raise InvalidYamlError(line, f'has the key "{key}" twice (first in line {first}); keep one')
            built[key] = self._build(value_node, (*path, key), line)
        return built


def _scalar(node: Node, line: int) -> Any:
    text = str(node.value)
    kind = str(node.tag).removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return _integer(text)
    if kind == "float":
        number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan").lower())
        if not math.isfinite(number):
            raise InvalidYamlError(line, f"has the number {text}, which JSON and Kubernetes cannot hold")
        return number
    if kind in ("str", "timestamp", "merge", "value"):
        return text
    raise InvalidYamlError(line, f"has the tag {node.tag}; resources are plain data without tags")


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    return int(digits, 0) if digits.lstrip("+-")[:2].lower() in ("0x", "0o", "0b") else int(digits, 10)
