import json
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.alignment import (
    NAMED_LOSSES,
    Structure,
    add_reference,
    decompile,
    describe,
    lattice,
    name_of,
    relation,
    witness,
)
from tokenry.alignment.polynomials import polynomial_of
from tokenry.alignment.preference_logic import structure_of_marks
from tokenry.alignment.truth_functions import TruthTables, evaluate
from tokenry.core.errors import UserError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/08-dpa-logic/dev-dpa.json").read_text())
PROBABILITIES = {"pw": "W", "pl": "L", "qw": "Rw", "ql": "Rl"}
CORE_ROWS = {"10": "v", "01": "x"}
FEW = settings(deadline=None, max_examples=30)
MARKS = st.text("x-bv", min_size=4, max_size=4)


def golden_structure(case):
    functions = TruthTables(case["variables"])
    formulas = (functions.of_rows(case[part]) for part in ("P_f", "P_not_f"))
    return Structure.from_tables(case["variables"], *formulas)


@pytest.mark.parametrize("case", GOLDEN["named"], ids=lambda case: case["name"])
def test_a_loss_is_decompiled_into_its_sides(case):
    symbols = {symbol: variable for variable, symbol in case["prob_of"].items()}
    structure = decompile(
        case["top"],
        case["bottom"],
        {symbols_of: symbols[symbols_of] for symbols_of in case["prob_of"].values()},
    )
    assert structure.variables == tuple(case["variables"])
    assert structure.truth_tables() == (case["P_f"], case["P_not_f"])
    assert name_of(structure) == case["name"]


@pytest.mark.parametrize("case", [*GOLDEN["named"], *GOLDEN["random"]], ids=str)
def test_the_three_formulas_give_the_sides(case):
    functions = TruthTables(case["variables"])
    parts = [functions.of_rows(case[part]) for part in ("P", "P_C", "P_A")]
    core, condition, addition = parts
    sides = (core | addition) & condition, (functions.negation(core) | addition) & condition
    assert tuple(map(functions.as_rows, sides)) == (case["P_f"], case["P_not_f"])
    assert golden_structure(case).truth_tables() == (case["P_f"], case["P_not_f"])


@pytest.mark.parametrize("first", GOLDEN["entailment"])
def test_entailment(first):
    for second, expected in GOLDEN["entailment"][first].items():
        found = witness(Structure.parse(NAMED_LOSSES[first]), Structure.parse(NAMED_LOSSES[second])) is None
        assert found == expected, second


@pytest.mark.parametrize("case", GOLDEN["reject"], ids=lambda case: f"{case['top']} : {case['bottom']}")
def test_a_polynomial_that_counts_no_formula_is_refused(case):
    prob_of = {symbol: name for symbol, name in PROBABILITIES.items() if name in case["variables"]}
    if case["top_rows"] is None or case["bottom_rows"] is None:
        with pytest.raises(UserError, match="counts no formula"):
            decompile(case["top"], case["bottom"], prob_of)
    else:
        assert decompile(case["top"], case["bottom"], prob_of).truth_tables() == (
            case["top_rows"],
            case["bottom_rows"],
        )


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ("pw*pw", r"not multilinear, since it has the monomial pw\*\*2"),
        ("pw + pl", r"it is 2 where \(pw, pl\) is \(1, 1\)"),
        ("pw - pl", r"it is -1 where \(pw, pl\) is \(0, 1\)"),
        ("pq", "unknown symbol 'pq': the probabilities are pw, pl"),
        ("exp(pw)", r"'exp\(pw\)' in 'exp\(pw\)' is no part of a polynomial"),
        ("pw/pl", "is no part of a polynomial"),
        ("pw *", "cannot be read as a polynomial"),
        ("__import__('os').system('true')", "is no part of a polynomial"),
    ],
)
def test_what_is_wrong_with_a_polynomial_is_named(top, words):
    with pytest.raises(UserError, match=words):
        decompile(top, "pl", {"pw": "W", "pl": "L"})


def test_a_shared_factor_is_divided_out_with_a_warning():
    with pytest.warns(UserWarning, match="both sides of the ratio have the factor"):
        reduced = decompile(
            "pw*(1 - pl)", "pl*(1 - pl)".replace("pl*", "qw*"), {"pw": "W", "pl": "L", "qw": "Rw"}
        )
    assert relation(reduced, Structure(("W", "L", "Rw"), "Rw -> W", "W or Rw", "W and Rw")) == "equivalent"


