"""ReAGent: the authors' numbers replayed draw by draw, what holds for any context, and what is refused."""

import json
from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tag.perceptron import PerceptronTagger
from torch import Generator
from transformers import GPT2Config, GPT2LMHeadModel

from tests import tiny
from tests.golden import golden_arrays
from tests.tiny.tokenizers import word_tokenizer
from tokenry.attribution import (
    ATTRIBUTIONS,
    Question,
    ReAGent,
    TargetProbability,
    attribute,
    parts_of_speech,
    reagent_update,
)
from tokenry.attribution.attribution import attribute_generated, own_predictions
from tokenry.attribution.reagent import (
    Draws,
    credits,
    keep_top,
    predicted_tokens,
    same_class_tokens,
    stratified_masks,
)
from tokenry.core.errors import UserError

NEAR = {"rtol": 1e-7, "atol": 1e-9}
REPLAYS = ("a", "b", "none")


def replay(name):
    return golden_arrays("29-reagent", f"dev-replay-{name}.npz")


def golden_model(arrays):
    config = GPT2Config(**json.loads(bytes(arrays["config_json"].numpy())), bos_token_id=0, eos_token_id=0)
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}
    model = GPT2LMHeadModel(config)
    for block in model.transformer.h:
        torch.nn.init.zeros_(block.attn.c_attn.bias)
    model.load_state_dict(weights, strict=False)
    return model.double().eval()


def golden_config(arrays, **options):
    top_k, top_n, ratio, replaced, steps = arrays["hp"].tolist()
    return ReAGent(
        probes=len(arrays["init_logits"]), replace_ratio=replaced, top_k=int(top_k), keep_top_n=int(top_n),
        keep_ratio=ratio, max_steps=int(steps), **options,
    )  # fmt: skip


def test_the_update_is_that_of_the_authors():
    arrays = golden_arrays("29-reagent", "dev-update.npz")
    found = reagent_update(
        arrays["logit_before"], arrays["replace_mask"], arrays["p_original"], arrays["p_replaced"]
    )
    near_one = torch.zeros(len(found), dtype=torch.bool)
    near_one[1] = True
    torch.testing.assert_close(found[~near_one], arrays["logit_after"][~near_one], **NEAR)
    torch.testing.assert_close(found[near_one], arrays["logit_after"][near_one], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.softmax(-1), arrays["importance_after"], rtol=1e-5, atol=1e-9)


def test_the_top_tokens_are_those_of_the_authors():
    arrays = golden_arrays("29-reagent", "dev-rank.npz")
    for case in {key.split("/")[0] for key in arrays}:
        found = keep_top(
            arrays[f"{case}/scores"], int(arrays[f"{case}/top_n"]), float(arrays[f"{case}/ratio"])
        )
        assert torch.equal(~found, arrays[f"{case}/replace_mask"]), case


@pytest.mark.parametrize("name", REPLAYS)
def test_probabilities_and_every_step_are_those_of_the_authors(name):
    arrays = replay(name)
    context, config = arrays["input_ids"][0], golden_config(arrays)
    subject = TargetProbability(golden_model(arrays), arrays["target_id"].tolist())
    p_original = subject(context[None])
    torch.testing.assert_close(p_original, arrays["p_original"][:1], **NEAR)
    replaced = torch.where(arrays["replace_mask"], arrays["replace_ids"], context)
    p_replaced = subject(replaced.flatten(0, 1)).view(replaced.shape[:2])
    torch.testing.assert_close(p_replaced, arrays["p_replaced"], **NEAR)

    running = arrays["init_logits"] + credits(arrays["replace_mask"], p_original, p_replaced).cumsum(0)
    stopped_before = arrays["stop_hit"].cumsum(0) - arrays["stop_hit"].long() > 0
    going = ~stopped_before
    torch.testing.assert_close(running.log_softmax(-1)[going], arrays["log_importance"][going], **NEAR)
    kept = keep_top(running, config.keep_top_n, config.keep_ratio)
    assert torch.equal(kept[going], arrays["keep_mask"][going])


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("name", REPLAYS)
def test_probes_end_as_those_of_the_authors_however_many_steps_are_one_batch(name, chunk):
    arrays = replay(name)
    context, config = arrays["input_ids"][0], golden_config(arrays, chunk=chunk)
    subject = TargetProbability(golden_model(arrays), arrays["target_id"].tolist())
    begun = torch.zeros(config.probes, dtype=torch.long)

    def draw(steps, probes):
        taken = (int(begun[probes[0]]) + torch.arange(steps)).clamp(max=len(arrays["replace_mask"]) - 1)
        begun[probes] += steps
        return Draws(
            *(arrays[key][taken][:, probes] for key in ("replace_mask", "replace_ids", "stop_replace_ids"))
        )

    found = config.probe(
        subject, context, torch.arange(len(context)), arrays["init_logits"], arrays["p_original"][:1], draw
    )
    torch.testing.assert_close(found.log_importance.exp(), arrays["final_importance"], **NEAR)
    assert torch.equal(found.converged, arrays["stop_mask"])
    assert found.steps == int(arrays["num_steps"])
    if name == "none":  # the released code divides by zero here
        torch.testing.assert_close(found.importance.mean(0), arrays["final_importance"].mean(0), **NEAR)
    else:
        torch.testing.assert_close(found.importance.mean(0), arrays["mean_importance"], **NEAR)
    assert torch.equal(found.rationale(config._kept(len(context))), arrays["rationale_positions"])


