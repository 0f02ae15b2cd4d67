"""Units of code and the groups of its tokens: as the reference says, in any language, on anything that a file may hold."""

import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tiny.tokenizers import CODE, byte_level
from tokenry.compression.text.code_units import backend_for, group_tokens, semantic_units
from tokenry.core.errors import UserError

CASES = {case["name"]: case for case in golden_json("27-code-merge", "dev-groups.json")}
POLICIES = ("identifier", "identifier+literal", "leaf")
TOKENIZER = byte_level(CODE, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def texts_of(units, source):
    return [source[unit.start : unit.end] for unit in units]


def identifiers(source, language="python", **options):
    return texts_of(semantic_units(source, language, **options), source)


# --- the reference -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", CASES)
def test_units_and_groups_are_those_of_the_reference(name, policy):
    case, expected = CASES[name], CASES[name]["policies"][policy]
    units = semantic_units(case["source"], case["language"], policy, "tree-sitter")
    assert [[*unit[:2], text] for unit, text in zip(units, texts_of(units, case["source"]), strict=True)] == (
        expected["units"]
    )
    groups = group_tokens(case["offsets"], case["special"], units, case["source"])
    assert groups.tolist() == expected["group_ids"]
    assert len(set(groups.tolist())) == expected["n_groups"]


@pytest.mark.parametrize("policy", POLICIES[:2])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["language"] != "c"])
def test_the_lexer_finds_the_same_without_a_grammar(name, policy):
    case = CASES[name]
    lexed, parsed = (
        semantic_units(case["source"], case["language"], policy, backend)
        for backend in ("lexer", "tree-sitter")
    )
    assert [unit[:2] for unit in lexed] == [unit[:2] for unit in parsed]


# --- what code may hold --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["tree-sitter", "lexer"])
def test_words_of_the_language_strings_and_comments_are_no_identifiers(backend):
    source = 'from __future__ import annotations\nif x: return r"x\\" y" # x\n"""x\ny"""\nmatch z:\n    case _: type = 1\n'
    assert identifiers(source, backend=backend) == ["annotations", "x", "z", "type"]


@pytest.mark.parametrize("backend", ["tree-sitter", "lexer"])
def test_words_of_java_that_are_names_elsewhere(backend):
    source = "record Point(int x) {} sealed interface A permits B {} class C { int record = yield; String $s = 'c'; }"
    found = ["Point", "x", "A", "B", "C", "record", "yield", "String", "$s"]
    assert identifiers(source, "java", backend=backend) == found


def test_names_inside_an_interpolation_are_found_by_the_parser_alone():
    source = 'f"{user_id!r} user_id"'
    assert identifiers(source) == ["user_id"]
    assert identifiers(source, backend="lexer") == []


def test_a_string_is_one_literal_with_all_that_is_in_it():
    source = 'name = f"{user_id} of" + 0x1F'
    for backend in ("tree-sitter", "lexer"):
        found = identifiers(source, policy="identifier+literal", backend=backend)
        assert found == ["name", 'f"{user_id} of"', "0x1F"]


@pytest.mark.parametrize("backend", ["tree-sitter", "lexer"])
def test_spans_are_counted_in_characters_whatever_comes_before(backend):
    source = 'größe = "東京 😀"; naïve_größe = größe'
    assert identifiers(source, backend=backend) == ["größe", "naïve_größe", "größe"]


@pytest.mark.parametrize(
    "source", ["def f(user_id, (((", "class \x00 A:\n\t\tx ==", "'''user_id", "\ud800 = user_id"]
)
@pytest.mark.parametrize("policy", POLICIES)
def test_wrong_code_still_has_units_in_order(source, policy):
    units = semantic_units(source, "python", policy)
    assert all(unit.start < unit.end for unit in units)
    assert all(one.end <= other.start for one, other in itertools.pairwise(units))


def test_c_is_read_as_its_grammar_says():
    source = "#include <stdio.h>\nsize_t n; struct node_t *next; p->left_child = n;"
    assert identifiers(source, "c") == ["n", "node_t", "next", "p", "left_child", "n"]


def test_empty_code_has_no_units_and_its_special_tokens_are_groups():
    for backend, policy in (("tree-sitter", "leaf"), ("lexer", "identifier")):
        assert semantic_units("", "python", policy, backend) == []
    assert group_tokens([[0, 0], [0, 0]], [1, 1], [], "").tolist() == [0, 1]


