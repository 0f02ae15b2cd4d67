"""What a preference loss says: the loss as a pair of formulas, which losses entail which, and the lattice of all of them.

For one prompt with a chosen and a rejected response, `W` says that the model accepts the chosen one, `L` that it accepts the rejected
one; `Rw` and `Rl` say the same of the reference model. A structure has a core formula P, a condition P_C under which it is judged, and
an addition P_A that counts for both sides. Its two sides are

    P_f      = (P or P_A) and P_C
    P_not_f  = (not P or P_A) and P_C

and the loss is a link of ρ = log WMC(P_f) − log WMC(P_not_f): CPO, log p_w / p_l, is `L -> W`, given `W or L`, with `W and L` added.

A entails B if P_f(A) implies P_f(B) and P_not_f(B) implies P_not_f(A). Then ρ_A ≤ ρ_B for every model, and every decreasing link gives
A the higher loss. Row by row, a structure has one of four marks: only in P_f (v), only in P_not_f (x), in both (b), in neither (-);
entailment raises marks along x < -, x < b, - < v, b < v.

Source: Understanding the Logic of Direct Preference Alignment through Logic (arXiv 2412.17696); names in `NAMED_LOSSES` that the paper
could not be checked for are marked as ours on the method's page.
"""

import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tokenry.alignment.formulas import FALSE, TRUE, Formula, parse_formula, variable
from tokenry.alignment.truth_functions import (
    Cube,
    Function,
    TruthFunctions,
    TruthTables,
    evaluate,
    formula_of_cubes,
    truth_functions,
)
from tokenry.core.errors import UserError

Relation = Literal["equivalent", "entails", "entailed", "incomparable"]
Mark = Literal["x", "-", "b", "v"]

MODEL, REFERENCE = ("W", "L"), ("Rw", "Rl")
MEANINGS = {
    "W": "the model accepts the chosen response",
    "L": "the model accepts the rejected response",
    "Rw": "the reference accepts the chosen response",
    "Rl": "the reference accepts the rejected response",
}
MOST_STRUCTURES = 1 << 16

_RAISED = {"x": "-b", "-": "v", "b": "v", "v": ""}
_PARTS = re.compile(r"\|?\s*\b(given|also)\b")


