"""A tokenized model as a model of bytes: against models whose texts are known, against brute force, and against itself."""

import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.decoding.byte_level.cutters import GOLDEN, TOKENIZERS, KnownTexts, byte_level, golden_lm
from tokenry.core.errors import UserError
from tokenry.decoding.byte_level.byte_lm import END, ByteLM

CHARACTERS = {"llama3": "at's 1\n", "o200k": "aT's 1\n", "right to left": "a 12", "deepseek": "a!漢 1"}
KNOWN = {
    name: KnownTexts(make(), CHARACTERS.get(name, "at's é"), longest=4) for name, make in TOKENIZERS.items()
}


@pytest.fixture(scope="module")
def model():
    return tiny.llama(
        vocab_size=430, hidden_size=16, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.5
    ).double()


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=byte_level("gpt2"), eos_token="<end>")


@functools.cache
def byte_lm(name, invalid="truncate"):
    return KNOWN[name].byte_lm(invalid=invalid)


@functools.cache
def bigram_lm(name, invalid):
    """A model that says anything, what its tokenizer never writes too."""
    tokenizer = TOKENIZERS[name]()
    size = tokenizer.get_vocab_size()
    table = (
        torch.randn(size + 1, size + 1, generator=torch.Generator().manual_seed(0)).double().log_softmax(-1)
    )
    return ByteLM(
        lambda some: table[[ids[-1] if ids else size for ids in some]],
        tokenizer,
        invalid,
        eos_token_ids=[size],
    )


def beginnings(name):
    """Beginnings of texts, inside characters too."""
    return st.sampled_from(list(KNOWN[name].texts)).flatmap(
        lambda text: st.integers(1, len(text)).map(lambda length: text[:length])
    )


@pytest.mark.parametrize("invalid", ["truncate", "renormalize", "all"])
@pytest.mark.parametrize(
    "name", [name for name in TOKENIZERS if "space" not in name and name != "sentencepiece"]
)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_probabilities_of_bytes_are_those_of_the_texts(name, invalid, data):
    known, start, lm = KNOWN[name], data.draw(beginnings(name)), byte_lm(name, invalid)
    assert lm.log_prob(start) == pytest.approx(np.log(known.prefix(start)), abs=1e-9)
    np.testing.assert_allclose(np.exp(lm.next_byte_logprobs(start)), known.next_bytes(start), atol=1e-9)


@pytest.mark.parametrize("name", ["sentencepiece", "metaspace", "metaspace, cut"])
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_space_that_a_tokenizer_puts_before_a_text_is_not_the_texts_own(name, data):
    known, start, lm = KNOWN[name], data.draw(beginnings(name)), byte_lm(name)
    assert lm.log_prob(b"") == 0.0
    assert lm.log_prob(start) == pytest.approx(np.log(known.prefix(start)), abs=1e-9)
    np.testing.assert_allclose(np.exp(lm.next_byte_logprobs(start)), known.next_bytes(start), atol=1e-9)


@pytest.mark.parametrize("validate", ["pairwise", "reencode", "none"])
def test_every_way_to_validate_is_exact_for_a_model_that_writes_only_valid_tokens(validate):
    known = KnownTexts(byte_level("gpt2", 300), "at' é", longest=3)
    lm = known.byte_lm(validate=validate)
    for start in (b"t'", b"a\xc3"):
        np.testing.assert_allclose(np.exp(lm.next_byte_logprobs(start)), known.next_bytes(start), atol=1e-9)


@pytest.mark.parametrize(
    "name", ["none", "gpt2", "llama3", "right to left", "sentencepiece", "metaspace, cut"]
)
@settings(max_examples=6, deadline=None)
@given(text=st.text("at 1é'", max_size=6))
def test_renormalized_bytes_are_exactly_consistent(name, text):
    stream = bigram_lm(name, "renormalize").stream(b"t")
    for byte in text.encode():
        before, following = stream.log_prob, stream.next_logprobs()
        assert stream.leak == pytest.approx(0.0, abs=1e-9)
        stream.push(byte)
        assert stream.log_prob == pytest.approx(before + following[byte], abs=1e-9)


@pytest.fixture(scope="module", params=["truncate", "renormalize"])
def lm_of_transformer(model, tokenizer, request):
    return ByteLM(model, tokenizer, request.param, context_ids=[3], eos_token_ids=[2])


