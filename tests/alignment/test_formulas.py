import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.alignment.formulas import Formula, parse_formula, variable
from tokenry.alignment.truth_functions import DecisionDiagrams, TruthTables, evaluate, truth_functions
from tokenry.core.errors import UserError

NAMES = ("W", "L", "Rw", "Rl")
TABLES = TruthTables(NAMES)
FEW = settings(deadline=None, max_examples=40)
FORMULAS = st.recursive(
    st.sampled_from([*map(variable, NAMES), Formula("true"), Formula("false")]),
    lambda inner: (
        st.builds(lambda operand: ~operand, inner)
        | st.builds(
            lambda operator, left, right: Formula(operator, (left, right)),
            st.sampled_from(["and", "or", "xor", "implies", "iff"]),
            inner,
            inner,
        )
    ),
    max_leaves=12,
)


@FEW
@given(FORMULAS)
def test_what_is_printed_is_read_as_the_same_function(formula):
    assert evaluate(parse_formula(str(formula)), TABLES) == evaluate(formula, TABLES)


@FEW
@given(FORMULAS)
def test_cubes_are_disjoint_and_cover_the_function(formula):
    function = evaluate(formula, TABLES)
    covered = 0
    for cube in TABLES.cubes(function):
        rows = TABLES.true
        for name, value in cube.items():
            rows &= TABLES.variable(name) if value else TABLES.negation(TABLES.variable(name))
        assert covered & rows == 0
        covered |= rows
    assert covered == function


@FEW
@given(FORMULAS)
def test_diagrams_have_the_cubes_of_tables(formula):
    pytest.importorskip("dd", reason="decision diagrams are an extra")
    diagrams = DecisionDiagrams(NAMES)
    rows = 0
    for cube in diagrams.cubes(evaluate(formula, diagrams)):
        part = TABLES.true
        for name, value in cube.items():
            part &= TABLES.variable(name) if value else TABLES.negation(TABLES.variable(name))
        assert rows & part == 0
        rows |= part
    assert rows == evaluate(formula, TABLES)


@pytest.mark.parametrize(
    ("text", "as_printed"),
    [
        ("L->W", "L -> W"),
        ("a -> b -> c", "a -> b -> c"),
        ("(a -> b) -> c", "(a -> b) -> c"),
        ("~(W & L) | Rw", "not (W and L) or Rw"),
        ("not W and L", "not W and L"),
        ("W ∧ ¬L ⊕ Rw", "W and not L xor Rw"),
        ("(W or L) and Rw", "(W or L) and Rw"),
        ("TRUE <-> w", "true <-> w"),
    ],
)
def test_spellings(text, as_printed):
    assert str(parse_formula(text)) == as_printed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the formula is empty"),
        ("(W and L", r"the \( at character 1 is not closed"),
        ("W) and L", r"the \) at character 2 closes nothing"),
        ("W and", "a variable is missing at the end"),
        ("W or -> L", "a variable is missing before 'implies' at character 6"),
        ("W L", "an operator is missing before 'L' at character 3"),
        ("W + L", r"an operator is missing before '\+'"),
        ("3x", "'3x' at character 1 is neither a variable nor an operator"),
        ("__import__('os')", "an operator is missing"),
    ],
)
def test_a_formula_that_cannot_be_read_says_where(text, words):
    with pytest.raises(UserError, match=words):
        parse_formula(text)


def test_an_unknown_variable_names_the_nearest():
    with pytest.raises(UserError, match="unknown variable 'Rx': did you mean Rw"):
        parse_formula("Rx -> W", NAMES)


def test_many_variables_are_held_in_diagrams():
    pytest.importorskip("dd", reason="decision diagrams are an extra")
    names = [f"v{number}" for number in range(40)]
    functions = truth_functions(names)
    some = parse_formula(" or ".join(names))
    assert len(functions.cubes(evaluate(some, functions))) == 40
