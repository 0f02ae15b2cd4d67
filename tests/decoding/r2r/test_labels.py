"""Mismatches, labels and sentences of R2R: reference results, what holds for any text, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.golden import golden_json
from tokenry.core.errors import UserError
from tokenry.decoding.r2r.labels import align_labels, find_mismatches, token_types
from tokenry.decoding.r2r.sentence_context import (
    NO_SENTENCE,
    is_valid_bracket_token,
    real_continuation,
    sentence_context,
    split_sentences,
    stop_token_ids,
)
from tokenry.models import load_tokenizer

SLUG = "05-r2r"
ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def reference():
    return golden_json(SLUG, "dev-labels.json")


def columns(reference):
    names = reference["columns"]
    return {
        name: torch.tensor(values)
        for name, values in zip(names, zip(*reference["rows"], strict=True), strict=True)
    }


def mismatches(reference):
    rows = columns(reference)
    return rows, find_mismatches(
        rows["SLM_predictions"],
        rows["real_token"],
        rows["token_type"],
        reference["think_end"],
        rows["data_id"],
        reference["max_tokens"],
    )


def test_mismatches_are_the_reference(reference):
    rows, found = mismatches(reference)
    expected = reference["mismatches"]
    assert rows["data_id"][found].tolist() == [point["data_id"] for point in expected]
    assert rows["token_id"][found].tolist() == [point["token_id"] for point in expected]
    assert rows["token_id"][found].tolist() == [point["n_context"] for point in expected]
    assert rows["real_token"][found].tolist() == [point["real_token"] for point in expected]
    assert rows["real_token"][found - 1].tolist() == [point["prev_real_token"] for point in expected]
    assert rows["SLM_predictions"][found - 1].tolist() == [point["pred_small_token"] for point in expected]


def test_labels_are_the_reference(reference):
    rows, found = mismatches(reference)
    labels = align_labels(rows["token_type"], found, reference["verifier"])
    judged = torch.isin(rows["data_id"], rows["data_id"][found])
    aligned = reference["aligned"]
    assert rows["token_id"][judged].tolist() == aligned["token_id"]
    for name in ("divergent", "mismatch", "mask"):
        assert getattr(labels, name)[judged].long().tolist() == aligned[name], name


@given(ROWS, st.integers(0, 4) | st.none())
def test_mismatches_are_those_of_a_loop_over_rows(rows, stop):
    predictions, tokens, texts = map(torch.tensor, zip(*rows, strict=True))
    texts = texts.cumsum(0)
    starts = [0, *(1 + (texts[1:] != texts[:-1]).nonzero()[:, 0]).tolist()]
    types = torch.ones_like(tokens)
    types[starts] = 0
    lengths = {int(text): int((texts == text).sum()) for text in texts.unique()}
    expected = [
        row + 1
        for row in range(len(rows) - 1)
        if texts[row] == texts[row + 1]
        and types[row] > 0
        and predictions[row] != tokens[row + 1]
        and tokens[row + 1] != (-1 if stop is None else stop)
        and lengths[int(texts[row])] <= 5
    ]
    assert find_mismatches(predictions, tokens, types, stop, texts, 5).tolist() == expected


def test_the_last_token_of_a_prompt_predicts_the_answer():
    types = token_types([5, 6, 7, 8, 2, 9], prompt_tokens=3, think_end=2)
    assert types.tolist() == [0, 0, 1, 1, 2, 2]
    assert token_types([2, 6, 7], prompt_tokens=2, think_end=2).tolist() == [0, 2, 2]


def test_sentences_are_the_reference():
    for case in golden_json(SLUG, "dev-sentences.json")["sentences"]:
        assert split_sentences(case["text"]) == [tuple(piece) for piece in case["segments"]]


def test_contexts_are_the_reference():
    for case in golden_json(SLUG, "dev-sentences.json")["context"]:
        found = sentence_context(
            case["context"],
            case["pred"],
            case["continuation"],
            case["is_next"],
            case["num_continuation"],
            case["previous_context"],
        )
        assert found == (case["common"], case["result"])


def test_brackets_are_the_reference():
    for case in golden_json(SLUG, "dev-sentences.json")["brackets"]:
        assert is_valid_bracket_token(case["token"]) == case["valid"], case["token"]


def test_real_continuations_are_the_reference():
    stored = golden_json(SLUG, "dev-sentences.json")["real_continuation"]
    for case in stored["cases"]:
        sentences = case["num_continuation"] if case["num_continuation"] > 0 else None
        found = real_continuation(
            stored["sequence"],
            case["index"],
            stored["stop_token_ids"],
            stored["eos"],
            case["max_new_tokens"],
            sentences,
        )
        assert found == case["generated"]


def test_stop_tokens_are_the_reference():
    stored = golden_json(SLUG, "dev-stoptokens.json")
    tokenizer = load_tokenizer("embedded")
    assert stop_token_ids(tokenizer) == stored["stop_token_ids"]
    assert len(stop_token_ids(tokenizer, ["<|im_end|>"])) == len(stored["stop_token_ids"]) + 1


def test_chinese_is_cut_at_its_own_marks_and_after_newlines():
    pieces = split_sentences("先算三加四。 等于七！\n再算 \n\n好 \n")
    assert [piece for piece, _, _ in pieces] == ["先算三加四。", "等于七！", "再算 \n\n", "好"]
    assert [(first, last) for _, first, last in pieces] == [(0, 5), (7, 10), (12, 16), (17, 17)]
    assert split_sentences(" \n") == []


@given(st.text(alphabet="ab.!?\n ", max_size=40))
def test_pieces_join_to_the_text(text):
    pieces = split_sentences(text)
    assert "".join(piece for piece, _, _ in pieces) == (text if text.strip() else "")
    assert all(text[first : last + 1] == piece for piece, first, last in pieces)


def test_only_what_follows_the_last_think_is_context():
    assert sentence_context("Ask. <think>One. Two ", "<<is>>", " two. Yes.") == ("One. ", "Two <<is>> two. ")
    assert sentence_context("One.", "<<x>>", "", is_next=True) == ("", NO_SENTENCE)


def test_a_later_turn_of_the_user_is_compared_and_masked():
    types, texts = torch.tensor([0, 1, 0, 1, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1])
    wrong = find_mismatches(torch.full((7,), 9), torch.arange(7), types, texts=texts)
    assert wrong.tolist() == [2, 3, 6]
    assert align_labels(types, wrong, [1, 1, 1]).trainable.tolist() == (types > 0).tolist()
    assert not len(find_mismatches(types[:0], types[:0], types[:0]))


def test_what_cannot_be_labelled_is_refused():
    three = torch.tensor([0, 1, 1])
    with pytest.raises(UserError, match="2 predictions and 3 types for 3 tokens: give one of each per token"):
        find_mismatches(three[:2], three, three)
    with pytest.raises(UserError, match="1 verdicts for 2 mismatches: give one verdict per mismatch"):
        align_labels(three, torch.tensor([1, 2]), [1])
    with pytest.raises(
        UserError, match=r"a label is 1 \(divergent\), 0 \(not divergent\) or -1 \(unknown\), got 2"
    ):
        align_labels(three, torch.tensor([2]), [2])
