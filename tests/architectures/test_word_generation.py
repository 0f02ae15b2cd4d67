"""Generation with two caches says what the whole model says, in any batch; it draws what it should, and ends where it should."""

import pytest
import torch
from transformers import LlamaConfig

from tests.tiny.words import LONGEST, windows, word_pooled
from tokenry.architectures import WordSampling, generate_words
from tokenry.core.errors import UserError


def by_the_canvas(model, prompt, new_words):
    """The most probable words, the whole model run again for every unit."""
    words, longest = list(prompt), model.config.max_word_len
    for _ in range(new_words):
        word = []
        for place in range(longest):
            rows = [*words, word or [1]]
            table = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])[None]
            logits = model.canvas_logits(table, torch.tensor([[len(row) for row in rows]]))[0, -1, place]
            unit = int(logits[1:].argmax()) + 1 if place == 0 else int(logits.argmax())
            if unit == 0:
                break
            word.append(unit)
        words.append(tuple(word))
    return words[len(prompt) :]


LLAMA = LlamaConfig(
    vocab_size=3,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=40,
)


@pytest.mark.parametrize(
    "sizes", [{}, {"n_prefix": 1}, {"trunk_config": LLAMA}], ids=["gpt2", "one vector", "llama"]
)
def test_a_batch_writes_what_each_text_alone_would(sizes):
    model, prompts = word_pooled(seed=3, **sizes), windows(1, (5, 1, 3))
    together = generate_words(model, prompts, WordSampling(4, temperature=0))
    with torch.no_grad():
        assert together == [by_the_canvas(model, prompt, 4) for prompt in prompts]
    assert together == [
        generate_words(model, [prompt], WordSampling(4, temperature=0))[0] for prompt in prompts
    ]
    assert all(0 < len(word) <= LONGEST for text in together for word in text)


def test_samples_follow_their_seed_and_the_probabilities():
    model, prompts = word_pooled(seed=2), windows(2, (3,)) * 400
    one, same = (generate_words(model, prompts, WordSampling(1, seed=seed)) for seed in (1, 1))
    assert one == same
    assert one != generate_words(model, prompts, WordSampling(1, seed=2))
    drawn = [text[0] for text in one]
    likeliest = max(set(drawn), key=drawn.count)
    nll = model.score_words([[*prompts[0], likeliest]])[0][0][-1]
    assert drawn.count(likeliest) / len(drawn) == pytest.approx(float(torch.tensor(-nll).exp()), abs=0.08)


def test_a_text_ends_at_the_word_that_stops_it():
    model, prompts = word_pooled(seed=3), windows(1, (5, 1))
    free = generate_words(model, prompts, WordSampling(6, temperature=0))
    stop = free[0][2]
    stopped = generate_words(model, prompts, WordSampling(6, temperature=0, stop=stop))
    for text, whole in zip(stopped, free, strict=True):
        assert text == (whole[: whole.index(stop)] if stop in whole else whole)


@pytest.mark.parametrize(
    ("prompts", "sampling", "words"),
    [
        ([], {}, "a text goes on from at least one word"),
        ([[]], {}, "a text goes on from at least one word"),
        ([[(1,)]], {"max_new_words": 20}, "a prompt of 1 words and 20 new ones do not fit the 20 positions"),
        ([[(1,)]], {"max_new_words": 0}, "max_new_words must be at least 1, got 0"),
        ([[(1,)]], {"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
    ],
)
def test_what_cannot_go_on_is_refused(prompts, sampling, words):
    with pytest.raises(UserError) as error:
        generate_words(word_pooled(), prompts, WordSampling(**({"max_new_words": 2} | sampling)))
    assert words in str(error.value)