@pytest.mark.parametrize("name", REPLAYS)
def test_own_predictions_are_those_of_the_authors(name):
    arrays = replay(name)
    sample = predicted_tokens(golden_model(arrays), arrays["input_ids"][0])
    assert torch.equal(sample((2,), Generator()), arrays["inferential_sample"])


# --- what holds for any context ------------------------------------------------------------------------------------------------------


@given(number=st.integers(1, 40), units=st.integers(1, 9), ratio=st.floats(0.01, 1.0), seed=st.integers(0, 9))
def test_every_token_is_replaced_equally_often(number, units, ratio, seed):
    masks = stratified_masks(number, units, ratio, Generator().manual_seed(seed))
    assert bool(((masks.sum(0) - number * ratio).abs() <= 1).all())


def test_masks_replace_each_token_with_the_given_probability():
    generator = Generator().manual_seed(0)
    masks = torch.cat([stratified_masks(3, 4, 0.3, generator) for _ in range(2000)])
    assert masks.double().mean(0).tolist() == pytest.approx([0.3] * 4, abs=0.02)


@settings(deadline=None, max_examples=10)
@given(left=st.integers(0, 3), right=st.integers(0, 3), stop=st.sampled_from(["answer", "ranking"]))
def test_neither_padding_nor_the_batch_changes_a_score(left, right, stop):
    model, method = tiny.llama(), ReAGent(probes=3, max_steps=4, keep_top_n=2, stop=stop)
    text, other = torch.tensor([5, 9, 12, 7]), torch.tensor([3, 4])
    alone = attribute(model, text[None], [8], method)
    width = left + 4 + right
    ids, real = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.bool)
    ids[0, -2:], real[0, -2:] = other, True
    ids[1, left : left + 4], real[1, left : left + 4] = text, True
    both = attribute(model, ids, [6, 8], method, attention_mask=real)
    assert torch.equal(both.scores[1][real[1]], alone.scores[0])
    assert bool(both.scores[~real].isnan().all())
    assert torch.equal(both.standard_error[1][real[1]], alone.standard_error[0])


def by_a_copied_token(contexts):
    """p is high if 7 stands in either of two places, and tells nothing else."""
    return torch.where((contexts[:, [1, 4]] == 7).any(1), 0.9, 0.1)


def test_a_function_is_explained_and_both_copies_come_first():
    found = attribute(
        by_a_copied_token,
        torch.tensor([[2, 7, 3, 5, 7, 4, 8, 9]]),
        method=ReAGent(stop="ranking", keep_top_n=2, replace_ratio=0.5),
        vocabulary=torch.arange(10, 60),
    )
    assert sorted(found.scores[0].topk(2).indices.tolist()) == [1, 4]
    assert bool(found.converged[0])
    assert bool((found.standard_error[0] > 0).all())


def test_the_error_of_a_score_is_that_over_masks():
    options = {"stop": "never", "probes": 1, "max_steps": 64, "chunk": 64, "replace_ratio": 0.5}
    scores, errors = zip(
        *(
            (found.scores[0], found.standard_error[0])
            for found in (
                attribute(by_a_copied_token, torch.tensor([[2, 7, 3, 5, 7]]), method=ReAGent(seed=seed, **options), vocabulary=torch.arange(10, 60))
                for seed in range(60)
            )
        ),
        strict=True,
    )  # fmt: skip
    spread, claimed = torch.stack(scores).std(0), torch.stack(errors).mean(0)
    assert bool((spread / claimed < 1.3).all())
    assert bool((spread / claimed > 0.3).all())  # stratification makes the true error the smaller one