@dataclass(frozen=True)
class Structure:
    """A preference structure.

    Attributes:
        variables: the propositions, in the order of rows.
        P: the core formula.
        P_C: the condition; rows outside it count for no side.
        P_A: the addition; rows in it count for both sides.
    """

    variables: tuple[str, ...]
    P: Formula
    P_C: Formula
    P_A: Formula

    def __init__(
        self,
        variables: Sequence[str],
        P: str | bool | Formula,  # noqa: N803 (the letters of the paper)
        P_C: str | bool | Formula = True,  # noqa: N803
        P_A: str | bool | Formula = False,  # noqa: N803
    ) -> None:
        names = tuple(variables)
        if len(set(names)) != len(names) or not names:
            raise UserError(
                f"the variables of a structure must be distinct, and at least one, got {', '.join(names) or 'none'}."
            )
        object.__setattr__(self, "variables", names)
        for field, given in (("P", P), ("P_C", P_C), ("P_A", P_A)):
            object.__setattr__(self, field, parse_formula(given, names))

    @classmethod
    def parse(cls, text: str, variables: Sequence[str] | None = None) -> "Structure":
        """Read `P`, `P | given P_C` or `P | given P_C | also P_A`, such as `L -> W | given W or L | also W and L`.

        Without `variables` they are W, L, Rw and Rl, in this order, as far as they appear.
        """
        core, *rest = _PARTS.split(text)
        parts = dict(zip(rest[::2], rest[1::2], strict=True))
        if len(parts) < len(rest) // 2:
            raise UserError(
                f"{text!r} says 'given' or 'also' twice: join what belongs together by 'and' or 'or'."
            )
        formulas = [parse_formula(part, variables or tuple(MEANINGS)) for part in (core, *parts.values())]
        if variables is None:
            written = {name for formula in formulas for name in formula.variables()}
            variables = [name for name in MEANINGS if name in written or name in MODEL]
        return cls(variables, core, parts.get("given", True), parts.get("also", False))

    @classmethod
    def from_sides(
        cls, winning: str | Formula, losing: str | Formula, variables: Sequence[str] | None = None
    ) -> "Structure":
        """The structure with two given sides: P is `losing -> winning`, judged where either holds, both added."""
        first, second = parse_formula(winning, variables), parse_formula(losing, variables)
        names = variables or list(dict.fromkeys([*first.variables(), *second.variables()]))
        return cls(names, second >> first, first | second, first & second)

    @classmethod
    def from_tables(cls, variables: Sequence[str], winning: int, losing: int) -> "Structure":
        """The structure of two truth tables, with formulas as short as they get over up to six variables."""
        functions = TruthTables(variables)
        core = functions.negation(losing) | winning
        # Outside the condition, and where both sides hold, P may be anything.
        free = functions.negation(winning | losing) | (winning & losing)
        return cls(
            variables,
            short_formula(core, functions, free),
            short_formula(winning | losing, functions),
            short_formula(winning & losing, functions),
        )

    @cached_property
    def functions(self) -> TruthFunctions:
        """What the truth functions of this structure are held in."""
        return truth_functions(self.variables)

    @cached_property
    def side_functions(self) -> tuple[Function, Function]:
        """The truth functions of P_f and P_not_f."""
        core, condition, addition = (
            evaluate(formula, self.functions) for formula in (self.P, self.P_C, self.P_A)
        )
        return (core | addition) & condition, (self.functions.negation(core) | addition) & condition

    def sides(self) -> tuple[Formula, Formula]:
        """The formulas P_f and P_not_f."""
        return (self.P | self.P_A) & self.P_C, (~self.P | self.P_A) & self.P_C

    def truth_tables(self) -> tuple[str, str]:
        """P_f and P_not_f as strings of 0 and 1, one character per row.

        Raises:
            UserError: there are too many variables for tables.
        """
        if not isinstance(self.functions, TruthTables):
            raise UserError(f"{len(self.variables)} variables have too many rows to be written out.")
        winning, losing = self.side_functions
        return self.functions.as_rows(winning), self.functions.as_rows(losing)

    def marks(self) -> str:
        """One mark per row: v only in P_f, x only in P_not_f, b in both, - in neither."""
        return "".join(
            {"10": "v", "01": "x", "11": "b", "00": "-"}["".join(row)]
            for row in zip(*self.truth_tables(), strict=True)
        )

    def __str__(self) -> str:
        condition = "" if self.P_C == TRUE else f" | given {self.P_C}"
        return f"{self.P}{condition}{'' if self.P_A == FALSE else f' | also {self.P_A}'}"


def decompile(top: str, bottom: str, prob_of: Mapping[str, str]) -> Structure:
    """The structure of a loss equation ρ = log top / bottom.

    Args:
        top: polynomial in the symbols of the probabilities, such as `pw*(1 - pl)`.
        bottom: the polynomial it is divided by.
        prob_of: the variable that each symbol is the probability of, such as `{"pw": "W", "pl": "L"}`.

    Raises:
        UserError: a polynomial that is not the probability of any formula; the monomial or vertex where it fails is named.
    """
    from tokenry.alignment.polynomials import tables_of_ratio

    return Structure.from_tables(list(prob_of.values()), *tables_of_ratio(top, bottom, prob_of))


def short_formula(table: int, functions: TruthTables, free: int = 0) -> Formula:
    """A short formula with a truth table; rows in `free` may be either.

    Minimal sums of products or products of sums (Quine and McCluskey) for up to six variables, else the cubes as they are.
    """
    if table | free == functions.true:
        return TRUE
    if table & ~free == 0:
        return FALSE
    if len(functions.variables) > 6:
        return formula_of_cubes(functions.cubes(table))
    from sympy import symbols
    from sympy.logic import POSform, SOPform

    symbol_of = symbols([f"v{place}" for place in range(len(functions.variables))])
    places = range(functions.rows)
    true_rows = [_bits(row, functions) for row in places if table >> row & 1 and not free >> row & 1]
    free_rows = [_bits(row, functions) for row in places if free >> row & 1]
    candidates = [form(symbol_of, true_rows, free_rows) for form in (SOPform, POSform)]
    shortest = min(candidates, key=lambda expression: (len(str(expression)), str(expression)))
    return _as_implication(
        _formula_of(shortest, dict(zip(map(str, symbol_of), functions.variables, strict=True)))
    )


