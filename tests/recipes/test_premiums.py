"""The recipe on four languages and a few articles: what it compares, and how it judges."""

from dataclasses import replace

import numpy as np
import pytest

from tests.recipes.check_recipe import check_recipe
from tests.tokenization.premium_golden import golden
from tokenry.core.stats import Estimate
from tokenry.recipes.premiums import judge, settings_compared
from tokenry.recipes.testbeds.parallel_corpora import LANGUAGES as ALL_LANGUAGES
from tokenry.recipes.testbeds.parallel_corpora import Corpus, declaration
from tokenry.recipes.testbeds.vocabulary_trial import measure
from tokenry.tokenization.premiums.tokenizer_grid import GridConfig, counts_of

GOLDEN = golden("premiums")
LANGUAGES = ("eng", "deu_1996", "tur", "hin", "swh")


@pytest.fixture(scope="module")
def corpus():
    evaluation = {
        # Eight segments, the fewest that anything is said of.
        language: [texts[number : number + 1] for number in range(7)] + [texts[7:]]
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


def test_unseen_articles_are_not_those_the_curves_were_fitted_to(found, corpus):
    fixed, optimal = found.unseen
    assert {len(each) for each in (*fixed.values(), *optimal.values())} == {4}
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


def counts_by_segment(*totals):
    """Counts of eight segments of every language, alike but for the language's total."""
    return {language: np.full(8, total) for language, total in zip(LANGUAGES, totals, strict=True)}


def test_a_vocabulary_of_its_own_is_judged_by_the_spread_it_leaves(corpus, found):
    fixed = counts_of(found.cells, "bpe", "scaled", corpus.base)
    even = counts_by_segment(90, 90, 90, 90, 90)
    assert verdicts(corpus, replace(found, optimal_counts=even))[0] == "shown"
    assert verdicts(corpus, replace(found, optimal_counts=fixed))[0] == "not shown"
    apart = counts_by_segment(10, 400, 800, 1600, 3200)
    assert verdicts(corpus, replace(found, optimal_counts=apart))[0] == "opposite"


def test_few_segments_say_nothing(corpus, found):
    few = {language: counts[:7] for language, counts in found.optimal_counts.items()}
    cells = [replace(cell, counts=cell.counts[:7]) for cell in found.cells]
    equal = [replace(cell, counts=cell.counts[:7]) for cell in found.equal_bytes]
    unmarked = {language: counts[:7] for language, counts in found.unmarked.items()}
    changed = replace(found, optimal_counts=few, cells=cells, equal_bytes=equal, unmarked=unmarked)
    assert verdicts(corpus, changed)[:2] == ["too few"] * 2


def test_premiums_that_are_small_do_not_remain(corpus, found):
    equal = [replace(cell, counts=(50,) * 8) for cell in found.equal_bytes]
    assert verdicts(corpus, replace(found, equal_bytes=equal))[1] == "not shown"


def test_superwords_that_save_nothing_are_not_shown_to(corpus, found):
    as_bpe = {
        (cell.language, cell.vocab_size): cell.counts for cell in found.cells if cell.algorithm == "bpe"
    }
    same = [
        replace(cell, counts=as_bpe[cell.language, cell.vocab_size]) if cell.algorithm == "superbpe" else cell
        for cell in found.cells
    ]
    # Five languages are fewer than eight.
    assert verdicts(corpus, replace(found, cells=same))[2:4] == ["too few", "not shown"]


def test_an_effect_of_similarity_refutes_that_there_is_none(corpus, found):
    for low, high, verdict in ((-0.3, 0.4, "shown"), (-0.1, 0.7, "not shown"), (0.1, 0.7, "opposite")):
        similarity = Estimate((low + high) / 2, float("nan"), 24, low, high)
        assert verdicts(corpus, replace(found, similarity=(similarity, 0.0)))[-1] == verdict


def test_a_run_ends_with_claims_settings_and_a_picture(corpus, tmp_path):
    reproduction = check_recipe("premiums", lambda progress: corpus, tmp_path)
    assert len(reproduction.claims) == 6
    assert set(reproduction.settings["optimal_vocab_sizes"]) == set(LANGUAGES)


def test_the_declaration_is_divided_as_everywhere(monkeypatch, tmp_path):
    folder = tmp_path / "declaration"
    folder.mkdir()
    for language in ALL_LANGUAGES:
        articles = "".join(
            f'<article data-number="{n}"><h2>{n}</h2><p>{language}</p></article>' for n in range(1, 31)
        )
        (folder / f"{language}.html").write_text(
            f"<html><head><title>{language.upper()}</title></head><body>{articles}</body></html>"
        )
    monkeypatch.setenv("TOKENRY_UDHR", str(tmp_path))
    corpus = declaration(lambda what, share: None)
    assert corpus.names["eng"] == "ENG"
    assert [segment[0] for segment in corpus.evaluation["hin"]] == [str(n) for n in range(3, 31, 3)]
    assert len(corpus.train["hin"]) == 40