@settings(max_examples=8, deadline=None)
@given(text=st.text("at 1é'.", min_size=1, max_size=10))
def test_a_stream_is_where_a_text_from_scratch_is(lm_of_transformer, text):
    lm, data = lm_of_transformer, text.encode()
    stream, log_probs = lm.stream(), []
    for byte in data:
        assert np.exp(stream.next_logprobs()).sum() == pytest.approx(1.0)
        stream.push(byte)
        log_probs.append(stream.log_prob)
    whole = lm.stream(data)
    assert stream.log_prob == pytest.approx(whole.log_prob, abs=1e-9)
    assert [cover.ids for cover in stream.covers()] == [cover.ids for cover in whole.covers()]
    np.testing.assert_allclose(stream.next_logprobs(), whole.next_logprobs(), atol=1e-9)
    np.testing.assert_allclose(lm.prefix_log_probs(data)[1:], log_probs, atol=1e-9)


def test_a_transformer_agrees_with_an_enumeration_of_all_covers(model, tokenizer):
    lm, text = ByteLM(model, tokenizer, "all", context_ids=[3], eos_token_ids=[2]), b"cat i"
    view = lm.vocabulary

    def log_prob(ids):
        logits = model(input_ids=torch.tensor([[3, *ids]])).logits[0].log_softmax(-1)
        return logits[range(len(ids)), list(ids)].sum().item()

    def enumerate_covers(ids, done):
        for token in range(len(view.token_bytes)):
            data = view.token_bytes[token] or b""
            rest = text[done:]
            if data.startswith(rest):
                yield (*ids, token)
            elif data and rest.startswith(data):
                yield from enumerate_covers((*ids, token), done + len(data))

    with torch.no_grad():
        expected = {ids: log_prob(ids) for ids in enumerate_covers((), 0)}
    found = {cover.ids: cover.log_prob for cover in lm.covers(text)}
    assert found.keys() == expected.keys()
    for ids, value in expected.items():
        assert found[ids] == pytest.approx(value, abs=1e-9)
    assert lm.log_prob(text) == pytest.approx(np.logaddexp.reduce(list(expected.values())), abs=1e-9)


def test_each_text_of_a_batch_is_as_it_is_alone(model, tokenizer):
    texts = [b"the c", b"", b"isn'", b"caf\xc3", b"12 3"]
    together = ByteLM(model, tokenizer, context_ids=[3]).next_byte_logprobs(texts)
    alone = ByteLM(model, tokenizer, context_ids=[3])
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(row, alone.next_byte_logprobs(text), atol=1e-9)


def test_a_text_costs_one_forward_pass_and_each_further_byte_at_most_one(model, tokenizer):
    passes = []
    lm = ByteLM(model, tokenizer, context_ids=[3])
    hook = model.model.register_forward_pre_hook(lambda *given: passes.append(given))
    stream = lm.stream(b"the cat sat on the m")
    stream.next_logprobs()
    assert len(passes) == 1
    for number, byte in enumerate(b"at, is", 2):
        stream.push(byte)
        stream.next_logprobs()
        assert len(passes) <= number
    hook.remove()


def test_as_long_as_the_likeliest_token_is_spelled_there_is_no_second_pass(model, tokenizer):
    lm = ByteLM(model, tokenizer, context_ids=[3])
    stream = lm.stream(b"the cat sat on the ")
    stream.next_logprobs()
    (ending,) = stream._endings
    longer = np.where(lm.vocabulary.lengths > 2, ending.next.tokens, -np.inf)
    first = int(lm.vocabulary.first_bytes[longer.argmax()])
    stream.push(first)
    likely = max(stream._reaching, key=lambda each: each.log_probs.max())
    token = lm.vocabulary.token_bytes[int(likely.ids[likely.log_probs.argmax()])]
    passes = []
    hook = model.model.register_forward_pre_hook(lambda *given: passes.append(given))
    for byte in token[likely.inside :]:
        stream.next_logprobs()
        stream.push(byte)
    found = stream.next_logprobs()
    hook.remove()
    assert len(passes) == 1
    np.testing.assert_allclose(found, lm.next_byte_logprobs(stream.text), atol=1e-5)


def test_forks_go_their_own_ways(model, tokenizer):
    lm = ByteLM(model, tokenizer, context_ids=[3])
    one = lm.stream(b"the ca")
    other = one.fork()
    one.push(ord("t"))
    other.push(ord("r"))
    assert (one.text, other.text) == (b"the cat", b"the car")
    assert other.log_prob == pytest.approx(lm.log_prob(b"the car"), abs=1e-9)


