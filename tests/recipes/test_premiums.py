"""The recipe on four languages and a few articles: what it compares, and how it judges."""

from dataclasses import replace

import numpy as np
import pytest

from tests.tokenization.premium_golden import golden
from tokenry.papers import paper
from tokenry.recipes import premiums
from tokenry.recipes.premiums import RECIPE, Corpus, judge, measure, settings_compared
from tokenry.tokenization.premiums.tokenizer_grid import GridConfig, counts_of

GOLDEN = golden("premiums")
LANGUAGES = ("eng", "deu_1996", "tur", "hin", "swh")


@pytest.fixture(scope="module")
def corpus():
    evaluation = {
        language: [texts[:1], texts[1:2], texts[2:4], texts[4:]]
        for language, texts in ((each, GOLDEN["eval"][each]) for each in LANGUAGES)
    }
    return Corpus(
        train={language: GOLDEN["train"][language] for language in LANGUAGES},
        evaluation=evaluation,
        names=dict(zip(LANGUAGES, LANGUAGES, strict=True)),
        base=400,
        largest=1000,
        grid=GridConfig(
            algorithms=("bpe", "superbpe", "unigram"), vocab_sizes=(300, 340, 400, 480), train_bytes=10**9
        ),
    )


@pytest.fixture(scope="module")
def found(corpus, tmp_path_factory):
    told = []
    found = measure(corpus, tmp_path_factory.mktemp("run"), lambda what, share: told.append(share))
    assert told == sorted(told)
    assert told[-1] < 1
    return found


def test_it_bears_the_name_of_its_paper():
    assert RECIPE.title == paper(RECIPE.slug).title


def test_unseen_articles_are_not_those_the_curves_were_fitted_to(found, corpus):
    fixed, optimal = found.unseen
    assert {len(each) for each in (*fixed.values(), *optimal.values())} == {2}
    whole = counts_of(found.cells, "bpe", "scaled", corpus.base)
    assert all((fixed[language] == whole[language][1::2]).all() for language in LANGUAGES)


def test_every_setting_has_the_counts_of_every_language(corpus, found):
    compared = settings_compared(corpus, found)
    assert "BPE, optimal V" in compared
    assert "BoundlessBPE, V = 400" in compared
    assert all(set(counts) == set(LANGUAGES) for counts in compared.values())


def test_without_marks_the_language_that_has_them_costs_more(corpus, found):
    fixed = counts_of(found.cells, "bpe", "scaled", corpus.base)
    for language in LANGUAGES:
        dearer = found.unmarked[language].sum() > 1.1 * fixed[language].sum()
        assert dearer == (found.marks[language] >= 0.05)


def verdicts(corpus, found):
    return [claim.verdict for claim in judge(corpus, found)]


def test_a_vocabulary_of_its_own_is_judged_by_the_spread_it_leaves(corpus, found):
    fixed = counts_of(found.cells, "bpe", "scaled", corpus.base)
    even = {language: np.array([50, 50, 100, 100]) for language in LANGUAGES}
    assert verdicts(corpus, replace(found, optimal_counts=even))[2] == "shown"
    assert verdicts(corpus, replace(found, optimal_counts=fixed))[2] == "not shown"
    assert verdicts(corpus, replace(found, unseen=(fixed, fixed)))[3] == "not shown"


def test_premiums_that_are_small_do_not_remain(corpus, found):
    equal = [replace(cell, counts=(50, 50, 50, 50)) for cell in found.equal_bytes]
    assert verdicts(corpus, replace(found, equal_bytes=equal))[1] == "not shown"


def test_superwords_that_save_nothing_are_not_shown_to(corpus, found):
    as_bpe = {
        (cell.language, cell.vocab_size): cell.counts for cell in found.cells if cell.algorithm == "bpe"
    }
    same = [
        replace(cell, counts=as_bpe[cell.language, cell.vocab_size]) if cell.algorithm == "superbpe" else cell
        for cell in found.cells
    ]
    assert verdicts(corpus, replace(found, cells=same))[4:8] == ["not shown"] * 4


def test_an_effect_of_similarity_refutes_that_there_is_none(corpus, found):
    assert verdicts(corpus, replace(found, similarity=(0.1, 0.6, 0.0)))[-1] == "shown"
    assert verdicts(corpus, replace(found, similarity=(0.8, 0.01, 0.2)))[-1] == "not shown"


def test_a_run_ends_with_claims_settings_and_a_picture(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(premiums._CORPORA, "laptop", lambda progress: corpus)
    reproduction = RECIPE.run("laptop", tmp_path, lambda what, share: None)
    assert len(reproduction.claims) == 10
    assert (tmp_path / reproduction.plots[0]).stat().st_size > 10_000
    assert set(reproduction.settings["optimal_vocab_sizes"]) == set(LANGUAGES)
    reproduction.save(tmp_path / "result.json")


def test_the_declaration_is_divided_as_everywhere(monkeypatch, tmp_path):
    folder = tmp_path / "declaration"
    folder.mkdir()
    for language in premiums.LANGUAGES:
        articles = "".join(
            f'<article data-number="{n}"><h2>{n}</h2><p>{language}</p></article>' for n in range(1, 31)
        )
        (folder / f"{language}.html").write_text(
            f"<html><head><title>{language.upper()}</title></head><body>{articles}</body></html>"
        )
    monkeypatch.setenv("TOKENRY_UDHR", str(tmp_path))
    corpus = premiums._declaration(lambda what, share: None)
    assert corpus.names["eng"] == "ENG"
    assert [segment[0] for segment in corpus.evaluation["hin"]] == [str(n) for n in range(3, 31, 3)]
    assert len(corpus.train["hin"]) == 40
