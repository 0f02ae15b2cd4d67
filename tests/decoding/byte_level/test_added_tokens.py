"""Added tokens are cut out of a text before the model sees it: covers and probabilities against the tokenizers themselves."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from tests.decoding.byte_level.added import (
    ADDED,
    TOKENIZERS,
    atoms_of,
    brute_covers,
    encodings,
    tokenizer_with,
)
from tests.decoding.byte_level.brute_force import SCRIPTS, check, hashed_model
from tests.real_tokenizers import every_real_tokenizer, real_backend
from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level import ByteLM, check_byte_map

# After every added token these put a space of their own.
SPACING = ("prefix space", "llama2", "metaspace always")
FREE = [name for name in TOKENIZERS if name not in SPACING]
PAIRS = [(name, added) for place, added in enumerate(ADDED) for name in {"gpt2", FREE[place % len(FREE)]}]


def byte_lm(tokenizer, **options):
    size = tokenizer.get_vocab_size()
    return ByteLM(hashed_model(size + 1), tokenizer, eos_token_ids=[size], **options)


def beginnings(added, count):
    atoms = atoms_of(added)
    texts = {"".join(some) for length in (1, 2) for some in itertools.product(atoms, repeat=length)}
    return random.Random(added).sample(sorted(texts - {""}), count)


def covers(lm, text):
    """None where it is refused."""
    try:
        return {cover.ids for cover in lm.covers(text)}
    except UserError:
        return None


@pytest.mark.parametrize(("name", "added"), sorted(PAIRS))
def test_texts_and_covers_are_what_the_tokenizer_writes(name, added):
    lm, texts = byte_lm(tokenizer_with(name, added)), encodings(name, added, 3)
    for text in random.Random(0).sample(sorted(texts), 30):
        assert lm.encode(text) == list(texts[text]), text
    written = sorted(text.encode() for text in texts)
    for start in beginnings(added, 5):
        expected, found = brute_covers(name, added, start.encode(), 3), covers(lm, start)
        if found is None:
            assert not expected, start
            continue
        assert expected <= found, start
        lead = len(lm.vocabulary.lead(start.encode()))
        for ids in found - expected:
            # None of the texts that go on from it has it.
            data = lm.vocabulary.decode(ids)[lead:]
            longer = [text for text in written if text.startswith(data) and len(text) >= len(data) + 2]
            assert data not in written or not longer, (start, ids)


@pytest.mark.parametrize(
    ("name", "added", "text", "words"),
    [
        ("gpt2", "special", "b ab", "the text holds 'ab', which the tokenizer writes as a special token"),
        ("gpt2", "special that strips", "<m>", "the text holds '<m>', which the tokenizer writes as a special token"),
        ("gpt2", "strips before", "a <m>", r"drops the white space before '<m>' \(lstrip\)"),
        ("gpt2", "strips after", "<m>\n", r"drops the white space after '<m>' \(rstrip\)"),
        ("gpt2", "strips both", "<m> ", r"drops the white space after '<m>' \(rstrip\)"),
        ("gpt2", "spelled as a token", "Ġa", "writes as the token that also stands for ' a'"),
        ("gemma", "none", "a▁b", "the text holds '▁', which the tokenizer reads as a space"),
        ("metaspace never", "tag", "▁", "the text holds '▁', which the tokenizer reads as a space"),
    ],
)  # fmt: skip
def test_what_no_tokens_have_the_bytes_of_is_refused(name, added, text, words):
    lm = byte_lm(tokenizer_with(name, added))
    with pytest.raises(UserError, match="no cover: .*" + words):
        lm.log_prob(text)


@pytest.mark.parametrize("name", SPACING)
def test_added_tokens_with_a_space_put_after_them_are_refused(name):
    with pytest.raises(UserError, match="puts a space of its own after every added token, and '<x>' is one"):
        byte_lm(tokenizer_with(name, "tag"))
    assert "'<x>'" in check_byte_map(tokenizer_with(name, "tag")).no_cover
    assert byte_lm(tokenizer_with(name, "special that strips")).log_prob("ab") < 0


def test_an_added_token_that_is_a_word_of_its_own_is_refused():
    tokenizer = Tokenizer.from_str(TOKENIZERS["gpt2"]().to_str())
    tokenizer.add_tokens([AddedToken("cat", single_word=True)])
    with pytest.raises(
        UserError, match=r"'cat' is cut out of a text only where it is a word of its own \(single_word\)"
    ):
        byte_lm(tokenizer)


@pytest.mark.parametrize("name", [*SPACING, "metaspace first"])
def test_the_space_before_a_text_is_the_tokenizers(name):
    tokenizer = tokenizer_with(name, "special that strips")
    lm, sentinel = byte_lm(tokenizer), tokenizer.token_to_id("<m>")
    for text in ("a", " a", "  a", "\na", "abc"):
        assert lm.encode(text) == tokenizer.encode(text).ids, text
        after = tokenizer.encode(f"<m>{text}").ids[1:] if not text[0].isspace() else None
        assert after is None or lm.encode(text, context_ids=[sentinel]) == after, text
    if name != "llama2":
        # It puts no space before a text that has one, so that these two have the same tokens.
        assert lm.log_prob(" a") == pytest.approx(lm.log_prob("a"))
    np.testing.assert_allclose(
        lm.prefix_log_probs(" ab")[1:], [lm.log_prob(each) for each in (" ", " a", " ab")]
    )


@pytest.mark.parametrize("name", ["composing", "gpt2", "gemma"])
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_longer_text_is_never_more_probable(name, data):
    lm = LMS[name]
    text = data.draw(st.lists(st.sampled_from(SNIPPETS), min_size=1, max_size=5).map("".join))
    log_probs = lm.prefix_log_probs(text)
    assert (np.diff(log_probs) <= 1e-9).all()
    place = data.draw(st.integers(0, len(text.encode())))
    assert lm.log_prob(text.encode()[:place]) == pytest.approx(log_probs[place], abs=1e-9)


LMS = {name: byte_lm(tokenizer_with(name, "runs of spaces")) for name in ("composing", "gpt2", "gemma")}
SNIPPETS = sorted({word for words in SCRIPTS.values() for word in words.split() if "\u0323" not in word} | {"  ", " ", "\n\n", "    "} - {"か゛"})  # fmt: skip


def test_composed_text_is_never_written_in_parts():
    lm, accent = (
        byte_lm(tokenizer_with("composing", "none"), invalid="renormalize"),
        "\N{COMBINING ACUTE ACCENT}",
    )
    with pytest.raises(UserError, match="is not composed"):
        lm.log_prob(f"e{accent}")
    after_e, after_x = (np.exp(lm.next_byte_logprobs(text.encode() + accent.encode()[:1])) for text in "ex")
    assert after_e[accent.encode()[1]] == 0.0 < after_x[accent.encode()[1]]
    stream = lm.stream("e")
    assert stream.leak == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "normalizer",
    [normalizers.Lowercase(), normalizers.NFKC(), normalizers.StripAccents(), normalizers.Replace("``", '"'),
     normalizers.Replace("a", "b"), normalizers.Strip(), normalizers.Prepend("x"), normalizers.BertNormalizer()],
    ids=lambda each: repr(each)[:24],
)  # fmt: skip
def test_a_normaliser_that_cannot_be_undone_is_refused(normalizer):
    tokenizer = Tokenizer.from_str(TOKENIZERS["gpt2"]().to_str())
    tokenizer.normalizer = normalizer
    with pytest.raises(
        UserError, match="which cannot be undone, so that no token sequence has the bytes of the text"
    ):
        byte_lm(tokenizer)


def test_the_self_test_compares_texts_that_hold_every_added_token():
    found = check_byte_map(tokenizer_with("gpt2", "runs of spaces"))
    assert found.is_sound
    assert found.cut == 3
    found = check_byte_map(tokenizer_with("gpt2", "strips before"))
    assert not found.is_sound
    assert " <m> " in {each.text for each in found.unlike}
    assert {"lstrip"} == {word for each in found.unlike for word in ("lstrip", "rstrip") if word in each.why}
    assert check_byte_map(tokenizer_with("gemma", "none")).unkept == "▁"


@pytest.mark.parametrize("name", every_real_tokenizer)
def test_real_tokenizers_agree_with_brute_force(name):
    found = check(name, real_backend(name), 1, verbose=True)
    assert sum(found[script] for script in SCRIPTS) == len(SCRIPTS)
    assert not found["WRONG"] + found["refused wrongly"]
    view = ByteVocabulary.from_tokenizer(real_backend(name))
    assert view.token_bytes[real_backend(name).token_to_id("a")] == b"a"