def test_tokens_of_one_group_are_replaced_together_and_share_a_score():
    groups = torch.tensor([[4, 4, 9, 9, 2]])
    found = attribute(
        by_a_copied_token, torch.tensor([[2, 7, 3, 5, 6]]), groups=groups, vocabulary=torch.arange(10, 60),
        method=ReAGent(stop="ranking", keep_top_n=1),
    ).scores[0]  # fmt: skip
    assert found[0] == found[1] > found[2] == found[3]


def test_an_answer_of_several_tokens_is_the_mean_of_their_log_probabilities():
    model, context, answer = tiny.llama(), torch.tensor([5, 9, 12]), [8, 4]
    ids = torch.tensor([[5, 9, 12, 8]])
    logits = model(ids).logits[0, 2:].log_softmax(-1)
    expected = ((logits[0, 8] + logits[1, 4]) / 2).exp()
    torch.testing.assert_close(TargetProbability(model, answer)(context[None])[0].float(), expected)


def test_the_map_of_a_generated_text_is_a_lower_triangle_over_its_own_tokens():
    model, prompt = tiny.llama(), torch.tensor([5, 9, 12])
    new, maps = attribute_generated(model, prompt, 3, ReAGent(stop="never", probes=2, max_steps=2))
    assert maps.shape == (3, 5)
    assert torch.equal(maps.isnan(), torch.ones(3, 5, dtype=torch.bool).triu(3))
    assert int(new[0]) == int(own_predictions(model, prompt)[-1])


def test_a_context_of_one_token_and_more_kept_tokens_than_there_are_work():
    found = attribute(tiny.llama(), torch.tensor([[5]]), method=ReAGent(probes=2, max_steps=2, top_k=64))
    assert found.scores.tolist() == [[1.0]]
    assert "are the whole context" in found.notes[0]