def test_context_tokens_come_before_the_text_and_are_never_merged_with_it(model, tokenizer):
    lm = ByteLM(model, tokenizer, eos_token_ids=[2], context_ids=[3])
    assert lm.log_prob(b"", context_ids=[5, 7]) == 0.0
    other = ByteLM(model, tokenizer, eos_token_ids=[2], context_ids=[5, 7])
    np.testing.assert_allclose(
        lm.next_byte_logprobs(b"th", context_ids=[5, 7]), other.next_byte_logprobs(b"th"), atol=1e-9
    )
    assert all(cover.ids[:2] != (5, 7) for cover in lm.covers(b"th", context_ids=[5, 7]))


def test_the_end_of_a_text_is_any_of_its_end_tokens(model, tokenizer):
    ends = [ByteLM(model, tokenizer, context_ids=[3], eos_token_ids=ids) for ids in ([2], [4], [2, 4])]
    masses = [lm.next_token_logprobs([[]])[0, -1] for lm in ends]
    assert masses[2] == pytest.approx(np.logaddexp(*masses[:2]))


def test_tokens_of_equal_bytes_count_once():
    tokenizer = TOKENIZERS["sentencepiece"]()
    view = ByteLM(KNOWN["sentencepiece"], tokenizer, eos_token_ids=[0]).vocabulary
    piece, fallback = tokenizer.token_to_id("t"), tokenizer.token_to_id("<0x74>")
    assert view.token_bytes[piece] == view.token_bytes[fallback] == b"t"
    lm = ByteLM(
        lambda some: torch.zeros(len(some), len(view.token_bytes)).log_softmax(-1),
        tokenizer,
        eos_token_ids=[0],
    )
    covers = [cover.ids[-1] for cover in lm.covers(b"ct")]
    assert piece in covers
    assert fallback not in covers


def test_the_wrong_bytes_are_named_with_their_place():
    lm = golden_lm(GOLDEN["cases"][0], "truncate")
    with pytest.raises(
        UserError, match=r"no cover: byte 0x7A at position 3 cannot be produced \(no token holds it\)"
    ):
        lm.log_prob(b"thez")
    stream = lm.stream(b"the")
    with pytest.raises(UserError, match="no cover: byte 0x7A at position 3"):
        stream.push(0x7A)
    assert stream.text == b"the"
    assert stream.log_prob == pytest.approx(lm.log_prob(b"the"))


def test_bytes_that_are_no_text_have_no_cover_where_the_tokenizer_looks_at_characters():
    lm = KNOWN["gpt2"].byte_lm()
    with pytest.raises(
        UserError, match=r"byte 0x61 at position 2 cannot be produced \(the tokenizer never writes it"
    ):
        lm.log_prob(b"a\xc3a")


def test_probability_zero_is_an_error_that_names_the_place():
    known = KNOWN["gpt2"]
    with pytest.raises(UserError, match="probability zero to every cover of the first 3 bytes"):
        known.byte_lm().log_prob(b"aazz")
    silent = ByteLM(
        lambda some: torch.full((len(some), 421), -torch.inf), byte_level("gpt2"), eos_token_ids=[420]
    )
    with pytest.raises(UserError, match="probability zero to every byte at position 0"):
        silent.next_byte_logprobs(b"")


def test_half_a_character_in_a_str_is_refused():
    lm = KNOWN["gpt2"].byte_lm()
    with pytest.raises(UserError, match=r"a piece of a character .* which a str cannot: give bytes"):
        lm.log_prob(b"caf\xc3".decode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"ends in U\+FFFD, .* give the bytes themselves"):
        lm.log_prob(b"caf\xc3".decode(errors="replace"))


def test_whole_characters_are_taken_as_their_bytes():
    lm = KNOWN["gpt2"].byte_lm()
    assert lm.log_prob("aé") == lm.log_prob("aé".encode())


def test_a_tokenizer_that_changes_bytes_is_refused():
    tokenizer = Tokenizer.from_str(byte_level("gpt2").to_str())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    with pytest.raises(UserError, match=r"rewrites a text before it cuts it \(NFKC, Lowercase\)"):
        ByteLM(lambda some: torch.zeros(len(some), 421), tokenizer)


def test_a_tokenizer_that_composes_characters_takes_composed_text_only():
    tokenizer = Tokenizer.from_str(byte_level("gpt2").to_str())
    tokenizer.normalizer = normalizers.NFC()
    lm = ByteLM(lambda some: torch.zeros(len(some), 421).log_softmax(-1), tokenizer, eos_token_ids=[420])
    assert lm.log_prob("é") < 0
    with pytest.raises(UserError, match=r"give unicodedata\.normalize"):
        lm.log_prob("e\N{COMBINING ACUTE ACCENT}")


