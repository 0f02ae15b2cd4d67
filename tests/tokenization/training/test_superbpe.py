import json
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tokenization.premium_golden import golden
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import BYTE_CHARACTERS, ByteVocabulary
from tokenry.core.text.byte_pairs import BytePairEncoder
from tokenry.core.text.round_trip import round_trip
from tokenry.core.text.token_counts import corpus_token_count
from tokenry.tokenization.training.byte_level_training import train_bpe, train_unigram
from tokenry.tokenization.training.merge_lists import bpe_state
from tokenry.tokenization.training.superbpe import (
    SuperBPEConfig,
    choose_transition,
    extend_to_superwords,
    train_superbpe,
)

GOLDEN = golden("superbpe")
TEXTS = [
    "it is a truth that a cat is on the mat, and that a dog is on the log: it is so",
    "it is true that the cat is on the log and that the dog is on the mat, 12345 times!!",
    "هذا هو القط على الحصيرة وهذا هو الكلب على الحصيرة",
    "यह बिल्ली चटाई पर है और यह कुत्ता चटाई पर है",
    "แมวอยู่บนเสื่อและหมาอยู่บนเสื่อ",
] * 2


def of_golden(case):
    return train_superbpe(
        case["texts"],
        case["vocab_size"],
        case["transition"],
        GOLDEN["max_words"],
        pattern=GOLDEN["stage1_regex"],
        superword_pattern=GOLDEN["stage2_regex"],
    )


@pytest.fixture(scope="module")
def trained():
    return train_superbpe(TEXTS, 420, 360, special_tokens=["<s>", "</s>"])


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_merges_tokens_and_encodings_are_those_of_the_reference(case):
    tokenizer = of_golden(case)
    vocabulary, merges = bpe_state(tokenizer)
    assert [list(pair) for pair in merges] == case["merges"]
    assert sorted(vocabulary, key=vocabulary.get)[256:] == case["vocab_tail"]
    for each in case["encode"]:
        assert tokenizer.encode(each["text"]).ids == each["ids"]


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_the_first_merges_are_those_of_the_first_stage(case):
    stage1 = train_bpe(case["texts"], case["transition"], GOLDEN["stage1_regex"])
    merges = bpe_state(stage1)[1]
    assert len(merges) == case["n_stage1_merges"]
    assert bpe_state(of_golden(case))[1][: len(merges)] == merges


def recounted(texts, tokenizer, vocab_size, config):
    """Stage 2 by counting everything at each step."""
    vocabulary, merges = bpe_state(tokenizer)
    inherited = extend_to_superwords(tokenizer, [], len(vocabulary), config)
    pieces = []
    for text in texts:
        encoding = inherited.encode(text)
        for number in dict.fromkeys(encoding.word_ids):
            words = zip(encoding.tokens, encoding.word_ids, strict=True)
            pieces.append([token for token, word in words if word == number])
    vetoed = set()
    while len(vocabulary) < vocab_size:
        counts = {}
        for piece in pieces:
            for pair in pairwise(piece):
                counts[pair] = counts.get(pair, 0) + 1
        allowed = [pair for pair in counts if pair not in vetoed]
        best = min(
            allowed, key=lambda pair: (-counts[pair], *(vocabulary[each] for each in pair)), default=None
        )
        if best is None or counts[best] < max(1, config.min_frequency):
            break
        made = "".join(best)
        if not config.may_be_made(made):
            vetoed.add(best)
            continue
        merges.append(best)
        vocabulary.setdefault(made, len(vocabulary))
        for piece in pieces:
            place = 0
            while place < len(piece) - 1:
                if (piece[place], piece[place + 1]) == best:
                    piece[place : place + 2] = [made]
                place += 1
    return vocabulary, merges


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(alphabet="aab .:1न\u0941", max_size=40), min_size=1, max_size=5),
    st.integers(0, 12),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_stage_2_merge_is_that_of_a_full_recount(texts, inherited, max_words, min_frequency):
    config = SuperBPEConfig(max_words=max_words, min_frequency=min_frequency)
    stage1 = train_bpe(texts, 256 + inherited)
    expected = recounted(texts, stage1, 300, config)
    assert bpe_state(extend_to_superwords(stage1, texts, 300, config)) == expected


