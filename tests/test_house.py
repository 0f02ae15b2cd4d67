"""What is written once: standard errors in core.stats, drawing without a display in report, and a class name for one idea.

And that every name is defined: ruff and mypy do not look for it, since the shapes of jaxtyping are names to both.
"""

import ast
import builtins
import symtable
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

SOURCE = ROOT / "src/tokenry"
SHARED_NAMES = {
    "Plan",  # one per verb: `score.Plan`
}
"""Class names that stand for more than one idea; none may come to them."""


@cache
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(SOURCE.rglob("*.py"))}


def is_root(node: ast.AST) -> bool:
    """`sqrt(x)`, `x.sqrt()` or `x ** 0.5`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return isinstance(node.right, ast.Constant) and node.right.value == 0.5
    function = getattr(node, "func", None)
    return "sqrt" in (getattr(function, "attr", None), getattr(function, "id", None))


def standard_errors(tree: ast.AST) -> Iterator[int]:
    """The lines that divide by `n ** 0.5`, or divide a standard deviation where a root is drawn."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = list(ast.walk(node))
            deviates = any(getattr(part, "attr", None) in ("std", "stdev") for part in parts)
            powers = is_root(node.right) and isinstance(node.right, ast.BinOp)
            if powers or (deviates and any(map(is_root, parts))):
                yield node.lineno


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("x.std() / math.sqrt(len(x))", True),
        ("spread / n**0.5", True),
        ("np.sqrt(x.var()) * statistics.stdev(x) / n.sqrt()", True),
        ("x @ y / np.sqrt((x @ x) * (y @ y))", False),
        ("(x - x.mean()) / x.std()", False),
        ("int(n**0.5)", False),
    ],
)
def test_a_standard_error_is_told_from_other_roots(expression, found):
    assert bool(list(standard_errors(ast.parse(expression)))) is found


def test_standard_errors_are_computed_in_core_stats_alone():
    elsewhere = [
        f"{file.relative_to(SOURCE)}:{line}"
        for file, tree in trees().items()
        if "core/stats" not in file.as_posix()
        for line in standard_errors(tree)
    ]
    assert not elsewhere


def test_nobody_chooses_a_backend_of_matplotlib_for_the_whole_process():
    assert not [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "use" and ast.unparse(node) == "matplotlib.use"
    ]


def test_a_class_name_stands_for_one_idea():
    names = Counter(
        node.name for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert names["Estimate"] == 1
    assert {name for name, count in names.items() if count > 1} <= SHARED_NAMES


OF_EVERY_MODULE = {*dir(builtins), "__file__", "__path__"}


def undefined(table: symtable.SymbolTable, known: set[str]) -> Iterator[str]:
    """The names that a scope, or one inside it, takes from the module, which does not have them."""
    for symbol in table.get_symbols():
        is_global = symbol.is_global() or table.get_type() == "module"
        if is_global and symbol.is_referenced() and symbol.get_name() not in known:
            yield symbol.get_name()
    for inner in table.get_children():
        yield from undefined(inner, known)


def undefined_in(source: str) -> list[str]:
    module = symtable.symtable(source, "module", "exec")
    own = (symbol for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported())
    return sorted(set(undefined(module, {symbol.get_name() for symbol in own} | OF_EVERY_MODULE)))


def test_a_name_that_nobody_defines_is_found():
    assert undefined_in("import a\ndef f(x: 'b') -> int:\n    return a + x + C\nclass D(E): pass") == [
        "C",
        "E",
    ]


def test_every_name_is_defined():
    found = {
        str(file.relative_to(SOURCE)): names
        for file in sorted(SOURCE.rglob("*.py"))
        if (names := undefined_in(file.read_text(encoding="utf-8")))
    }
    assert found == {}
