"""Attacks that change what they say at the rate they say, and a normaliser that undoes them and leaves other scripts alone."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.core.errors import UserError
from tokenry.data import ATTACKS, attack, normalize_text

TEXT = (
    "The colour of a new theater is important. We choose the big number 2889, and the result is 17. Many neighbors help! "
    "Because it is easy, a fast check finds an error in the old program? Only some of the labeled values are bad."
)
RUSSIAN = "Быстрая лиса прыгает через ленивую собаку, а оса сосёт сок."
OTHERS = [
    RUSSIAN,
    "Η γρήγορη αλεπού πηδά πάνω από τον σκύλο.",
    "می\u200cخواهم بروم",
    "क्\u200dष",
    "敏捷的狐狸跳过了狗。",
    "👩\u200d🚀",
]


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_changes_the_text_and_is_the_same_again(kind):
    [found] = attack([TEXT], kind, rate=1.0)
    assert found != TEXT
    assert attack(["another text", TEXT], kind, rate=1.0)[1] == found
    assert attack([TEXT], kind, rate=0.0) == [TEXT]


def test_the_rate_is_the_share_of_the_places():
    [found] = attack(["abcd " * 100], "homoglyph", rate=0.1)
    assert sum(ord(letter) > 127 for letter in found) == 20
    assert attack([TEXT], "homoglyph", rate=0.1, seed=1) != attack([TEXT], "homoglyph", rate=0.1)


def test_each_attack_does_what_its_name_says():
    def found(kind, text):
        return attack([text], kind, rate=1.0)[0]

    assert found("article_deletion", "The cat saw an ant and a dog.") == "cat saw ant and dog."
    assert found("whitespace", "a b c") == "a  b  c"
    assert found("zero_width_space", "ab c") == "a\u200bb c"
    assert found("upper_lower", "one Two") == "One two"
    assert found("misspelling", "form a word") == "from a wrod"
    assert found("insert_paragraphs", "One. Two! Three") == "One.\n\nTwo!\n\nThree"
    assert found("alternative_spelling", "Color, centre") == "Colour, center"
    assert found("synonym", "a Big error") == "a Large mistake"
    assert found("homoglyph", "peace") == "реасе"
    number = found("number", "1 and 2")
    assert [len(number), number[0] != "1", number[-1] != "2"] == [7, True, True]


def test_a_paraphrase_is_the_users_own_function():
    assert attack(["a b"], lambda text: text[::-1]) == ["b a"]


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["homoglyph", "zero_width_space"])
def test_the_normaliser_undoes_what_only_looks_the_same(kind, rate):
    attacked = attack([TEXT], kind, rate)[0]
    assert attacked != TEXT
    assert normalize_text(attacked) == TEXT


@pytest.mark.parametrize("text", OTHERS)
def test_the_normaliser_leaves_other_scripts_alone(text):
    assert normalize_text(text) == text


def test_a_foreign_word_in_a_latin_text_keeps_its_letters():
    assert normalize_text("The word собака means dog.") == "The word собака means dog."


def test_compatibility_forms_are_undone():
    assert normalize_text("ﬁne ２３\u00a0x") == "fine 23 x"


@given(st.text(max_size=60))
def test_normalising_twice_changes_no_more(text):
    once = normalize_text(text)
    assert normalize_text(once) == once


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=60))
def test_ascii_stays_as_it_is(text):
    assert normalize_text(text) == text == unicodedata.normalize("NFKC", text)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: attack([TEXT], "magic"), "an attack must be one of homoglyph, zero_width_space"),
    (lambda: attack([TEXT], "number", rate=1.5), "rate must be in [0, 1], got 1.5"),
])  # fmt: skip
def test_what_is_no_attack_is_refused(call, words):
    with pytest.raises(UserError) as raised:
        call()
    assert words in str(raised.value)