def _bits(row: int, functions: TruthTables) -> list[int]:
    return [int(value) for value in functions.assignment(row).values()]


def _formula_of(expression: object, names: Mapping[str, str]) -> Formula:
    """Carry a sum of products or a product of sums over from sympy."""
    from sympy.logic.boolalg import And, Not, Or

    arguments = sorted(
        getattr(expression, "args", ()), key=lambda argument: (str(argument).lstrip("~"), str(argument))
    )
    if isinstance(expression, Not):
        return ~_formula_of(arguments[0], names)
    if isinstance(expression, And | Or):
        first, *others = (_formula_of(argument, names) for argument in arguments)
        for other in others:
            first = first & other if isinstance(expression, And) else first | other
        return first
    return variable(names[str(expression)])


def _as_implication(formula: Formula) -> Formula:
    """Read `not A or B` as `A -> B`."""
    if formula.operator == "or":
        left, right = formula.operands
        for premise, conclusion in ((left, right), (right, left)):
            if premise.operator == "not" and conclusion.operator != "not":
                return premise.operands[0] >> conclusion
    return formula


def relation(first: Structure, second: Structure) -> Relation:
    """Whether `first` entails `second`, is entailed by it, both or neither."""
    there, back = witness(first, second) is None, witness(second, first) is None
    if there and back:
        return "equivalent"
    return "entails" if there else "entailed" if back else "incomparable"


def witness(first: Structure, second: Structure) -> Cube | None:
    """An assignment in which `first` does not entail `second`, or None if it does."""
    if set(first.variables) != set(second.variables):
        raise UserError(
            f"structures over {', '.join(first.variables)} and over {', '.join(second.variables)} cannot be compared: give both "
            "the same variables."
        )
    functions = first.functions
    winning, losing = first.side_functions
    other_winning, other_losing = (evaluate(side, functions) for side in second.sides())
    broken = (winning & functions.negation(other_winning)) | (other_losing & functions.negation(losing))
    cubes = functions.cubes(broken)
    return {name: cubes[0].get(name, False) for name in functions.variables} if cubes else None


def add_reference(structure: Structure) -> Structure:
    """The structure with the reference's log-ratio taken off: ρ' = ρ − (log ref_w − log ref_l)."""
    if set(structure.variables) & set(REFERENCE):
        raise UserError(f"the structure {structure} has a reference already.")
    winning, losing = structure.sides()
    return Structure.from_sides(
        winning & variable("Rl"), losing & variable("Rw"), (*structure.variables, *REFERENCE)
    )


@dataclass(frozen=True)
class Lattice:
    """Structures over the same variables, ordered by entailment.

    Attributes:
        variables: the propositions, in the order of rows.
        marks: for each structure, one mark per row; the weakest marks first.
        covers: for each structure, the indices of those directly above it.
    """

    variables: tuple[str, ...]
    marks: tuple[str, ...]
    covers: tuple[tuple[int, ...], ...]

    @cached_property
    def structures(self) -> tuple[Structure, ...]:
        """The structures, with formulas as short as they get."""
        return tuple(structure_of_marks(marks, self.variables) for marks in self.marks)

    def entailments(self) -> Iterator[tuple[int, int]]:
        """All ordered pairs in which the first entails the second, each with itself included."""
        above: dict[int, set[int]] = {}
        # A cover has higher marks, and higher marks come later but for `-` and `b`, of which neither covers the other.
        for index in reversed(range(len(self.marks))):
            above[index] = {index}.union(*(above[cover] for cover in self.covers[index]))
        for index in range(len(self.marks)):
            yield from ((index, higher) for higher in sorted(above[index]))


