"""What is said of tokenizers holds for those that people really use, on random texts of many scripts."""

import random
from functools import cache

import pytest

from tests.real_tokenizers import every_real_tokenizer, real_backend, real_tokenizer
from tests.tiny.tokenizers import byte_level
from tokenry.core.text.round_trip import comes_back, round_trip
from tokenry.tokenization.segmentation import TokenCutter
from tokenry.tokenization.training import extend_to_superwords
from tokenry.tokenization.transfer.transplant import match_vocabularies
from tokenry.tokenization.written import WrittenVocabulary

BYTE_LEVEL = [each for each in every_real_tokenizer if each.values[0] in ("deepseek_v3", "gpt_neox")]
SMALL = [each for each in every_real_tokenizer if each.values[0] in ("gpt_neox", "llama2")]
# A run of each script, white space of every kind, and what real tokenizers list as added tokens.
SCRIPTS = (
    "the cat Sat on12 345 def f(x):",
    "Быстрая лисица прыгает",
    "中文字符測試東京タワー",
    "مرحبا بالعالم",
    "अनुच्छेद १ सभी",
    "สวัสดีชาวโลก",
    "안녕하세요 세계",
    "👩‍👩‍👧🤷🏽∑≠½",
)
BETWEEN = (
    " ",
    "  ",
    "   ",
    "    ",
    "\n",
    "\n\n",
    "\n\n\n",
    "\t",
    "\t\t",
    "\r\n",
    "<s>",
    "<|endoftext|>",
    "<unused0>",
    "",
)


@cache
def random_texts(number=600, seed=0):
    generator = random.Random(seed)

    def part():
        script = generator.choice(SCRIPTS)
        start = generator.randrange(len(script))
        return script[start : start + generator.randint(1, 7)] + generator.choice(BETWEEN)

    return ["".join(part() for _ in range(generator.randint(1, 8))) for _ in range(number)]


@pytest.mark.parametrize("name", every_real_tokenizer)
def test_random_texts_come_back_and_their_pieces_are_the_texts(name):
    tokenizer, texts = real_backend(name), random_texts()
    assert round_trip(tokenizer, texts).gives_back
    cutter = TokenCutter(tokenizer)
    for text in texts[:200]:
        assert b"".join(piece.data for piece in cutter.cut(text)) == text.encode()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(*each.values, text, marks=each.marks)
        for each in SMALL
        for text in ({"llama2": "a▁b", "gpt_neox": "e\u0301"}[each.values[0]],)
    ],
)
def test_what_a_real_tokenizer_changes_is_said(name, text):
    assert comes_back(real_backend(name), [text]) == [False]


@pytest.mark.parametrize("name", SMALL)
def test_nothing_that_is_written_on_random_texts_is_never_written(name):
    tokenizer = real_backend(name)
    never = WrittenVocabulary.of(tokenizer).never
    assert never
    encoded = tokenizer.encode_batch_fast(list(random_texts()), add_special_tokens=False)
    assert not never.intersection(number for each in encoded for number in each.ids)


@pytest.mark.parametrize("name", SMALL)
def test_a_new_token_equals_the_one_that_the_real_tokenizer_writes(name):
    old = real_tokenizer(name)
    new = byte_level(["a    b  c   d\n\n  e the cat 東京"] * 9, 330)
    matched = match_vocabularies(old, new)
    shared = [number for number in matched.copied.tolist() if matched.new_texts[number]]
    assert len(shared) > 100
    # Between signs no tokenizer puts a space.
    for number in shared:
        text = matched.new_texts[number]
        written = old.backend_tokenizer.encode(f"({text})", add_special_tokens=False).ids
        whole = old.backend_tokenizer.encode(text, add_special_tokens=False).ids
        if len(whole) == 1 and matched.old_bytes.token_bytes[whole[0]] == text.encode():
            assert int(matched.shared[number]) == whole[0]
        elif text.strip() and len(written) == 3:
            assert int(matched.shared[number]) in written
    assert not {int(each) for each in matched.shared[matched.shared_written]} & matched.old_never


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_superwords_go_on_from_a_real_tokenizer(name):
    tokenizer = real_backend(name)
    size = tokenizer.get_vocab_size()
    texts = [f"the best of the rest  {SCRIPTS[1]}\n    return x"] * 9
    extended = extend_to_superwords(tokenizer, texts, size + 4)
    before, after = tokenizer.get_vocab(), extended.get_vocab()
    assert before.items() <= after.items()
    assert sorted(after.values())[-1] == size + 3
    assert round_trip(extended, [*texts, *random_texts()]).gives_back
