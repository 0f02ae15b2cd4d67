import json
import re
import sys
from dataclasses import replace
from types import ModuleType

import pytest
from tokenizers import Tokenizer

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.core.text.token_counts import byte_premium, corpus_token_count, utf8_bytes
from tokenry.tokenization.premiums import tokenizer_grid
from tokenry.tokenization.premiums.tokenizer_grid import (
    GridConfig,
    counts_of,
    curves_of,
    load_grid,
    run_grid,
    taken,
    training_budgets,
)
from tokenry.tokenization.training.boundless_bpe import BoundlessBPE
from tokenry.tokenization.training.boundless_training import train_boundless_bpe
from tokenry.tokenization.training.byte_level_training import GPT2_PATTERN, train_unigram
from tokenry.tokenization.training.superbpe import train_superbpe

GOLDEN = golden("premiums")
LANGUAGES = ("eng", "hin")
TRAIN = {language: GOLDEN["train"][language] for language in LANGUAGES}
# The languages have the same articles, though not the same number of paragraphs: two segments each.
EVALUATION = {
    language: [GOLDEN["eval"][language][:2], GOLDEN["eval"][language][2:]] for language in LANGUAGES
}
SMALL = GridConfig(vocab_sizes=(300, 340), amounts=("unscaled",), algorithms=("bpe",))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Every algorithm and amount, with the tokenizers kept."""
    folder = tmp_path_factory.mktemp("grid")
    config = GridConfig(
        algorithms=("bpe", "unigram", "superbpe", "boundless"),
        vocab_sizes=(300, 340),
        special_tokens=("<s>",),
        save_tokenizers=True,
    )
    told = []
    cells = run_grid(TRAIN, EVALUATION, folder, config, lambda what, share: told.append((what, share)))
    return folder, config, cells, told


def test_every_cell_is_there_and_progress_ends_at_one(whole):
    _, _, cells, told = whole
    assert len(cells) == 4 * 2 * 2 * 2
    assert len(told) == 4 * 2 * 2
    assert told[-1][1] == 1.0


def test_the_counts_are_those_of_the_reference(tmp_path):
    config = GridConfig(
        algorithms=("bpe",),
        vocab_sizes=tuple(GOLDEN["vocab_sizes"]),
        amounts=("unscaled",),
        train_bytes=10**9,
        pattern=GPT2_PATTERN,
    )
    cells = run_grid(TRAIN, EVALUATION, tmp_path, config)
    for language, curve in curves_of(cells, "bpe", "unscaled").items():
        assert [*curve.values()] == GOLDEN["ctc"][language]


@pytest.mark.parametrize("algorithm", ["bpe", "unigram", "superbpe", "boundless"])
def test_the_kept_tokenizer_is_the_one_that_was_measured(whole, algorithm):
    folder, _, cells, _ = whole
    for cell in (cell for cell in cells if cell.algorithm == algorithm):
        path = folder / f"tokenizers/{cell.name}.json"
        load = BoundlessBPE.load if algorithm == "boundless" else lambda path: Tokenizer.from_file(str(path))
        tokenizer = load(path)
        texts = [text for segment in EVALUATION[cell.language] for text in segment]
        assert corpus_token_count(tokenizer, texts) == cell.ctc
        size = tokenizer.vocab_size if algorithm == "boundless" else tokenizer.get_vocab_size()
        assert size == cell.trained_vocab_size == 300 or cell.vocab_size == 340


def test_training_once_for_all_sizes_is_training_for_each(whole):
    _, config, cells, _ = whole
    budget = training_budgets(TRAIN, EVALUATION, "unscaled", config)["hin"]
    texts = taken(TRAIN["hin"], budget)
    alone = {
        "unigram": train_unigram(texts, 300, special_tokens=["<s>"]),
        "superbpe": train_superbpe(texts, 300, special_tokens=["<s>"]),
        "boundless": train_boundless_bpe(texts, 300, special_tokens=["<s>"]),
    }
    flat = [text for segment in EVALUATION["hin"] for text in segment]
    for algorithm, tokenizer in alone.items():
        measured = counts_of(cells, algorithm, "unscaled", 300)["hin"].sum()
        assert measured == corpus_token_count(tokenizer, flat)


def test_scaled_text_has_the_same_content_and_unscaled_the_same_bytes():
    flat = {language: [t for s in EVALUATION[language] for t in s] for language in LANGUAGES}
    premium = byte_premium(flat["hin"], flat["eng"])
    config = replace(SMALL, train_bytes=1000)
    assert training_budgets(TRAIN, EVALUATION, "scaled", config) == {
        "eng": 1000,
        "hin": round(1000 * premium),
    }
    assert training_budgets(TRAIN, EVALUATION, "unscaled", config) == {"eng": 1000, "hin": 1000}


def test_without_a_budget_every_language_has_enough_text():
    for amount in ("scaled", "unscaled"):
        budgets = training_budgets(TRAIN, EVALUATION, amount, SMALL)
        spare = {language: utf8_bytes(TRAIN[language]) - budgets[language] for language in LANGUAGES}
        assert min(spare.values()) >= -1
        assert min(map(abs, spare.values())) <= 1


def test_texts_are_taken_whole():
    assert taken(["ab", "cd", "ef"], 5) == ["ab", "cd"]
    assert taken(["ab", "cd"], 1) == ["ab"]


def test_a_stopped_grid_goes_on_where_it_was(tmp_path, monkeypatch):
    train_cells, trained = tokenizer_grid.train_cells, []

    def stopping(job, texts, segments, sizes, config):
        trained.append((job.language, tuple(sizes)))
        for number, each in enumerate(train_cells(job, texts, segments, sizes, config)):
            if len(trained) == 2 and number == 1:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(tokenizer_grid, "train_cells", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_grid(TRAIN, EVALUATION, tmp_path, SMALL)
    assert [cell.name for cell in load_grid(tmp_path)] == [
        "bpe_eng_300_unscaled",
        "bpe_eng_340_unscaled",
        "bpe_hin_300_unscaled",
    ]
    cells = run_grid(TRAIN, EVALUATION, tmp_path, SMALL)
    assert trained[2:] == [("hin", (340,))]
    assert len(cells) == 4


def test_sizes_can_be_added_later(tmp_path):
    run_grid(TRAIN, EVALUATION, tmp_path, SMALL)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").iterdir()}
    cells = run_grid(TRAIN, EVALUATION, tmp_path, replace(SMALL, vocab_sizes=(300, 320, 340)))
    assert len(cells) == 6
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())


def test_a_folder_of_another_grid_is_refused(tmp_path):
    run_grid(TRAIN, EVALUATION, tmp_path, SMALL)
    with pytest.raises(UserError, match="holds another grid"):
        run_grid(TRAIN, EVALUATION, tmp_path, replace(SMALL, pattern=GPT2_PATTERN))
    with pytest.raises(UserError, match="holds another grid"):
        run_grid({**TRAIN, "eng": TRAIN["eng"][1:]}, EVALUATION, tmp_path, SMALL)


def test_a_text_that_is_too_small_is_recorded_with_its_true_size(tmp_path):
    config = replace(SMALL, vocab_sizes=(300, 50_000))
    cells = run_grid(TRAIN, EVALUATION, tmp_path, config)
    assert {cell.trained_vocab_size for cell in cells if cell.vocab_size == 300} == {300}
    assert all(300 < cell.trained_vocab_size < 10_000 for cell in cells if cell.vocab_size == 50_000)


@pytest.fixture
def ray(monkeypatch):
    """A stand-in that does as Ray does, later jobs first."""
    module = ModuleType("ray")
    module.started = []
    module.is_initialized = lambda: bool(module.started)
    module.init = lambda **options: module.started.append(options)
    module.cluster_resources = lambda: {"CPU": 1.0}
    module.remote = lambda function: type(
        "Remote", (), {"remote": staticmethod(lambda *given: _Result(function, given))}
    )
    module.wait = lambda waiting, num_returns: (waiting[-1:], waiting[:-1])
    module.get = lambda result: result.function(*json_safe(result.given))
    monkeypatch.setitem(sys.modules, "ray", module)
    return module


class _Result:
    def __init__(self, function, given):
        self.function, self.given = function, given


def json_safe(given):
    """What is handed to another process must be plain data."""
    run, job, texts, segments, sizes, config = given
    return (run, job, *json.loads(json.dumps([texts, segments, sizes])), config)


def test_ray_runs_the_same_function(tmp_path, ray):
    ours = run_grid(TRAIN, EVALUATION, tmp_path / "here", SMALL)
    theirs = run_grid(TRAIN, EVALUATION, tmp_path / "there", SMALL, ray=True)
    assert ours == theirs
    assert len(ray.started) == 1


def test_without_ray_installed_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'tokenry\[ray\]'"):
        run_grid(TRAIN, EVALUATION, tmp_path, SMALL, ray=True)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: GridConfig(algorithms=("wordpiece",)), "the algorithm must be one of bpe, unigram"),
        (lambda folder: GridConfig(algorithms=()), "got none"),
        (
            lambda folder: GridConfig(amounts=("half",)),
            "the amount must be one of scaled, unscaled, got 'half'",
        ),
        (lambda folder: GridConfig(vocab_sizes=(500, 300)), "must be positive and increase, got 500, 300"),
        (lambda folder: GridConfig(vocab_sizes=()), "there is no vocabulary size"),
        (lambda folder: GridConfig(vocab_sizes=(256,), special_tokens=("<s>",)), "ask for at least 257"),
        (lambda folder: GridConfig(transition_share=1.2), "the transition share must lie in (0, 1], got 1.2"),
        (lambda folder: GridConfig(train_bytes=0), "at least one byte, got 0"),
        (
            lambda folder: run_grid(TRAIN, {**EVALUATION, "hin": [["a"]]}, folder, SMALL),
            "not parallel: eng has 2 segments and hin has 1",
        ),
        (
            lambda folder: run_grid(TRAIN, {**EVALUATION, "hin": [[""], [""]]}, folder, SMALL),
            "the evaluation text is empty",
        ),
        (lambda folder: run_grid({"eng": ["a"]}, EVALUATION, folder, SMALL), "hin has no training text"),
        (
            lambda folder: run_grid(TRAIN, EVALUATION, folder, replace(SMALL, reference="deu")),
            "the reference language 'deu' is not among the languages (eng, hin)",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call(tmp_path)
    assert not list(tmp_path.iterdir())