@FEW
@given(MARKS)
def test_compiling_and_decompiling_gives_the_structure_back(marks):
    structure = structure_of_marks(marks)
    functions = structure.functions
    prob_of = {"pw": "W", "pl": "L"}
    top, bottom = (str(polynomial_of(side, functions, prob_of)) for side in structure.side_functions)
    if "0" in (top, bottom):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            back = decompile(top, bottom, prob_of)
        except UserWarning:  # a factor that both share
            return
    assert back.marks() == marks


@FEW
@given(MARKS, MARKS)
def test_entailment_is_the_order_of_marks(first, second):
    diamond = {"x": "x-bv", "-": "-v", "b": "bv", "v": "v"}
    expected = all(above in diamond[below] for below, above in zip(first, second, strict=True))
    lower, higher = structure_of_marks(first), structure_of_marks(second)
    assert (witness(lower, higher) is None) == expected
    assert (relation(lower, higher) == "equivalent") == (first == second)


@FEW
@given(MARKS)
def test_a_short_formula_has_its_table(marks):
    structure = structure_of_marks(marks)
    winning, losing = structure.sides()
    assert evaluate(winning, structure.functions) == structure.side_functions[0]
    assert evaluate(losing, structure.functions) == structure.side_functions[1]
    assert structure.marks() == marks


def test_a_witness_breaks_the_entailment():
    first, second = Structure.parse(NAMED_LOSSES["CPO"]), Structure.parse(NAMED_LOSSES["ORPO"])
    assert relation(first, second) == "incomparable"
    assert witness(first, second) == {"W": True, "L": True}


def test_the_lattice_has_the_published_size():
    expected = GOLDEN["lattice"]
    assert len(lattice(["W"]).marks) == expected["n_structures_n1"]
    whole = lattice()
    assert len(whole.marks) == expected["n_structures_n2"]
    assert len(list(whole.entailments())) == expected["n_entailed_ordered_pairs_n2"]
    core = lattice(fixed_rows=CORE_ROWS)
    assert len(core.marks) == expected["n_core_n2"]
    assert len(list(core.entailments())) == expected["n_entailed_ordered_pairs_core"]


def test_the_core_lattice_has_the_golden_covers():
    core = lattice(fixed_rows=CORE_ROWS)
    place = {structure.truth_tables(): index for index, structure in enumerate(core.structures)}
    for case in GOLDEN["lattice"]["core"]:
        index = place[case["P_f"], case["P_not_f"]]
        above = {
            (GOLDEN["lattice"]["core"][cover]["P_f"], GOLDEN["lattice"]["core"][cover]["P_not_f"])
            for cover in case["covers"]
        }
        assert {core.structures[cover].truth_tables() for cover in core.covers[index]} == above


def test_dpo_is_cpo_with_a_reference():
    assert name_of(add_reference(Structure.parse(NAMED_LOSSES["CPO"]))) == "DPO"


def test_a_structure_is_described_in_words():
    assert describe(Structure.parse("L -> W | given W or L")) == (
        "If the model accepts the rejected response, then the model accepts the chosen response, judged only where the model accepts "
        "the chosen response or the model accepts the rejected response."
    )
    with pytest.warns(UserWarning, match="nothing is learned"):
        describe(Structure(("W", "L"), "W", "W or L", True))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Structure(("W", "W"), "W"), "must be distinct"),
        (lambda: Structure(("W", "L"), "X"), "unknown variable 'X'"),
        (lambda: Structure.parse("W | given L | given W"), "says 'given' or 'also' twice"),
        (lambda: relation(Structure(("W",), "W"), Structure(("L",), "L")), "cannot be compared"),
        (lambda: add_reference(Structure.parse(NAMED_LOSSES["DPO"])), "has a reference already"),
        (lambda: lattice(["a", "b", "c", "d"]), "more than 65536: fix the marks"),
        (lambda: lattice(fixed_rows={"2": "v"}), "there is no row '2'"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(UserError, match=words):
        make()
