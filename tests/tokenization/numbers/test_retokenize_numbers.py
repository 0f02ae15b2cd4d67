"""Numbers of an existing tokenizer are regrouped, nothing else is, and the result is saved and loaded as any other tokenizer."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, ByT5Tokenizer, GPT2Config, GPT2Tokenizer, PreTrainedTokenizerFast

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import BYTE_CHARACTERS, to_byte_characters
from tokenry.core.text.digit_groups import group_digits
from tokenry.core.text.number_tokens import all_numbers, digit_cuts, number_token_ids
from tokenry.tokenization.numbers.retokenize_numbers import retokenize_numbers, whole_numbers

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = [
    "th",
    "the",
    "Ġt",
    "Ġth",
    "Ġthe",
    "ca",
    "cat",
    "ĠĠ",
    "ĠĠĠ",
    "ĠĠĠĠ",
    "Ċ",
    "ĊĊ",
    ".Ċ",
    "=Ċ",
    "Ġ=",
    "Ġ+",
]

texts = st.text(st.sampled_from("0123456789.,-+= \n\tacehté½٣"), max_size=60)


def number_merges(group=3):
    """All numbers of up to so many digits, made of whatever parts come first."""
    numbers = list(all_numbers(group))
    return [(number[:place], number[place:]) for number in numbers for place in range(1, len(number))]


def byte_level(*steps, group=3, merges=None):
    """A byte-pair tokenizer with numbers of up to `group` digits and a few words."""
    pairs = number_merges(group) if merges is None else merges
    pairs = pairs + [(word[:-1], word[-1]) for word in WORDS if len(word) > 1]
    tokens = dict.fromkeys(["<s>", "<pad>", *BYTE_CHARACTERS, *(left + right for left, right in pairs)])
    tokenizer = Tokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, _made(pairs, tokens))
    )
    tokenizer.add_special_tokens(["<s>", "<pad>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _made(pairs, tokens):
    return [pair for pair in dict.fromkeys(pairs) if pair[0] in tokens and pair[1] in tokens]


def gpt4_like(**options):
    return byte_level(
        pre_tokenizers.Split(Regex(CL100K), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        **options,
    )


KINDS = {
    "GPT-4": gpt4_like,
    "tiktoken converted": lambda: byte_level(
        pre_tokenizers.Split(Regex(CL100K), "removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ),
    "GPT-2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "Qwen": lambda: byte_level(
        pre_tokenizers.Split(Regex(CL100K.replace("{1,3}", "")), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ),
    "SmolLM": lambda: byte_level(
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    ),
    "look-ahead": lambda: byte_level(
        pre_tokenizers.Split(Regex(r"\d{1,3}(?=(?:\d{3})*(?!\d))"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    """A tokenizer before and after."""
    old = KINDS[request.param]()
    return old, retokenize_numbers(old)


def ends(tokenizer, text):
    """The bytes of a text after which a token ends."""
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    assert "".join(tokens) == to_byte_characters(text.encode())
    return {sum(map(len, tokens[: number + 1])) for number in range(len(tokens))}


def test_numbers_are_cut_from_the_right(pair):
    _, new = pair
    for number in ("7", "1234", "1234567", "0007", "9" * 200):
        assert digit_cuts(new, number) == [piece for piece, _, _ in group_digits(number)]


@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_text_around_numbers_keeps_its_tokens(pair, text):
    old, new = pair
    before, after = ends(old, text), ends(new, text)
    runs = [run.span() for run in re.finditer(b"[0-9]+", text.encode())]
    touching = {place for start, end in runs for place in range(start, end + 1)}
    assert before - touching == after - touching


@settings(max_examples=40, deadline=None)
@given(text=texts)
def test_tokens_in_numbers_end_where_groups_do(pair, text):
    found = ends(pair[1], text)
    for start, end in (run.span() for run in re.finditer(b"[0-9]+", text.encode())):
        groups = group_digits(text.encode()[start:end].decode())
        assert {place for place in found if start < place <= end} == {start + stop for _, _, stop in groups}
        assert start == 0 or start in found


def test_the_vocabulary_stays_and_the_old_tokenizer_is_not_touched(pair):
    old, new = pair
    before = digit_cuts(old, "1234567")
    retokenize_numbers(old, "single")
    assert digit_cuts(old, "1234567") == before
    assert new.get_vocab() == old.get_vocab()


@pytest.mark.parametrize(
    ("mode", "group", "cuts"),
    [
        ("l2r", 3, ["123", "456", "7"]),
        ("r2l", 2, ["1", "23", "45", "67"]),
        ("single", 3, [*"1234567"]),
        ("r2l", 1, [*"1234567"]),
    ],
)
def test_every_grouping_can_be_had_from_every_other(pair, mode, group, cuts):
    _, new = pair
    assert digit_cuts(retokenize_numbers(new, mode, group), "1234567") == cuts


def test_it_is_loaded_as_it_was_saved_even_where_the_old_class_makes_its_own_pre_tokenizer(tmp_path):
    backend = KINDS["GPT-2"]()
    model = backend.to_str()
    old = GPT2Tokenizer(
        vocab=backend.get_vocab(with_added_tokens=False),
        merges=[tuple(pair) for pair in _merges(model)],
        bos_token="<s>",
        eos_token="<s>",
        unk_token="<s>",
        pad_token="<pad>",
    )
    old.chat_template = "{{ messages[0]['content'] }}"
    old.padding_side = "left"
    old.model_max_length = 77
    new = retokenize_numbers(old)
    GPT2Config().save_pretrained(tmp_path)
    new.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.tokenize("is 1234567") == new.tokenize("is 1234567") == ["i", "s", "Ġ", "1", "234", "567"]
    assert (loaded.bos_token, loaded.pad_token) == ("<s>", "<pad>")
    assert (loaded.padding_side, loaded.model_max_length) == ("left", 77)
    assert loaded.chat_template == old.chat_template


def _merges(state):
    return json.loads(state)["model"]["merges"]


def test_what_is_put_around_a_text_stays(tmp_path):
    backend = gpt4_like()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    old = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<pad>")
    retokenize_numbers(old).save_pretrained(tmp_path)
    ids = AutoTokenizer.from_pretrained(tmp_path)("1234567")["input_ids"]
    assert ids[0] == 0
    assert backend.decode(ids) == "1234567"
    assert len(ids) == 4


def test_a_sentencepiece_tokenizer_is_regrouped_too():
    tokens = ["<unk>", "▁", *(number for number in all_numbers(2)), "a"]
    old = Tokenizer(
        models.BPE(
            {token: number for number, token in enumerate(tokens)}, number_merges(2), unk_token="<unk>"
        )
    )
    old.add_special_tokens(["<unk>"])
    old.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    old.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    new = retokenize_numbers(old, "r2l", 2)
    assert new.encode("12345 a").tokens == ["▁", "1", "23", "45", "▁", "a"]
    assert new.decode(new.encode("12345 a").ids) == "12345 a"


@pytest.mark.parametrize(
    ("pattern", "rewritten"),
    [
        (
            r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+",
            r"\p{L}+|(?:[0-9]+|(?:(?![0-9])\p{N}){1,3})| ?[^\s\p{L}\p{N}]+",
        ),
        (r" ?\p{N}+|\s+", r" ?\p{N}+|\s+"),
        (r"a|\d", r"a|(?:[0-9]+|(?:(?![0-9])\d))"),
        (r"\\d|x", r"\\d|x"),
        (r"\d{1,3}(?!\d)", r"[0-9]+|(?:(?:(?![0-9])\d){1,3}(?!(?:(?![0-9])\d)))"),
    ],
)
def test_patterns_are_made_to_leave_numbers_whole(pattern, rewritten):
    assert whole_numbers(pattern) == rewritten


def test_ids_of_numbers_are_those_of_the_vocabulary():
    tokenizer = gpt4_like()
    ids = number_token_ids(tokenizer, 3)
    assert len(ids) == 1110
    assert ids["007"] == tokenizer.token_to_id("007")


def word_piece():
    tokens = ["[UNK]", *all_numbers(2), *(f"##{number}" for number in all_numbers(2)), "a", "th", "##e"]
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["[UNK]"])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    return tokenizer


def unreachable():
    """`100` is a token, but `00` is made first, and nothing makes `1` and `00` one."""
    return gpt4_like(merges=[(left, right) for left, right in number_merges() if len(right) == 1])


def spaced():
    """Numbers of more than one digit with a space before them only."""
    merges = [("Ġ", digit) for digit in "0123456789"]
    merges += [(f"Ġ{first}", second) for first in "0123456789" for second in "0123456789"]
    return byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), merges=merges)


@pytest.mark.parametrize(
    ("tokenizer", "group", "words"),
    [
        (lambda: gpt4_like(merges=[]), 3, "reads numbers digit by digit and there is nothing to regroup"),
        (lambda: gpt4_like(merges=[]), 3, "lacks 1,100 of the 1,110 numbers of 1 to 3 digits (00, 01, 02, …)"),
        (lambda: gpt4_like(group=2), 3, "lacks 1,000 of the 1,110 numbers of 1 to 3 digits (000, 001, 002, …): give group=2"),
        (lambda: gpt4_like(merges=number_merges(2)[:50]), 2, "incomplete, so it can be cut digit by digit only"),
        (spaced, 2, "it knows longer ones with a space before them only"),
        (gpt4_like, 0, "group must be at least 1, got 0"),
        (lambda: Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), 1, "give a tokenizer with a token for every digit"),
        (unreachable, 3, "the model cuts them even where they stand alone, so groups would be cut again"),
        (lambda: Tokenizer(models.WordLevel({str(digit): digit for digit in range(10)})), 1, "this tokenizer cannot encode"),
        (word_piece, 2, "put separators into the text instead, with format_number"),
    ],
)  # fmt: skip
def test_what_cannot_be_regrouped_is_refused_in_one_sentence(tokenizer, group, words):
    with pytest.raises(UserError, match=re.escape(words)):
        retokenize_numbers(tokenizer(), "r2l", group)


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(UserError, match="mode must be one of l2r, r2l, single, got 'rtl'"):
        retokenize_numbers(gpt4_like(), "rtl")


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(UserError, match="ByT5Tokenizer is a slow tokenizer"):
        retokenize_numbers(ByT5Tokenizer())