def test_dropout_is_off_and_the_model_stays_in_train_mode():
    model = tiny.gpt2(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    ids, method = torch.tensor([[5, 9, 12, 7]]), ReAGent(probes=2, max_steps=2)
    expected = attribute(model, ids, [3], method).scores
    assert torch.equal(attribute(model.train(), ids, [3], method).scores, expected)
    assert model.training


def test_what_did_not_converge_or_move_is_said():
    never = attribute(
        tiny.llama(),
        torch.tensor([[5, 9, 12, 7]]),
        [3],
        ReAGent(probes=2, max_steps=2, top_k=1, keep_top_n=1),
    )
    assert not never.converged[0]
    assert any("no probe converged in 2 steps" in note for note in never.notes)
    flat = attribute(
        lambda contexts: torch.full((len(contexts),), 1e-6),
        torch.tensor([[5, 9, 12]]), method="reagent:stop=ranking,max_steps=8,keep_top_n=1", vocabulary=torch.arange(5),
    )  # fmt: skip
    assert "hardly move p(answer) = 1e-06" in flat.notes[0]
    assert "order of the top 1 is not certain" in flat.notes[1]


# --- bad input -----------------------------------------------------------------------------------------------------------------------

IDS = torch.tensor([[5, 9, 12, 7]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replace_ratio": 0.0}, "replace_ratio must be in (0, 1], got 0.0"),
        ({"replace_ratio": 1.5}, "replace_ratio must be in (0, 1], got 1.5"),
        ({"probes": 0}, "probes must be at least 1, got 0"),
        ({"stop": "soon"}, "stop must be one of answer, ranking, never"),
        ({"sampler": "nouns"}, "sampler must be one of uniform, pos, self"),
        ({"init": "ones"}, "init must be one of zeros, uniform"),
        ({"keep_top_n": 0}, "keep_ratio must be in (0, 1], got 0.0"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(UserError) as refused:
        ReAGent(**options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": [64]}, "target 64 is out of range: the model knows 0 to 63"),
        ({"target": [-1]}, "target -1 is out of range"),
        ({"target": [3, 4]}, "give one target, of at least one token, per text: 1 texts, 2 targets"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "context 0 has no tokens"),
        ({"attention_mask": torch.zeros(1, 4)}, "context 0 has no tokens"),
        ({"method": "reagent:top_k=65"}, "top_k is 65, and the vocabulary has 64 tokens"),
        ({"vocabulary": torch.tensor([64])}, "vocabulary must hold ids from 0 to 63"),
        ({"method": "regent"}, "there is no attribution method 'regent'"),
        ({"model": tiny.gpt2(n_positions=3)}, "the context: a sample takes 4 positions"),
        ({"model": tiny.bert()}, "BertModel says no next token"),
        ({"model": lambda ids: torch.ones(len(ids))}, "has no ranks to test the answer by: use stop=ranking"),
        ({"model": lambda ids: torch.ones(len(ids)), "method": "reagent:stop=ranking"}, "a function has no vocabulary"),
        ({"model": lambda ids: 2 * torch.ones(len(ids)), "method": "reagent:stop=ranking"}, "p(answer) must be in [0, 1], got 2.0"),
        ({"model": lambda ids: torch.ones(len(ids)), "method": "reagent:stop=ranking,sampler=self"}, "a function predicts no tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_attributed_is_refused(changes, words):
    given = {"model": tiny.llama(), "input_ids": IDS, **changes}
    with pytest.raises(UserError) as refused:
        attribute(**given)
    assert words in str(refused.value)


def test_methods_are_found_by_name():
    assert ATTRIBUTIONS.make("reagent:probes=3") == ReAGent(probes=3)
    assert Question(tiny.llama(), IDS[0], groups=torch.tensor([7, 7, 2, 5])).units.tolist() == [2, 2, 0, 1]


# --- parts of speech -----------------------------------------------------------------------------------------------------------------


def by_length(word):
    return "long" if len(word) > 2 else "short"


def test_replacements_are_of_the_part_of_speech_of_what_they_replace():
    tokenizer = word_tokenizer()
    classes = parts_of_speech(tokenizer, by_length)
    assert {classes[token].item() for token in tokenizer("w1 w2")["input_ids"]} != {
        classes[token].item() for token in tokenizer("w11 w12")["input_ids"]
    }
    vocabulary, context = torch.arange(6, 60), torch.tensor(tokenizer("w1 w12 w2")["input_ids"])
    drawn = same_class_tokens(vocabulary, classes, context)((2, 50), torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 50, 3)
    assert (classes[drawn] == classes[context]).all()
    assert drawn[..., 0].unique().numel() > 3
    lonely = classes.clone()
    lonely[context[0]] = 7
    kept = same_class_tokens(vocabulary[vocabulary != context[0]], lonely, context)((4,), torch.Generator())
    assert (kept[:, 0] == context[0]).all()


def test_parts_of_speech_are_given_or_refused(monkeypatch):
    question = torch.tensor([[6, 7, 8]])
    method = "reagent:sampler=pos,stop=never,probes=4,max_steps=2"
    classes = parts_of_speech(word_tokenizer(), by_length)
    found = attribute(tiny.llama(), question, None, method, classes=classes)
    assert found.scores.isfinite().all()
    with pytest.raises(UserError, match=r"give classes=parts_of_speech\(tokenizer\)"):
        attribute(tiny.llama(), question, None, method)
    with pytest.raises(UserError, match="classes has 3 tokens, and token"):
        attribute(tiny.llama(), question, None, method, classes=classes[:3])

    def missing():
        raise LookupError

    module = import_module("tokenry.attribution.parts_of_speech")
    monkeypatch.setattr(module, "PerceptronTagger", missing)
    module._nltk.cache_clear()
    with pytest.raises(UserError, match=r"run python -m nltk.downloader averaged_perceptron_tagger_eng once"):
        parts_of_speech(word_tokenizer())


def test_the_tagger_of_nltk_says_the_parts_of_speech(monkeypatch):
    def trained():
        tagger = PerceptronTagger(load=False)
        tagger.train([[("w1", "NN")], [("w2", "VB")]], nr_iter=5)
        return tagger

    module = import_module("tokenry.attribution.parts_of_speech")
    monkeypatch.setattr(module, "PerceptronTagger", trained)
    module._nltk.cache_clear()
    classes, tokenizer = parts_of_speech(word_tokenizer()), word_tokenizer()
    one, other = tokenizer("w1 w2")["input_ids"]
    assert classes[one] != classes[other]
    module._nltk.cache_clear()
