import json

import pytest

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.tokenization.premiums.premium_table import grid_premiums, measure_premiums
from tokenry.tokenization.premiums.tokenizer_grid import GridCell
from tokenry.tokenization.training.byte_level_training import train_bpe

GOLDEN = golden("premiums")
EVALUATION = {language: [texts[:2], texts[2:]] for language, texts in GOLDEN["eval"].items()}


@pytest.fixture(scope="module")
def tables():
    trained = {f"v{size}": train_bpe(GOLDEN["train"]["eng"], size) for size in (300, 400)}
    return measure_premiums(trained, EVALUATION, "eng")


def test_there_is_a_table_per_tokenizer_with_the_dearest_language_first(tables):
    assert [table.name for table in tables] == ["v300", "v400"]
    for table in tables:
        tokens = [row.tokens for row in table.languages]
        assert tokens == sorted(tokens, reverse=True)
        assert {row.language for row in table.languages} == set(EVALUATION)


def test_the_reference_costs_one_and_byte_premiums_are_those_of_the_text(tables):
    for row in tables[0].languages:
        expected = GOLDEN["byte_premium_vs_eng"][row.language]
        assert row.byte_premium == pytest.approx(expected, rel=1e-12)
        if row.language == "eng":
            assert (row.premium.value, row.premium.low, row.premium.high) == (1.0, 1.0, 1.0)


def test_a_tokenizer_of_bytes_has_the_byte_premium():
    (table,) = measure_premiums({"bytes": train_bpe(["x"], 256)}, EVALUATION, "eng")
    for row in table.languages:
        assert row.premium.value == pytest.approx(row.byte_premium, rel=1e-12)
        assert row.bytes_per_token == 1.0


def test_a_table_can_be_written_as_json(tables):
    content = json.loads(json.dumps([table.as_json() for table in tables]))
    assert content[0]["spread"]["max_min"]["value"] == tables[0].spread["max_min"].value
    assert content[1]["languages"][0]["premium"]["low"] > 1


def test_the_cells_of_a_grid_make_a_table_per_setting():
    cells = [
        GridCell(language, algorithm, "scaled", size, size, 10, (size + place, size))
        for place, language in enumerate(EVALUATION)
        for algorithm in ("bpe", "unigram")
        for size in (1024, 512)
    ]
    tables = grid_premiums(cells, EVALUATION, "eng")
    assert [(table.group, table.name) for table in tables] == [
        ("bpe, scaled", "V = 512"),
        ("bpe, scaled", "V = 1024"),
        ("unigram, scaled", "V = 512"),
        ("unigram, scaled", "V = 1024"),
    ]


def test_a_missing_reference_is_named():
    with pytest.raises(UserError, match="the reference language 'xxx' is not among the languages"):
        measure_premiums({}, EVALUATION, "xxx")


def test_texts_that_are_not_parallel_are_refused():
    with pytest.raises(UserError, match="not parallel: eng has 2 segments and hin has 1"):
        measure_premiums({}, {**EVALUATION, "hin": [["a"]]}, "eng")