def test_a_pre_tokenizer_that_drops_white_space_is_refused():
    tokenizer = Tokenizer.from_str(byte_level("gpt2").to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(UserError, match="the pre-tokenizer drops characters"):
        ByteLM(lambda some: torch.zeros(len(some), 421), tokenizer)


def test_a_unigram_tokenizer_is_for_all_cuts_only():
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("ab", -1.5)], unk_id=0))

    def uniform(some):
        return torch.zeros(len(some), 5).log_softmax(-1)

    with pytest.raises(UserError, match="is a Unigram model"):
        ByteLM(uniform, tokenizer, eos_token_ids=[4])
    lm = ByteLM(uniform, tokenizer, invalid="all", eos_token_ids=[4])
    assert sorted(cover.ids for cover in lm.covers(b"ab")) == [(1, 2), (3,)]


def test_all_cuts_of_a_long_text_are_too_many_and_said_to_be(monkeypatch):
    monkeypatch.setattr("tokenry.decoding.byte_level.covers._MOST_SEQUENCES", 100)
    lm = KNOWN["none"].byte_lm(invalid="all")
    with pytest.raises(UserError, match="all cuts of a long text are too many"):
        lm.log_prob(b"the cat sat on the mat, isn't it?  We're there now" * 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"invalid": "drop"}, "invalid must be one of truncate, renormalize, all"),
        ({"validate": "never"}, "validate must be one of pairwise, reencode, none"),
    ],
)
def test_an_unknown_choice_is_named(options, words):
    with pytest.raises(UserError, match=words):
        KNOWN["gpt2"].byte_lm(**options)


def test_a_model_with_too_few_tokens_is_refused(tokenizer):
    lm = ByteLM(lambda some: torch.zeros(len(some), 7).log_softmax(-1), byte_level("gpt2"), eos_token_ids=[6])
    with pytest.raises(UserError, match="the model knows 7 tokens and the tokenizer 383"):
        lm.log_prob(b"a")


def test_an_end_that_the_model_does_not_know_is_refused():
    lm = ByteLM(
        lambda some: torch.zeros(len(some), 400).log_softmax(-1), byte_level("gpt2"), eos_token_ids=[400]
    )
    with pytest.raises(UserError, match="the model knows 400 tokens and the tokenizer 401"):
        lm.next_token_logprobs([[3]])


def test_a_context_of_unknown_tokens_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="context_ids holds 9999, which is no token: ids go from 0 to"):
        ByteLM(model, tokenizer, context_ids=[9999])
    with pytest.raises(UserError, match="context_ids holds -1, which is no token"):
        ByteLM(model, tokenizer, context_ids=[3]).log_prob(b"a", context_ids=[5, -1])


def test_a_model_that_needs_a_token_before_the_text_says_so(model):
    lm = ByteLM(model, byte_level("gpt2"), eos_token_ids=[2])
    with pytest.raises(UserError, match="needs a token before the text"):
        lm.next_byte_logprobs(b"")


def test_a_byte_is_a_byte():
    stream = KNOWN["gpt2"].byte_lm().stream()
    with pytest.raises(UserError, match="a byte is a number from 0 to 255, got 256"):
        stream.push(END)


def test_any_byte_string_has_a_probability_without_a_pre_tokenizer():
    lm = golden_lm(GOLDEN["cases"][2], "renormalize")
    total = sum(np.exp(lm.log_prob(bytes(some))) for some in itertools.product([0x63, 0xC3, 0xA9], repeat=2))
    assert 0 < total < 1


def test_a_model_of_bytes_and_its_streams_say_what_they_are(model, tokenizer):
    lm = KNOWN["gpt2"].byte_lm()
    title = f"KnownTexts, BPE tokenizer, {len(lm.vocabulary.token_bytes)} ids"
    assert repr(lm) == f"ByteLM({title}, invalid='truncate', validate='pairwise')"
    assert repr(lm.stream(b"a\xc3")) == f"ByteStream(b'a\\xc3', 1 cover, {title})"
    assert repr(lm.stream(b"a")) == f"ByteStream(b'a', {len(lm.covers(b'a'))} covers, {title})"
    model.name_or_path = "somebody/small-model"
    lm = ByteLM(model, tokenizer, invalid="all")
    assert repr(lm).startswith("ByteLM(small-model, BPE tokenizer, ")
    assert repr(lm.stream(50 * b"a")).startswith("ByteStream(b'..." + 40 * "a" + "', ")
