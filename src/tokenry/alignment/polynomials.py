"""From a loss equation to formulas: a polynomial in probabilities is the weighted model count of a formula, or it is refused.

With independent variables of probability p_v, the weighted model count of a formula is the probability that it holds:

    WMC(F) = Σ over the true rows of F   Π_v  p_v where v is true, 1 − p_v where it is false

A polynomial is the count of a formula if and only if it is multilinear and is 0 or 1 wherever every probability is 0 or 1; those values
*are* the truth table. `p_w + p_l` is 2 at (1, 1), so it counts no formula; `p_w + p_l − p_w p_l` counts `W or L`.

A loss is the ratio of two such polynomials. A factor that both share changes the formulas and not the loss, so it is divided out.

Source: Understanding the Logic of Direct Preference Alignment through Logic (arXiv 2412.17696); the criterion by vertices is ours.
"""

import ast
import warnings
from collections.abc import Mapping, Sequence
from fractions import Fraction

import sympy

from tokenry.alignment.truth_functions import MOST_TABLE_VARIABLES, TruthTables
from tokenry.core.errors import UserError


def tables_of_ratio(top: str, bottom: str, prob_of: Mapping[str, str]) -> tuple[int, int]:
    """The truth tables of the two formulas whose counts form a ratio, in lowest terms.

    A shared factor is divided out with a warning.

    Args:
        top: polynomial in the symbols of the probabilities, such as `pw*(1 - pl)`.
        bottom: the polynomial it is divided by.
        prob_of: the variable that each symbol is the probability of, such as `{"pw": "W", "pl": "L"}`; its order is that of the rows.

    Raises:
        UserError: text that is no polynomial, an unknown symbol, or a polynomial that counts no formula; the monomial or the vertex
            where it fails is named.
    """
    symbols = tuple(prob_of)
    if len(symbols) > MOST_TABLE_VARIABLES:
        raise UserError(
            f"a loss equation may have at most {MOST_TABLE_VARIABLES} probabilities, got {len(symbols)}."
        )
    polynomials = [_polynomial(text, symbols) for text in (top, bottom)]
    for text, polynomial in zip((top, bottom), polynomials, strict=True):
        _truth_table(polynomial, text)
    factor = polynomials[0].gcd(polynomials[1])
    if not factor.is_ground:
        polynomials = [polynomial.quo(factor) for polynomial in polynomials]
        # The factor of two counts is a count itself, up to a constant.
        scale = next(value for value in _values(factor) if value)
        polynomials = [polynomial * scale for polynomial in polynomials]
        reduced = " and ".join(str(polynomial.as_expr()) for polynomial in polynomials)
        warnings.warn(
            f"both sides of the ratio have the factor {(factor / scale).as_expr()}: the formulas are those of {reduced}.",
            stacklevel=2,
        )
    tables = [_truth_table(polynomial, str(polynomial.as_expr())) for polynomial in polynomials]
    return tables[0], tables[1]


def _polynomial(text: str, symbols: Sequence[str]) -> sympy.Poly:
    """Build a polynomial from text that is parsed and never evaluated."""
    generators = sympy.symbols(symbols)
    known = {
        symbol: sympy.Poly(generator, *generators, domain="QQ")
        for symbol, generator in zip(symbols, generators, strict=True)
    }

    def build(node: ast.expr) -> sympy.Poly:
        match node:
            case ast.Name(id=name) if name in known:
                return known[name]
            case ast.Name(id=name):
                raise UserError(
                    f"the polynomial {text!r} has the unknown symbol {name!r}: the probabilities are {', '.join(symbols)}."
                )
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return _constant(Fraction(str(number)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return build(operand)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return build(left) + build(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return build(left) - build(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return build(left) * build(right)
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int() as power)) if (
                0 <= power <= 8
            ):
                return build(left) ** power
        raise UserError(
            f"{ast.unparse(node)!r} in {text!r} is no part of a polynomial: write sums and products, such as pw*(1 - pl)."
        )

    def _constant(number: Fraction) -> sympy.Poly:
        return sympy.Poly(sympy.Rational(number.numerator, number.denominator), *generators, domain="QQ")

    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UserError(f"{text!r} cannot be read as a polynomial: write one such as pw*(1 - pl).") from error
    return build(tree.body)


def _truth_table(polynomial: sympy.Poly, text: str) -> int:
    """The truth table of the formula that a polynomial counts."""
    for powers in polynomial.monoms():
        if max(powers, default=0) > 1:
            monomial = "*".join(
                f"{symbol}**{power}" if power > 1 else str(symbol)
                for symbol, power in zip(polynomial.gens, powers, strict=True)
                if power
            )
            raise UserError(
                f"{text} counts no formula: it is not multilinear, since it has the monomial {monomial}; give a repeated "
                "probability a variable of its own."
            )
    table = 0
    for row, value in enumerate(_values(polynomial)):
        if value not in (0, 1):
            corner = tuple(row >> place & 1 for place in reversed(range(len(polynomial.gens))))
            raise UserError(
                f"{text} counts no formula: it is {value} where ({', '.join(map(str, polynomial.gens))}) is "
                f"({', '.join(map(str, corner))}), and only 0 and 1 are truth values."
            )
        table |= int(value) << row
    return table


def _values(polynomial: sympy.Poly) -> list[sympy.Rational]:
    """The values where every probability is 0 or 1, in the order of rows.

    A monomial counts in every row that has all of its variables, so the values are sums over subsets of the coefficients.
    """
    places = len(polynomial.gens)
    values = [sympy.Integer(0)] * (1 << places)
    for powers, coefficient in polynomial.terms():
        values[sum(bool(power) << (places - 1 - place) for place, power in enumerate(powers))] += coefficient
    for place in range(places):
        for row in range(1 << places):
            if row >> place & 1:
                values[row] += values[row ^ (1 << place)]
    return values


def polynomial_of(table: int, functions: TruthTables, prob_of: Mapping[str, str]) -> sympy.Expr:
    """The weighted model count of a truth table, as a polynomial in the symbols of the probabilities."""
    symbol_of = {variable: sympy.Symbol(symbol) for symbol, variable in prob_of.items()}
    products = []
    for cube in functions.cubes(table):
        factors = [symbol_of[name] if value else 1 - symbol_of[name] for name, value in cube.items()]
        products.append(sympy.Mul(*factors))
    return sympy.Add(*products)