def lattice(variables: Sequence[str] = MODEL, fixed_rows: Mapping[str, Mark] | None = None) -> Lattice:
    """All structures over some variables: one of four marks per row, 4^(2^n) in all.

    Args:
        fixed_rows: marks of rows that are not to vary, such as `{"10": "v", "01": "x"}`: with these two over (W, L) 16 losses remain.

    Raises:
        UserError: there are more than 65,536 structures, or a row or a mark that does not exist.
    """
    functions = TruthTables(variables)
    fixed = dict(fixed_rows or {})
    names = ["".join(map(str, _bits(row, functions))) for row in range(functions.rows)]
    for row, mark in fixed.items():
        if row not in names or mark not in _RAISED:
            raise UserError(
                f"there is no row {row!r} with the mark {mark!r}: rows are {names[0]} … {names[-1]}, marks x, -, b and v."
            )
    number = 4 ** (len(names) - len(fixed))
    if number > MOST_STRUCTURES:
        raise UserError(
            f"{', '.join(variables)} have {number} structures, more than {MOST_STRUCTURES}: fix the marks of further rows."
        )
    every = ["".join(marks) for marks in itertools.product(*(fixed.get(row, "x-bv") for row in names))]
    place = {marks: index for index, marks in enumerate(every)}
    covers = tuple(
        tuple(
            place[raised]
            for row, mark in enumerate(marks)
            for above in _RAISED[mark]
            if (raised := marks[:row] + above + marks[row + 1 :]) in place
        )
        for marks in every
    )
    return Lattice(tuple(variables), tuple(every), covers)


def structure_of_marks(marks: str, variables: Sequence[str] = MODEL) -> Structure:
    """The structure with one mark per row."""
    functions = TruthTables(variables)
    winning, losing = ("".join("1" if mark in kept else "0" for mark in marks) for kept in ("vb", "xb"))
    return Structure.from_tables(variables, functions.of_rows(winning), functions.of_rows(losing))


NAMED_LOSSES: dict[str, str] = {
    "CE": "W",
    "UNL": "not L",
    "CEUNL": "W and not L",
    "CPO": "L -> W | given W or L | also W and L",
    "ORPO": "L -> W | given W xor L",
    "cCPO": "L -> W | given W or L",
    "unCPO": "L -> W",
    "cfUNL": "L -> W | given not (W and L)",
    "qfUNL": "L -> W | given not (W and L) | also not W and not L",
    "DPO": "L and Rw -> W and Rl | given L and Rw or W and Rl | also W and L and Rw and Rl",
}


def name_of(structure: Structure) -> str | None:
    """The name of the published loss that has the same sides, if there is one."""
    for name, text in NAMED_LOSSES.items():
        named = Structure.parse(text)
        if set(named.variables) == set(structure.variables) and relation(named, structure) == "equivalent":
            return name
    return None


def warn_of_equal_sides(structure: Structure) -> None:
    """Say so where a loss is the same for every pair."""
    winning, losing = structure.side_functions
    if winning == losing:
        warnings.warn(f"both sides of {structure} are equal: ρ is 0 and nothing is learned.", stacklevel=3)


def describe(structure: Structure) -> str:
    """What a loss asks for, in words."""
    warn_of_equal_sides(structure)
    known = {name: MEANINGS.get(name, f"{name} holds") for name in structure.variables}
    core = _in_words(structure.P, known)
    condition = "" if structure.P_C == TRUE else f", judged only where {_in_words(structure.P_C, known)}"
    addition = (
        ""
        if structure.P_A == FALSE
        else f"; where {_in_words(structure.P_A, known)}, it counts for both sides"
    )
    return f"{core[0].upper()}{core[1:]}{condition}{addition}."


def _in_words(formula: Formula, known: Mapping[str, str]) -> str:
    if formula.operator == "variable":
        return known[formula.name]
    if formula.operator == "not":
        return f"it is not so that {_in_words(formula.operands[0], known)}"
    if not formula.operands:
        return "anything holds" if formula == TRUE else "nothing holds"
    left, right = (_in_words(operand, known) for operand in formula.operands)
    return {
        "and": f"{left} and {right}",
        "or": f"{left} or {right}",
        "xor": f"either {left} or {right}, not both",
        "implies": f"if {left}, then {right}",
        "iff": f"{left} exactly if {right}",
    }[formula.operator]
