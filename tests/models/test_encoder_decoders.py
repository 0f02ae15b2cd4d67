"""Text out of models that read their prompts in an encoder: the contract of `LocalText` for T5 and BART, and who refuses them."""

import pytest
import torch
from scipy.stats import chisquare
from transformers import MT5Config, MT5ForConditionalGeneration

from tests import tiny
from tests.tiny.tokenizers import character_tokenizer, word_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.tensors.step_loop import TokenByToken
from tokenry.decoding import Cascade, EntropyRule, RoutedDecoding, prompt_embeddings
from tokenry.models import LocalText, Sampling, load_model

PROMPTS = ["w3 w4 w5", "w9", "w1 w2 w3 w4 w5 w6", "w20 w21"]
NINE = Sampling(max_new_tokens=9)


def mt5():
    settings = {**tiny.t5().config.to_dict(), "architectures": None, "model_type": "mt5"}
    return tiny.made(MT5ForConditionalGeneration, MT5Config(**settings))


MODELS = {"t5": tiny.t5, "mt5": mt5, "bart": tiny.bart}


@pytest.fixture(params=MODELS)
def words(request):
    return LocalText(MODELS[request.param](), word_tokenizer(), batch_size=4)


def test_a_batch_is_its_rows_one_by_one_and_those_of_generate(words):
    together = words.generate(PROMPTS, NINE)
    before = words.model.generation_config.to_dict()
    for prompt, text in zip(PROMPTS, together, strict=True):
        alone = words.generate([prompt], NINE)[0]
        assert alone.text == text.text
        assert alone.log_probs == pytest.approx(text.log_probs, abs=1e-3)
        ids = words.tokenizer(prompt, return_tensors="pt")["input_ids"]
        own = words.model.generate(ids, max_new_tokens=12, do_sample=False)[0, 1:10]
        assert words.tokenizer.decode(own, skip_special_tokens=True) == text.text
        assert text.prompt_tokens == ids.shape[1]
    assert words.model.generation_config.to_dict() == before


def test_log_probs_of_what_was_written_are_those_of_a_second_pass(words):
    for text in words.generate(PROMPTS, NINE):
        assert len(text.log_probs) == text.completion_tokens == 9
        assert text.finish_reason == "length", "no end is forced upon an answer that is cut off"
    answers = ["w7 w8", "w1", "w30 w31 w32", "w40"]
    found = words.log_probs(PROMPTS, answers)
    for prompt, answer, row in zip(PROMPTS, answers, found, strict=True):
        ids, labels = (words.tokenizer(text, return_tensors="pt")["input_ids"] for text in (prompt, answer))
        labels = torch.cat([labels, torch.tensor([[1]])], 1)
        logits = words.model(ids, labels=labels).logits.log_softmax(-1)
        assert row == pytest.approx(logits[0].gather(-1, labels[0][:, None])[:, 0].tolist(), abs=1e-3)
    written = words.generate(PROMPTS[:1], Sampling(max_new_tokens=4))[0]
    scored = words.log_probs(PROMPTS[:1], [written.text])[0][:-1]
    if len(scored) == len(written.log_probs):  # else a special token is no part of the text
        assert scored == pytest.approx(written.log_probs, abs=1e-3)


def test_a_decoder_only_model_scores_given_answers_too():
    words = LocalText(tiny.llama(initializer_range=0.5), word_tokenizer(), batch_size=4)
    found = words.log_probs(PROMPTS, ["w7 w8", "w1", "w30 w31 w32", "w40"])
    assert [len(row) for row in found] == [3, 2, 4, 2]
    ids = words.tokenizer("w3 w4 w5 w7 w8 <end>", return_tensors="pt")["input_ids"]
    due = words.model(ids).logits.log_softmax(-1)[0, 2:5].gather(-1, ids[0, 3:, None])[:, 0]
    assert found[0] == pytest.approx(due.tolist(), abs=1e-4)
    with pytest.raises(UserError, match="1 answers to 4 prompts: give one per prompt"):
        words.log_probs(PROMPTS, ["w1"])


def test_bfloat16_writes_and_scores(words):
    words.model.to(torch.bfloat16)
    texts = words.generate(PROMPTS, NINE)
    assert all(len(text.log_probs) == text.completion_tokens for text in texts)
    assert all(max(row) <= 0 for row in words.log_probs(PROMPTS, ["w1 w2"] * 4))