@settings(max_examples=25, deadline=None)
@given(st.text())
def test_any_text_comes_back(trained, text):
    assert trained.decode(trained.encode(text, add_special_tokens=False).ids) == text


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_come_back_through_the_byte_pair_machine(trained, data):
    ids = BytePairEncoder.from_tokenizer(trained).encode(data)
    assert ByteVocabulary.from_tokenizer(trained).decode(ids) == data


def test_it_loads_in_stock_transformers(trained, tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>").save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert (
            loaded.encode(text, add_special_tokens=False)
            == trained.encode(text, add_special_tokens=False).ids
        )
    assert loaded.bos_token_id == 0


def test_tokens_span_words_and_save_tokens(trained):
    assert any("Ġ" in token.strip("Ġ") for token in trained.get_vocab())
    plain = train_bpe(TEXTS, 420, special_tokens=["<s>", "</s>"])
    assert corpus_token_count(trained, TEXTS) < corpus_token_count(plain, TEXTS)


def test_no_token_has_more_words_than_allowed_or_a_forbidden_string():
    tokenizer = train_superbpe(TEXTS, 500, 300, max_words=2, forbid=("sĠo",))
    made = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)[300:]
    assert made
    assert all(len([word for word in token.split("Ġ") if word]) <= 2 for token in made)
    assert not any("sĠo" in token for token in made)


def test_a_question_can_veto_any_merge():
    tokenizer = train_superbpe(TEXTS, 500, 300, allow=lambda token: "t" not in token)
    made = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)[300:]
    assert made
    assert not any("t" in token for token in made)


def test_a_text_that_is_too_small_makes_a_smaller_tokenizer():
    tokenizer = train_superbpe(["a b a b"], 5000)
    assert 256 < tokenizer.get_vocab_size() < 300


def test_an_iterator_of_texts_is_read_for_both_stages():
    assert train_superbpe(iter(TEXTS), 420, 360).to_str() == train_superbpe(TEXTS, 420, 360).to_str()


def test_a_tokenizer_can_be_extended_and_stays_as_it_was():
    stage1 = train_bpe(TEXTS, 360)
    before = stage1.to_str()
    extended = extend_to_superwords(stage1, TEXTS, 420)
    assert stage1.to_str() == before
    assert extended.to_str() == train_superbpe(TEXTS, 420, 360).to_str()