# --- groups --------------------------------------------------------------------------------------------------------------------------


def walked(offsets, special, units, source):
    """The rule of the sheet, token by token."""
    groups, number, before = [], -1, None
    for (start, end), own in zip(offsets, special, strict=True):
        text = source[start:end]
        first, last = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        inside = [unit for unit in units if not own and text.strip() and unit[0] <= first and last <= unit[1]]
        unit = inside[0] if inside else None
        number += unit is None or unit != before
        groups.append(number)
        before = unit
    return groups


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["userId", "get", " ", "(", ".", "\n", "é", "東", "😀", "'", "_x", "12", "\u3000", "#"]
        ),
        max_size=25,
    ).map("".join),
    st.sampled_from(POLICIES),
)
def test_tokens_are_grouped_as_a_walk_over_them_would(source, policy):
    encoded = TOKENIZER(f"{source}", return_offsets_mapping=True, return_special_tokens_mask=True)
    offsets, special = encoded["offset_mapping"], encoded["special_tokens_mask"]
    units = semantic_units(source, "python", policy)
    groups = group_tokens(offsets, special, units, source)
    assert groups.tolist() == walked(offsets, special, units, source)
    assert set(groups[1:] - groups[:-1]) <= {0, 1}, (
        "groups are numbered from first to last, each of neighbours"
    )


def test_a_token_across_a_border_splits_a_unit_and_belongs_to_none():
    source = "ab.cd"
    offsets = [(0, 1), (1, 3), (3, 4), (4, 5)]
    assert group_tokens(offsets, [0] * 4, [(0, 2), (3, 5)], source).tolist() == [0, 1, 2, 2]
    assert group_tokens(offsets, [0] * 4, [(0, 5)], source).tolist() == [0, 0, 0, 0]


def test_neighbours_of_one_text_and_of_different_units_stay_apart():
    assert group_tokens([(0, 2), (2, 4)], [0, 0], [(0, 2), (2, 4)], "abcd").tolist() == [0, 1]


def test_the_tokens_of_one_character_are_one_group():
    assert group_tokens([(0, 1), (0, 1), (0, 1)], [0] * 3, [(0, 1)], "東").tolist() == [0, 0, 0]


# --- refusals ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offsets", [[(0, 2), (4, 6), (2, 4)], [(0, 4), (1, 3), (4, 5)], [(0, 2), (5, 3), (5, 6)]]
)
def test_offsets_that_go_back_are_refused(offsets):
    with pytest.raises(
        UserError, match=r"offsets must go from the start of the text to its end, but token [12] has"
    ):
        group_tokens(offsets, [0, 0, 0], [(0, 2)], "a = b c")


def test_a_special_token_in_the_middle_goes_back_and_is_none_of_the_text():
    assert group_tokens([(0, 2), (0, 0), (2, 4)], [0, 1, 0], [(0, 4)], "abcd").tolist() == [0, 1, 2]


def test_a_language_without_a_grammar_is_read_by_the_lexer_which_says_so():
    with pytest.warns(
        UserWarning, match=r"no grammar for 'cobol' here: install the extra `code`.*a lexer finds"
    ):
        assert identifiers("total_cnt = user_id", "cobol") == ["total_cnt", "user_id"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend_for("python") == "tree-sitter"
        assert backend_for("cobol", backend="lexer") == "lexer"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"backend": "tree-sitter"},
            "no grammar for 'cobol' here: install the extra `code` .* tree-sitter-cobol",
        ),
        ({"policy": "leaf"}, "no grammar for 'cobol' here"),
        (
            {"policy": "leaf", "backend": "lexer"},
            "the lexer knows identifiers, numbers and strings, but no leaves",
        ),
        ({"policy": "words"}, "policy must be one of identifier, identifier\\+literal, leaf, got 'words'"),
        ({"backend": "antlr"}, "backend must be one of auto, tree-sitter, lexer, got 'antlr'"),
    ],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        semantic_units("x = 1", "cobol", **options)


def test_a_language_is_no_path_to_another_module():
    with pytest.raises(UserError, match=r"no grammar for 'os\.path'"):
        semantic_units("x", "os.path", backend="tree-sitter")
