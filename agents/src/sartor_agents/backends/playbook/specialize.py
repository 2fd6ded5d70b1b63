"""Partial evaluation of building blocks: fold what a stack's spec decides, and drop what is then unused.

A block in the library serves every model and workload; it asks `spec.SPECULATION == "none"` where they differ. In one stack
that question has one answer. `fold` evaluates every condition that consists of spec names and literals alone, keeps the
branch that is taken and removes the other; `prune` then removes definitions that nothing refers to any more. Both work on
concrete syntax (LibCST), so comments, names and layout stay as they were written.

Numbers stay named (`spec.PAGE_TOKENS`): a literal 16 would not say what it means. They are compile-time constants in the C++
parts, which get them as `constexpr`.
"""

import ast
import operator
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import libcst as cst
import libcst.matchers as m

_UNKNOWN: Final = object()

_COMPARE: Final[dict[type[cst.BaseCompOp], Callable[[Any, Any], bool]]] = {
    cst.Equal: operator.eq,
    cst.NotEqual: operator.ne,
    cst.LessThan: operator.lt,
    cst.LessThanEqual: operator.le,
    cst.GreaterThan: operator.gt,
    cst.GreaterThanEqual: operator.ge,
    cst.Is: operator.is_,
    cst.IsNot: operator.is_not,
    cst.In: lambda left, right: left in right,
    cst.NotIn: lambda left, right: left not in right,
}


def fold(source: str, spec: Mapping[str, Any]) -> str:
    """`source` with every condition that `spec` decides evaluated. Raises `libcst.ParserSyntaxError` on bad source."""
    return cst.parse_module(source).visit(_Folder(spec)).code


class _Folder(cst.CSTTransformer):
    def __init__(self, spec: Mapping[str, Any]) -> None:
        super().__init__()
        self._spec = spec
        self._elifs: set[cst.If] = set()

    def _value(self, node: cst.BaseExpression) -> Any:
        """What the expression is, or `_UNKNOWN` where it depends on more than the spec."""
        if m.matches(node, m.Attribute(value=m.Name("spec"), attr=m.Name())):
            name = cst.ensure_type(cst.ensure_type(node, cst.Attribute).attr, cst.Name).value
            return self._spec.get(name, _UNKNOWN)
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            target = node.comparisons[0]
            left, right = self._value(node.left), self._value(target.comparator)
            if left is _UNKNOWN or right is _UNKNOWN:
                return _UNKNOWN
            return _COMPARE[type(target.operator)](left, right)
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            value = self._value(node.expression)
            return _UNKNOWN if value is _UNKNOWN else not value
        if isinstance(node, cst.BooleanOperation):
            return self._boolean(node)
        try:
            return ast.literal_eval(cst.Module([]).code_for_node(node).strip())
        except (ValueError, SyntaxError, TypeError):
            return _UNKNOWN

    def _boolean(self, node: cst.BooleanOperation) -> Any:
        values = [self._value(node.left), self._value(node.right)]
        decisive = isinstance(node.operator, cst.Or)  # `or` is decided by a true side, `and` by a false one
        if values[0] is not _UNKNOWN and bool(values[0]) is decisive:
            return values[0]
        return _UNKNOWN if _UNKNOWN in values else values[1]

    def leave_BooleanOperation(  # noqa: N802
        self, original_node: cst.BooleanOperation, updated_node: cst.BooleanOperation
    ) -> cst.BaseExpression:
        left = self._value(updated_node.left)
        if left is _UNKNOWN:
            return updated_node
        is_or = isinstance(updated_node.operator, cst.Or)
        return self._truth(updated_node.left) if bool(left) is is_or else updated_node.right

    def _truth(self, node: cst.BaseExpression) -> cst.BaseExpression:
        value = self._value(node)
        return cst.Name(str(value)) if isinstance(value, bool) else node

    def leave_Comparison(  # noqa: N802
        self, original_node: cst.Comparison, updated_node: cst.Comparison
    ) -> cst.BaseExpression:
        return self._truth(updated_node)

    def leave_UnaryOperation(  # noqa: N802
        self, original_node: cst.UnaryOperation, updated_node: cst.UnaryOperation
    ) -> cst.BaseExpression:
        return self._truth(updated_node)

    def leave_IfExp(self, original_node: cst.IfExp, updated_node: cst.IfExp) -> cst.BaseExpression:  # noqa: N802
        value = self._value(updated_node.test)
        if value is _UNKNOWN:
            return updated_node
        return updated_node.body if value else updated_node.orelse

    def visit_If(self, node: cst.If) -> None:  # noqa: N802
        if isinstance(node.orelse, cst.If):
            self._elifs.add(node.orelse)

    def leave_If(  # noqa: N802
        self, original_node: cst.If, updated_node: cst.If
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement] | cst.RemovalSentinel:
        if original_node in self._elifs:
            return updated_node  # only the head of a chain can be replaced by statements
        return self._chain(updated_node)

    def _chain(self, head: cst.If) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement] | cst.RemovalSentinel:
        """Fold a whole `if … elif … else`: false branches go, the first true one becomes the `else`."""
        open_branches: list[cst.If] = []
        rest: cst.If | cst.Else | None = head
        while isinstance(rest, cst.If):
            value = self._value(rest.test)
            if value is _UNKNOWN:
                open_branches.append(rest)
            elif value:
                rest = cst.Else(body=rest.body)
                break
            rest = rest.orelse
        if not open_branches:
            return cst.RemoveFromParent() if rest is None else _unwrap(rest.body, head.leading_lines)
        chain = rest
        for branch in reversed(open_branches):
            chain = branch.with_changes(orelse=chain)
        assert isinstance(chain, cst.If)
        return chain.with_changes(leading_lines=head.leading_lines)