def test_the_transition_with_the_fewest_held_out_tokens_comes_first():
    found = choose_transition(TEXTS, TEXTS, 420, shares=(0.7, 0.8, 1.0))
    assert set(found) == {294, 336, 420}
    assert [*found.values()] == sorted(found.values())
    for transition, count in found.items():
        assert count == corpus_token_count(train_superbpe(TEXTS, 420, transition), TEXTS)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: train_superbpe(TEXTS, 300, 400), "the transition must lie between 256"),
        (lambda: train_superbpe(TEXTS, 300, 200), "the vocabulary of 300, got 200"),
        (lambda: train_superbpe(TEXTS, 250), "has no room for the 256 bytes"),
        (lambda: train_superbpe(TEXTS, 300, max_words=0), "max_words must be at least 1, got 0"),
        (lambda: train_superbpe(TEXTS, 300, superword_pattern="(("), "is not a valid regular expression"),
        (
            lambda: extend_to_superwords(train_bpe(TEXTS, 360), TEXTS, 300),
            "the transition (360 tokens) lies above",
        ),
        (
            lambda: extend_to_superwords(train_unigram(TEXTS, 360), TEXTS, 400),
            "is a Unigram model and has no merges",
        ),
        (lambda: choose_transition(TEXTS, TEXTS, 300, shares=(0.5, 1.5)), "the shares must lie in (0, 1]"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call()


def byte_level_with(tokens=(), special=(), **options):
    """The bytes, 104 merges and added tokens behind them."""
    tokenizer = train_bpe(TEXTS, 360)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def without_bytes(*lacking):
    """A tokenizer that has no token for some bytes."""
    state = json.loads(train_bpe(TEXTS, 360).to_str())
    names = [
        name for name in state["model"]["vocab"] if name not in {BYTE_CHARACTERS[byte] for byte in lacking}
    ]
    state["model"]["vocab"] = {name: place for place, name in enumerate(names)}
    return Tokenizer.from_str(json.dumps(state))


def test_added_tokens_behind_the_vocabulary_keep_their_ids_and_no_merge_crosses_them():
    texts = [f"{text}  and  <tool> it <end>" for text in TEXTS]
    tokenizer = byte_level_with(["  ", "<tool>"], ["<end>"])
    extended = extend_to_superwords(tokenizer, texts, 420)
    before, after = tokenizer.get_vocab(), extended.get_vocab()
    assert before.items() <= after.items()
    assert sorted(after.values()) == list(range(420))
    assert {number: token.content for number, token in extended.get_added_tokens_decoder().items()} == {
        360: "  ",
        361: "<tool>",
        362: "<end>",
    }
    made = [token for token, number in after.items() if number >= 363]
    assert any("Ġ" in token.strip("Ġ") for token in made)
    assert not any("<tool>" in token or "ĠĠ" in token for token in made)
    assert extended.encode(texts[0]).tokens.count("  ") == 2
    loaded = Tokenizer.from_str(extended.to_str())
    assert loaded.get_vocab() == after
    assert round_trip(loaded, texts).gives_back


def test_only_the_bytes_of_the_texts_need_a_token():
    tokenizer = without_bytes(0x04, 0xC0, 0xFF)
    extended = extend_to_superwords(tokenizer, TEXTS, 400)
    assert extended.get_vocab_size() == 400
    assert round_trip(extended, TEXTS).gives_back
    with pytest.raises(
        UserError, match=r"no token for 1 byte of the text \(0x04, in 'a\\x04b'\): leave such"
    ):
        extend_to_superwords(tokenizer, [*TEXTS, "a\x04b"], 400)
    tokenizer.add_tokens(["\x04"])
    extend_to_superwords(tokenizer, [*TEXTS, "a\x04b"], 400)


def test_the_space_before_a_text_stays_one_before_the_text():
    extended = extend_to_superwords(byte_level_with(add_prefix_space=True), TEXTS, 420)
    for text in ("it is so", "it is true that, 12345 times!!"):
        assert extended.encode(text).ids == extended.encode(f" {text}").ids
        assert round_trip(extended, [text]).gives_back
    assert extended.encode("it is so").tokens[0].startswith("Ġit")
    assert not extended.encode("a, it").tokens[1].startswith("Ġ,")


def test_gaps_among_the_ids_stay_gaps():
    state = json.loads(train_bpe(TEXTS, 360).to_str())
    last = max(state["model"]["vocab"], key=state["model"]["vocab"].get)
    state["model"]["vocab"][last] = 365
    extended = extend_to_superwords(Tokenizer.from_str(json.dumps(state)), TEXTS, 400)
    assert sorted(extended.get_vocab().values()) == [*range(359), *range(365, 400)]


def sentencepiece_like():
    tokenizer = train_bpe(TEXTS, 360)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def bytes_by_the_normaliser():
    tokenizer = byte_level_with()
    tokenizer.normalizer = normalizers.ByteLevel()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "text", "words"),
    [
        (
            sentencepiece_like,
            "a",
            "the tokenizer is not a byte-level BPE (its pre-tokenizer does not write bytes",
        ),
        (bytes_by_the_normaliser, "a", "the tokenizer is not a byte-level BPE"),
        (
            lambda: without_bytes(*b"qz"),
            "q and z",
            "no token for 2 bytes of the text (0x71, 0x7A, in 'q and z')",
        ),
        (lambda: without_bytes(*b"qzxjkv"), "vqzxjk", "(0x6A, 0x6B, 0x71, 0x76, …, in 'vqzxjk')"),
        (lambda: without_bytes(0xC3), "é", "no token for 1 byte of the text (0xC3, in 'é')"),
        (
            lambda: byte_level_with(["<x>"]),
            "a",
            "the transition (361 tokens) lies above the vocabulary of 360",
        ),
    ],
)
def test_what_cannot_go_on_across_words_is_refused(tokenizer, text, words):
    with pytest.raises(UserError, match=re.escape(words)):
        extend_to_superwords(tokenizer(), [text], 360)
