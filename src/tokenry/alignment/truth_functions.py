"""Truth functions of formulas: tables held in one integer, or decision diagrams where there are too many variables for a table.

A table has one bit per row. Rows count the assignments with the first variable as the most significant bit, so over `(W, L)` row 2 is
"W true, L false". `W -> L` is false there alone: its rows, 0 to 3, are 1, 1, 0, 1.

Both kinds answer the same questions, so a structure of preferences does not know which of them it stands on. The disjoint *cubes* of a
function are partial assignments that share no row and together cover its true rows; the weighted model count of a function is then a
sum of products.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, runtime_checkable

from tokenry.alignment.formulas import FALSE, TRUE, Formula, variable
from tokenry.core.errors import UserError

MOST_TABLE_VARIABLES = 20

# A truth function: an integer of 2^n bits, or a node of a decision diagram.
Function = Any
# Partial assignment: variables that it leaves out may be either.
Cube = dict[str, bool]


@runtime_checkable
class TruthFunctions(Protocol):
    """Truth functions over some variables, combined by `&`, `|` and `^`."""

    variables: tuple[str, ...]
    true: Function
    false: Function

    def variable(self, name: str) -> Function:
        """The function that is true where a variable is."""

    def negation(self, function: Function) -> Function:
        """The function that is true where another is false."""

    def cubes(self, function: Function) -> list[Cube]:
        """Disjoint cubes that cover the true rows."""


def truth_functions(variables: Sequence[str]) -> TruthFunctions:
    """Tables for up to 20 variables, decision diagrams for more.

    Raises:
        UserError: there are more, and the library of decision diagrams is not installed.
    """
    if len(variables) <= MOST_TABLE_VARIABLES:
        return TruthTables(variables)
    try:
        return DecisionDiagrams(variables)
    except ImportError as error:
        raise UserError(
            f"{len(variables)} variables have more than 2^{MOST_TABLE_VARIABLES} rows: install the library of decision diagrams "
            "with pip install 'tokenry[logic]'."
        ) from error


def evaluate(formula: Formula, functions: TruthFunctions) -> Function:
    """The truth function of a formula."""
    if formula.operator == "variable":
        return functions.variable(formula.name)
    if not formula.operands:
        return functions.true if formula.operator == "true" else functions.false
    operands = [evaluate(operand, functions) for operand in formula.operands]
    negation = functions.negation
    rules: dict[str, Callable[..., Function]] = {
        "not": negation,
        "and": lambda left, right: left & right,
        "or": lambda left, right: left | right,
        "xor": lambda left, right: left ^ right,
        "implies": lambda left, right: negation(left) | right,
        "iff": lambda left, right: negation(left ^ right),
    }
    return rules[formula.operator](*operands)


class TruthTables:
    """Truth tables as integers; bit r is row r."""

    def __init__(self, variables: Sequence[str]) -> None:
        self.variables = tuple(variables)
        self.rows = 1 << len(self.variables)
        self.true, self.false = (1 << self.rows) - 1, 0
        self._tables = {name: self._column(place) for place, name in enumerate(self.variables)}

    def _column(self, place: int) -> int:
        """A variable is true in every other block of rows; the blocks of the last variable have length 1."""
        block = self.rows >> (place + 1)
        column, filled = ((1 << block) - 1) << block, 2 * block
        while filled < self.rows:
            column |= column << filled
            filled *= 2
        return column

    def variable(self, name: str) -> int:
        """The table of a variable."""
        return self._tables[name]

    def negation(self, function: int) -> int:
        """The table with every row turned round."""
        return self.true ^ function

    def of_rows(self, rows: str) -> int:
        """The table of a string of 0 and 1, one character per row."""
        return int(rows[::-1], 2)

    def as_rows(self, function: int) -> str:
        """The string of 0 and 1 of a table, one character per row."""
        return f"{function:0{self.rows}b}"[::-1]

    def assignment(self, row: int) -> Cube:
        """What each variable is in a row."""
        return {name: bool(self._tables[name] >> row & 1) for name in self.variables}

    def cubes(self, function: int) -> list[Cube]:
        """Disjoint cubes: paths to true in the decision diagram in the order of the variables."""
        return self._cubes(function, 0)

    def _cubes(self, part: int, place: int) -> list[Cube]:
        rows = self.rows >> place
        if part == 0:
            return []
        if part == (1 << rows) - 1:
            return [{}]
        half = rows >> 1
        low, high = part & ((1 << half) - 1), part >> half
        if low == high:
            return self._cubes(low, place + 1)
        name = self.variables[place]
        return [
            {name: value, **cube}
            for value, branch in ((True, high), (False, low))
            for cube in self._cubes(branch, place + 1)
        ]


class DecisionDiagrams:
    """Reduced ordered binary decision diagrams of the library `dd`."""

    def __init__(self, variables: Sequence[str]) -> None:
        from dd.bdd import BDD

        self.variables = tuple(variables)
        self._diagrams = BDD({name: level for level, name in enumerate(self.variables)})
        self.true, self.false = (
            _Diagram(self._diagrams, node) for node in (self._diagrams.true, self._diagrams.false)
        )

    def variable(self, name: str) -> Function:
        """The diagram of a variable."""
        return _Diagram(self._diagrams, self._diagrams.var(name))

    def negation(self, function: Function) -> Function:
        """The diagram with its leaves exchanged."""
        return _Diagram(self._diagrams, self._diagrams.apply("not", function.node))

    def cubes(self, function: Function) -> list[Cube]:
        """Disjoint cubes: the paths to true."""
        return [dict(path) for path in self._diagrams.pick_iter(function.node, care_vars=set())]


@dataclass(frozen=True)
class _Diagram:
    """A node with operators; equal functions are one node."""

    diagrams: Any
    node: int

    def __and__(self, other: "_Diagram") -> "_Diagram":
        return _Diagram(self.diagrams, self.diagrams.apply("and", self.node, other.node))

    def __or__(self, other: "_Diagram") -> "_Diagram":
        return _Diagram(self.diagrams, self.diagrams.apply("or", self.node, other.node))

    def __xor__(self, other: "_Diagram") -> "_Diagram":
        return _Diagram(self.diagrams, self.diagrams.apply("xor", self.node, other.node))


def formula_of_cubes(cubes: Sequence[Mapping[str, bool]]) -> Formula:
    """The formula that is true in the rows of some cubes."""

    def product(cube: Mapping[str, bool]) -> Formula:
        literals = [variable(name) if value else ~variable(name) for name, value in cube.items()]
        return reduce(lambda left, right: left & right, literals) if literals else TRUE

    return reduce(lambda left, right: left | right, map(product, cubes)) if cubes else FALSE
