"""Propositional formulas, as users write them.

    L -> W                  not (W and L)            (L & Rw) -> (W & Rl)

From tightest to loosest: `not`, `and`, `xor`, `or`, `->`, `<->`; `->` groups to the right. Each operator has a word and signs
(`and`, `&`, `∧`). A formula is parsed by this file alone: text is never evaluated.
"""

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tokenry.core.errors import UserError

# Operators with two operands, from loosest to tightest, and how each is printed.
_BINARY = {"iff": "<->", "implies": "->", "or": "or", "xor": "xor", "and": "and"}
_RANK = {operator: rank for rank, operator in enumerate(_BINARY)}
_RANK_OF_NOT = len(_BINARY)
_SPELLINGS = {
    "iff": "<-> <=> ↔ iff",
    "implies": "-> => → implies",
    "or": "|| | ∨ or",
    "xor": "^ ⊕ ⊻ xor",
    "and": "&& & ∧ and",
    "not": "~ ! ¬ not",
    "(": "(",
    ")": ")",
}
_WORDS = {spelling: word for word, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_SIGNS = sorted((spelling for spelling in _WORDS if not spelling.isalpha()), key=len, reverse=True)
_TOKEN = re.compile(rf"\s*(?P<token>{'|'.join(map(re.escape, _SIGNS))}|\w+|\S)")
_CONSTANTS = ("true", "false")


@dataclass(frozen=True)
class Formula:
    """A formula: a variable, a constant, or an operator on formulas.

    Attributes:
        operator: `variable`, `true`, `false`, `not`, `and`, `or`, `xor`, `implies` or `iff`.
        operands: the formulas it is applied to.
        name: the name of a variable.
    """

    operator: str
    operands: tuple["Formula", ...] = ()
    name: str = ""

    def __and__(self, other: "Formula") -> "Formula":
        return Formula("and", (self, other))

    def __or__(self, other: "Formula") -> "Formula":
        return Formula("or", (self, other))

    def __xor__(self, other: "Formula") -> "Formula":
        return Formula("xor", (self, other))

    def __rshift__(self, other: "Formula") -> "Formula":
        return Formula("implies", (self, other))

    def __invert__(self) -> "Formula":
        return Formula("not", (self,))

    def __str__(self) -> str:
        if self.operator == "variable":
            return self.name
        if self.operator == "not":
            return f"not {self._inside(self.operands[0], _RANK_OF_NOT)}"
        if self.operator in _BINARY:
            left, right = self.operands
            rank = _RANK[self.operator]
            # `a -> b -> c` is `a -> (b -> c)`; the others are associative.
            on_the_left = rank + 1 if self.operator == "implies" else rank
            return f"{self._inside(left, on_the_left)} {_BINARY[self.operator]} {self._inside(right, rank)}"
        return self.operator

    @staticmethod
    def _inside(operand: "Formula", rank: int) -> str:
        looser = operand.operator in _BINARY and _RANK[operand.operator] < rank
        return f"({operand})" if looser else str(operand)

    def variables(self) -> list[str]:
        """The variables, in the order in which they are written."""
        return list(dict.fromkeys(self._names()))

    def _names(self) -> Iterator[str]:
        if self.operator == "variable":
            yield self.name
        for operand in self.operands:
            yield from operand._names()


TRUE, FALSE = Formula("true"), Formula("false")


def variable(name: str) -> Formula:
    """The formula that consists of one variable."""
    return Formula("variable", name=name)


def parse_formula(text: str | bool | Formula, known: Collection[str] | None = None) -> Formula:
    """Parse a formula.

    Args:
        text: the formula; a `Formula`, True and False are taken as they are.
        known: names of the variables that may appear; None allows any.

    Raises:
        UserError: a bracket without its other half, an operand or operator that is missing, or an unknown variable.
    """
    if isinstance(text, bool):
        return TRUE if text else FALSE
    formula = text if isinstance(text, Formula) else _Parser(text).parse()
    for name in formula.variables():
        if known is not None and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]}?" if near else f"the variables are {', '.join(known)}."
            raise UserError(f"the formula {str(text)!r} has the unknown variable {name!r}: {hint}")
    return formula


class _Parser:
    """Precedence climbing: an operator takes what binds tighter than itself on its left, and as tight on its right."""

    def __init__(self, text: str) -> None:
        self.text = text
        matches = list(_TOKEN.finditer(text))
        self.tokens = [_WORDS.get(match["token"].lower(), match["token"]) for match in matches]
        self.places = [match.start("token") + 1 for match in matches]
        self.index = 0

    def parse(self) -> Formula:
        if not self.tokens:
            raise UserError("the formula is empty: write one such as 'L -> W', or 'true'.")
        formula = self._formula(0)
        if self._next() == ")":
            raise self._error(f"the ) at character {self._place()} closes nothing")
        if self._next():
            raise self._error(f"an operator is missing before {self._next()!r} at character {self._place()}")
        return formula

    def _formula(self, rank: int) -> Formula:
        left = self._operand()
        while (operator := self._next()) in _BINARY and _RANK[operator] >= rank:
            self.index += 1
            right = self._formula(_RANK[operator] if operator == "implies" else _RANK[operator] + 1)
            left = Formula(operator, (left, right))
        return left

    def _operand(self) -> Formula:
        token, place = self._next(), self._place()
        self.index += 1
        if token == "not":
            return ~self._operand()
        if token == "(":
            inside = self._formula(0)
            if self._next() != ")":
                raise self._error(f"the ( at character {place} is not closed")
            self.index += 1
            return inside
        if not token or token in _BINARY or token == ")":
            where = f"before {token!r} at character {place}" if token else "at the end"
            raise self._error(f"a variable is missing {where}")
        if token.lower() in _CONSTANTS:
            return Formula(token.lower())
        if not token.isidentifier():
            raise self._error(f"{token!r} at character {place} is neither a variable nor an operator")
        return variable(token)

    def _next(self) -> str:
        return self.tokens[self.index] if self.index < len(self.tokens) else ""

    def _place(self) -> int:
        return self.places[self.index] if self.index < len(self.places) else len(self.text) + 1

    def _error(self, what: str) -> UserError:
        return UserError(f"the formula {self.text!r} cannot be read: {what}.")
