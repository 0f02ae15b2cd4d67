"""Text out of a local model: the same as `generate`'s, with log-probs, counts and the reason of its end."""

import pytest
import torch

from tests import tiny
from tests.tiny.tokenizers import character_tokenizer, chatml_tokenizer, word_tokenizer
from tokenry.core.errors import UserError
from tokenry.models import Generated, LocalText, Sampling, TextModel, require_generated


@pytest.fixture(scope="module")
def words():
    return LocalText(tiny.llama(initializer_range=0.5), word_tokenizer(), batch_size=2)


@pytest.fixture(scope="module")
def letters():
    tokenizer = character_tokenizer()
    return LocalText(
        tiny.llama(vocab_size=len(tokenizer), initializer_range=0.5, pad_token_id=None, eos_token_id=1),
        tokenizer,
    )


PROMPTS = ["w3 w4 w5", "w9", "w1 w2 w3 w4 w5 w6", "w20 w21"]


def test_it_is_a_text_model(words):
    assert isinstance(words, TextModel)
    assert repr(words) == "<LocalText: LlamaForCausalLM>"


def test_no_prompts_have_no_texts(words):
    assert words.generate([]) == []


def test_greedy_texts_are_those_of_generate_one_by_one(words):
    found = words.generate(PROMPTS, Sampling(max_new_tokens=9))
    for prompt, text in zip(PROMPTS, found, strict=True):
        ids = words.tokenizer(prompt, return_tensors="pt")
        output = words.model.generate(**ids, max_new_tokens=9, do_sample=False)[
            0, ids["input_ids"].shape[1] :
        ]
        assert text.text == words.tokenizer.decode(output, skip_special_tokens=True)
        assert text.prompt_tokens == ids["input_ids"].shape[1]
        assert text.completion_tokens == len(output) == len(text.log_probs)
        assert text.finish_reason == ("stop" if output[-1] == 1 else "length")


def test_log_probs_are_of_the_model_whatever_the_temperature(words):
    sharp = words.generate(PROMPTS, Sampling(max_new_tokens=6))
    almost = words.generate(PROMPTS, Sampling(max_new_tokens=6, temperature=1e-4))
    for one, other in zip(sharp, almost, strict=True):
        assert one.text == other.text
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert words.generate(["w3"], Sampling(max_new_tokens=2, log_probs=False))[0].log_probs is None


def test_samples_stand_together_and_a_seed_draws_them_again(words):
    sampling = Sampling(max_new_tokens=6, temperature=1.5, samples=3, seed=5)
    before = torch.random.get_rng_state()
    found = words.generate(PROMPTS[:2], sampling)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found == words.generate(PROMPTS[:2], sampling)
    assert [text.prompt_tokens for text in found] == [3, 3, 3, 1, 1, 1]
    assert len({text.text for text in found[:3]}) > 1


def test_the_models_own_defaults_are_left_aside(words):
    plain = words.generate(PROMPTS, Sampling(max_new_tokens=6, temperature=1.5, seed=1))
    own = words.model.generation_config
    try:
        own.top_k, own.min_p, own.temperature, own.repetition_penalty = 1, 0.9, 0.1, 3.0
        assert words.generate(PROMPTS, Sampling(max_new_tokens=6, temperature=1.5, seed=1)) == plain
    finally:
        own.top_k = own.min_p = own.temperature = own.repetition_penalty = None


def test_a_stop_string_ends_the_text_and_is_no_part_of_it(letters):
    whole = letters.generate(["the cat"], Sampling(max_new_tokens=20))[0].text
    stop = whole[4:6]
    found = letters.generate(["the cat"], Sampling(max_new_tokens=20, stop=(stop,)))[0]
    assert found.text == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"
    assert found.completion_tokens < 20


def test_a_conversation_is_written_with_the_chat_template():
    tokenizer = chatml_tokenizer()
    chat = LocalText(
        tiny.llama(vocab_size=len(tokenizer), eos_token_id=2, pad_token_id=0), tokenizer, name="tiny chat"
    )
    messages = [{"role": "user", "content": "Yes or no?"}]
    written = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    sampling = Sampling(max_new_tokens=5)
    assert chat.generate([messages], sampling) == chat.generate([written], sampling)
    assert chat.name == "tiny chat"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"temperature": -0.5}, "temperature must be at least 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\]"),
        ({"stop": ("",)}, "stop holds an empty string"),
        ({"samples": 3}, "temperature 0 writes the same text 3 times"),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        Sampling(**options)


def test_prompts_that_cannot_be_read_are_refused(words, letters):
    with pytest.raises(UserError, match="prompt 1 has no tokens"):
        words.generate(["w3", ""])
    with pytest.raises(
        UserError, match="prompt 0 is a conversation and the tokenizer of LlamaForCausalLM has no chat"
    ):
        letters.generate([[{"role": "user", "content": "hello"}]])
    short = LocalText(tiny.gpt2(n_positions=8), word_tokenizer())
    with pytest.raises(UserError, match="a sample takes 12 positions and GPT2LMHeadModel has 8"):
        short.generate(["w3 w4 w5"], Sampling(max_new_tokens=10))


def test_a_missing_text_is_an_error_for_whoever_needs_it():
    good = Generated("yes", (-0.1,), 3, 1)
    require_generated([good, good])
    with pytest.raises(
        UserError, match=r"1 of 2 texts could not be written; the first, number 1: the server slept"
    ):
        require_generated([good, Generated("", None, 0, 0, "failed", "the server slept.")])
