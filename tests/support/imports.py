"""What code imports, read from its source: on machines and in images that have less than the tests' environment."""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


class Imports:
    """Follows imports from module to module below `roots`, folders as in PYTHONPATH.

    `lazy`: also imports inside functions, which happen only when they are called.
    """

    def __init__(self, roots: Sequence[Path], *, lazy: bool) -> None:
        self._roots, self._lazy = roots, lazy
        self.followed: dict[str, Path] = {}
        self.others: dict[str, set[str]] = {}
        """Modules that are neither below the roots nor of the standard library, by top level, and who imports them."""

    def follow(self, modules: Iterable[str]) -> "Imports":
        for module in modules:
            self._follow(module, "")
        return self

    def _follow(self, module: str, asking: str) -> None:
        path = self._find(module)
        if path is None:
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names:
                self.others.setdefault(top, set()).add(asking)
            return
        if module in self.followed:
            return
        self.followed[module] = path
        if "." in module:
            self._follow(module.rpartition(".")[0], asking)
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        for name in self._names(ast.parse(path.read_text(encoding="utf-8")), package):
            self._follow(name, module)

    def _find(self, module: str) -> Path | None:
        for root in self._roots:
            place = root / module.replace(".", "/")
            for path in (place / "__init__.py", place.with_name(place.name + ".py")):
                if path.is_file():
                    return path
        return None

    def _names(self, tree: ast.AST, package: str) -> Iterator[str]:
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                parts = package.split(".")
                above = parts[: len(parts) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield base
                yield from (name for alias in node.names if self._find(name := f"{base}.{alias.name}"))
            elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue  # for type checkers alone
            elif self._lazy or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from self._names(node, package)