def test_an_end_ends_a_row_and_samples_are_drawn_again_by_their_seed(words):
    whole = words.generate(PROMPTS, NINE)
    end = words.tokenizer(whole[0].text.split()[1])["input_ids"][0]
    words.model.generation_config.eos_token_id = [1, end]
    ended = words.generate(PROMPTS, NINE)
    assert ended[0].completion_tokens < 9
    assert ended[0].finish_reason == "stop"
    for one, other in zip(whole, ended, strict=True):
        assert other.log_probs == pytest.approx(one.log_probs[: len(other.log_probs)], abs=1e-3)
    warm = Sampling(max_new_tokens=6, temperature=1.5, samples=3, seed=5)
    assert words.generate(PROMPTS[:2], warm) == words.generate(PROMPTS[:2], warm)


def test_a_conversation_is_read_as_one_text():
    words = LocalText(tiny.t5(vocab_size=len(character_tokenizer())), character_tokenizer())
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "the cat"}]
    assert words.generate([messages], NINE) == words.generate(["a\n\nthe cat"], NINE)


def test_a_prompt_that_is_too_long_for_the_encoder_is_refused():
    words = LocalText(tiny.bart(), word_tokenizer())
    with pytest.raises(
        UserError, match="a sample takes 41 positions and BartForConditionalGeneration has 40"
    ):
        words.generate(["w1 " * 41], Sampling(max_new_tokens=2))
    with pytest.raises(UserError, match="a sample takes 50 positions"):
        words.generate(["w1"], Sampling(max_new_tokens=50))
    assert words.generate(["w1 " * 40], Sampling(max_new_tokens=2))[0].prompt_tokens == 40


@pytest.mark.parametrize("make", [tiny.t5, tiny.bart])
def test_both_models_of_a_cascade_may_be_such(make):
    models = [LocalText(make(seed=seed), word_tokenizer(), name=f"m{seed}") for seed in range(2)]
    for threshold, number in ((-float("inf"), 0), (float("inf"), 1)):
        answers = Cascade(*models, "average", threshold).generate(PROMPTS, NINE)
        alone = models[number].generate(PROMPTS, NINE)
        assert [answer.text for answer in answers] == [text.text for text in alone]


@pytest.mark.parametrize("make", [tiny.t5, tiny.bart])
def test_embeddings_of_prompts_do_not_see_padding(make):
    small, large = make(), make(seed=1, d_model=16)
    ids = torch.tensor([[5, 9, 3, 0, 0], [7, 8, 30, 2, 11]])
    mask = (ids > 0).long()
    found = prompt_embeddings(small, large, ids, mask)
    assert found.shape == (2, 32 + 16)
    alone = prompt_embeddings(small, large, ids[:1, :3], mask[:1, :3])
    torch.testing.assert_close(found[:1], alone, atol=1e-4, rtol=1e-3)
    first = large.get_encoder()(input_ids=ids[1:], output_hidden_states=True).hidden_states[1].mean(1)
    torch.testing.assert_close(found[1:, 32:], first, atol=1e-4, rtol=1e-3)


def test_other_decoders_and_loaders_refuse_them_by_name(tmp_path):
    for name, model in (("T5", tiny.t5()), ("Bart", tiny.bart())):
        folder = tmp_path / name
        model.save_pretrained(folder)
        with pytest.raises(
            UserError, match=f"{name} is an encoder-decoder, which reads its prompt elsewhere"
        ):
            load_model(folder)
        loaded = load_model(folder, encoder_decoder=True)
        assert type(loaded) is type(model)
        assert all(map(torch.equal, loaded.parameters(), model.parameters()))
        ids = torch.tensor([[5, 6]])
        with pytest.raises(
            UserError, match=r"is an encoder-decoder, and RoutedDecoding needs a decoder-only"
        ):
            model.generate(ids, custom_generate=RoutedDecoding(model, model, EntropyRule()), max_new_tokens=2)


def test_sampling_has_the_distribution_of_the_model():
    model, ids, tokens = tiny.t5(), torch.tensor([[5, 9, 3]]), 4
    torch.manual_seed(0)
    found = model.generate(
        ids,
        custom_generate=TokenByToken(),
        do_sample=True,
        top_k=0,
        max_new_tokens=1,
        num_return_sequences=400,
        suppress_tokens=list(range(tokens, 64)),
    )
    with torch.no_grad():
        due = model(ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0, :tokens].double().softmax(-1)
    assert chisquare(found[:, 1].bincount(minlength=tokens), 400 * due).pvalue > 1e-3