def _unwrap(
    body: cst.BaseSuite, leading: Sequence[cst.EmptyLine]
) -> cst.FlattenSentinel[cst.BaseStatement] | cst.RemovalSentinel:
    """The statements of a branch that is always taken, with the comments that stood before the `if`."""
    if isinstance(body, cst.IndentedBlock):
        statements: list[Any] = [s for s in body.body if not m.matches(s, m.SimpleStatementLine(body=[m.Pass()]))]
    else:
        statements = [cst.SimpleStatementLine(body=cst.ensure_type(body, cst.SimpleStatementSuite).body)]
    if not statements:
        return cst.RemoveFromParent()
    first = statements[0]
    statements[0] = first.with_changes(leading_lines=[*leading, *first.leading_lines])
    return cst.FlattenSentinel(statements)


def prune(modules: Mapping[str, str], entry: str) -> dict[str, str]:
    """`modules` (module name → source) without what nothing reaches from module `entry`.

    Dropped are modules that no import reaches, and top-level functions, classes, constants and private methods whose name
    occurs nowhere but in their own definition. The rule goes by name, so it never drops what is used, and keeps a little of
    what is not. Unused imports are left to the formatter (`ruff`, F401).
    """
    trees = {name: cst.parse_module(source) for name, source in _reachable(modules, entry).items()}
    while True:
        uses = sum((_identifiers(tree.code) for tree in trees.values()), Counter[str]())
        pruned = {name: tree.visit(_Pruner(uses)) for name, tree in trees.items()}
        if all(pruned[name].code == tree.code for name, tree in trees.items()):
            return _reachable({name: tree.code for name, tree in trees.items()}, entry)
        trees = pruned


def _reachable(modules: Mapping[str, str], entry: str) -> dict[str, str]:
    seen: list[str] = []
    pending = [entry]
    while pending:
        name = pending.pop()
        if name in seen or name not in modules:
            continue
        seen.append(name)
        for node in ast.walk(ast.parse(modules[name])):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                pending.extend([node.module] if node.module else [alias.name for alias in node.names])
    return {name: source for name, source in modules.items() if name in seen}


def _identifiers(source: str) -> Counter[str]:
    """How often every identifier occurs in `source`; an import alone is no use (unless it renames)."""
    found: Counter[str] = Counter()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                found[name] += 1
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] += 1
            case ast.keyword(arg=str() as name) | ast.alias(name=name, asname=str()):
                found[name] += 1
            case _:
                pass
    return found


class _Pruner(cst.CSTTransformer):
    def __init__(self, uses: Counter[str]) -> None:
        super().__init__()
        self._uses = uses
        self._depth = 0

    def _unused(self, name: str, node: cst.CSTNode) -> bool:
        if name.startswith("__"):
            return False
        return self._uses[name] <= _identifiers(cst.Module([]).code_for_node(node))[name]

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:  # noqa: N802
        return False

    def visit_ClassDef(self, node: cst.ClassDef) -> None:  # noqa: N802
        self._depth += 1

    def leave_ClassDef(  # noqa: N802
        self, original_node: cst.ClassDef, updated_node: cst.ClassDef
    ) -> cst.ClassDef | cst.RemovalSentinel:
        self._depth -= 1
        gone = self._depth == 0 and self._unused(original_node.name.value, original_node)
        return cst.RemoveFromParent() if gone else updated_node

    def leave_FunctionDef(  # noqa: N802
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef | cst.RemovalSentinel:
        name = original_node.name.value
        droppable = not original_node.decorators and (self._depth == 0 or name.startswith("_"))
        return cst.RemoveFromParent() if droppable and self._unused(name, original_node) else updated_node

    def leave_SimpleStatementLine(  # noqa: N802
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.RemovalSentinel:
        if self._depth or len(original_node.body) != 1:
            return updated_node
        statement = original_node.body[0]
        target: cst.BaseExpression | None = None
        if isinstance(statement, cst.Assign) and len(statement.targets) == 1:
            target = statement.targets[0].target
        elif isinstance(statement, cst.AnnAssign):
            target = statement.target
        if isinstance(target, cst.Name) and self._unused(target.value, statement):
            return cst.RemoveFromParent()
        return updated_node
