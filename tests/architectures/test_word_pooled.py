"""Word-pooled models: reference numbers in both forms, what padding and repetition may not change, training, and what is refused."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import AutoModel, LlamaConfig, Trainer, TrainingArguments

from tests.golden import golden_arrays
from tests.tiny.words import LONGEST, UNITS, windows, word_pooled
from tokenry.architectures import WordPooledConfig, WordPooledLM, collate_words, released_weights
from tokenry.architectures.word_layers import WordStream
from tokenry.core.errors import UserError

FILES = ("dev-model-a.npz", "dev-model-b.npz")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def golden_model(golden, released):
    names = ("vocab_size", "n_embd", "n_layer", "n_head", "n_word_layer", "n_word_head", "n_prefix")
    sizes = dict(zip((*names, "max_words", "max_word_len"), golden["config"].tolist(), strict=False))
    model = WordPooledLM(WordPooledConfig(**sizes, released=released)).eval()
    state = {
        name.removeprefix("param:"): value for name, value in golden.items() if name.startswith("param:")
    }
    model.load_state_dict(released_weights(state))
    return model


@pytest.fixture(params=FILES)
def golden(request):
    return golden_arrays("18-word-pooled", request.param)


@pytest.mark.parametrize("released", [True, False])
def test_vectors_states_logits_and_losses_are_the_reference(golden, released):
    model, form = golden_model(golden, released), "official" if released else "fixed"
    words, lengths = golden["x"], golden["x_len"]
    with torch.no_grad():
        vectors = model.embed_words(words, lengths)
        torch.testing.assert_close(vectors, golden[f"{form}_cls"], **CLOSE)
        if released:
            states = model.trunk_states(vectors).flatten(1, 2)
            torch.testing.assert_close(states, golden["official_trunk"], **CLOSE)
        logits = model.canvas_logits(words, lengths)
        torch.testing.assert_close(logits, golden[f"{form}_logits"], **CLOSE)
        on_all = cross_entropy(logits.flatten(0, 2), golden["y"][:, :-1].flatten())
        torch.testing.assert_close(on_all, golden["official_loss" if released else "fixed_loss_all"], **CLOSE)
        loss = model(words, lengths).loss
        torch.testing.assert_close(
            loss, golden["official_loss" if released else "fixed_loss_masked"], **CLOSE
        )


# --- properties ----------------------------------------------------------------------------------------------------------------------


def canvas_nll(model, window):
    """The nll of every word but the first, and whether its most probable units are right, from the logits of the canvas."""
    longest = model.config.max_word_len
    table = torch.tensor([[*word, *[0] * (longest - len(word))] for word in window])[None]
    logits = model.canvas_logits(table, torch.tensor([[len(word) for word in window]]))[0]
    nll, right = [], []
    for word, said in zip(window[1:], logits, strict=True):
        told = [*word, 0][:longest]
        nll.append(cross_entropy(said[: len(told)], torch.tensor(told), reduction="sum"))
        right.append(said[: len(told)].argmax(1).tolist() == told)
    return torch.stack(nll), right


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 6))
def test_words_end_to_end_say_what_the_canvas_says(seed, prefix, longest):
    model = word_pooled(n_prefix=prefix, max_word_len=longest)
    texts = windows(seed, (5, 2, 3), longest)
    output = model(**collate_words(texts))
    for number, text in enumerate(texts):
        nll, right = canvas_nll(model, text)
        torch.testing.assert_close(output.nll[number, 1 : len(text)], nll, rtol=1e-4, atol=1e-4)
        assert (output.right[number, 1 : len(text)] > 0).tolist() == right
        assert output.nll[number, len(text) :].isnan().all()
    units = sum(min(len(word) + 1, longest) for text in texts for word in text[1:])
    torch.testing.assert_close(output.loss, output.nll.nansum() / units)


def test_gradients_are_those_of_the_canvas():
    texts = [windows(1, (5,))[0]]
    ours, theirs = word_pooled(), word_pooled()
    ours(**collate_words(texts)).loss.backward()
    told = sum(min(len(word) + 1, LONGEST) for word in texts[0][1:])
    (canvas_nll(theirs, texts[0])[0].sum() / told).backward()
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_padding_and_the_rest_of_the_batch_change_nothing():
    model, texts = word_pooled(), windows(3)
    together = model.score_words(texts, batch_size=3)
    for text, (nll, right) in zip(texts, together, strict=True):
        alone = model.score_words([text])[0]
        assert alone[0] == pytest.approx(nll, abs=1e-4)
        assert (alone[1] == right).all()


def test_the_same_word_has_the_same_vectors_wherever_it_stands():
    model = word_pooled()
    batch = collate_words([[(1, 2), (3,), (1, 2)], [(4, 5, 6), (1, 2)]])
    vectors = model.embed_words(**batch)
    assert torch.equal(vectors[0, 0], vectors[0, 2])
    assert torch.equal(vectors[0, 0], vectors[1, 1])
    assert not torch.equal(vectors[0, 0], vectors[0, 1])
    assert (vectors[1, 2] == 0).all(), "there is no word"


@pytest.mark.parametrize("place", [1, 3, 5])
def test_no_word_sees_a_later_one(place):
    model, text = word_pooled(), windows(5, (6,))[0]
    changed = [*text[:place], (7, 7, 7), *text[place + 1 :]]
    before, after = (model.score_words([words])[0][0] for words in (text, changed))
    assert (before[: place - 1] == after[: place - 1]).all()
    assert (before[place - 1 :] != after[place - 1 :]).all()


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"max_word_len": 1}, [(1,), (2,)]),
        ({"n_prefix": 4, "max_word_len": 2}, [(1, 2), (3,), (2, 1)]),
        ({}, [(1, 2, 3)] * 5),
        ({}, [(1, 2, 3, 4, 5), (5, 4, 3, 2, 1)]),
        ({"released": True}, [(1, 2, 3, 4, 5), (5, 4, 3, 2, 1)]),
    ],
)
def test_the_smallest_and_the_fullest_tables_work(sizes, text):
    output = word_pooled(**sizes)(**collate_words([text]))
    assert output.loss.isfinite()
    assert output.nll[0, 1:].isfinite().all()


def test_words_are_laid_out_without_padding():
    stream = WordStream.of(torch.tensor([3, 2, 3]))
    assert stream.blocks == ((1, 2), (2, 3))
    assert stream.order.tolist() == [1, 0, 2]
    assert stream.slot.tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    assert stream.starts.tolist() == [0, 2, 5]


def test_in_bfloat16_it_says_nearly_the_same():
    texts = windows(2)
    exact = word_pooled()(**collate_words(texts)).loss
    rough = word_pooled().bfloat16()(**collate_words(texts)).loss
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(word_pooled()(**collate_words(texts)).loss, exact, rtol=0.05, atol=0.05)


def test_the_trunk_may_be_any_causal_transformer(tmp_path):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    trunk = LlamaConfig(vocab_size=3, max_position_embeddings=40, **sizes)
    model = word_pooled(trunk_config=trunk)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, WordPooledLM)
    texts = windows(4)
    torch.testing.assert_close(again(**collate_words(texts)).loss, model(**collate_words(texts)).loss)


# --- training ------------------------------------------------------------------------------------------------------------------------


def trained(folder, steps, resume=False, **arguments):
    data = [{"words": window} for seed in range(8) for window in windows(seed)]
    options = {"per_device_train_batch_size": 3, "learning_rate": 3e-3, "report_to": [], "disable_tqdm": True}
    trainer = Trainer(
        word_pooled(dropout=0.1),
        TrainingArguments(
            str(folder), max_steps=steps, save_steps=4, use_cpu=True, remove_unused_columns=False, logging_steps=1,
            lr_scheduler_type="constant", **options, **arguments,
        ),
        train_dataset=data,
        eval_dataset=data,
        data_collator=lambda rows: collate_words([row["words"] for row in rows]),
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_the_trainer_trains_it_and_resumes_to_the_same_weights(tmp_path):
    whole = trained(tmp_path / "whole", 8)
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert min(losses[4:]) < losses[0]
    assert whole.evaluate()["eval_loss"] > 0
    trained(tmp_path / "stopped", 4)
    again = trained(tmp_path / "stopped", 8, resume=True)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_recomputing_the_trunk_and_accumulating_batches_train_too(tmp_path):
    plain = trained(tmp_path / "plain", 2, bf16=True)
    recomputed = trained(
        tmp_path / "recomputed", 2, bf16=True, gradient_checkpointing=True, gradient_accumulation_steps=2
    )
    assert all(parameter.isfinite().all() for parameter in recomputed.model.parameters())
    assert plain.state.global_step == recomputed.state.global_step == 2


# --- bad input -----------------------------------------------------------------------------------------------------------------------

GOOD = torch.tensor([[[1, 2], [3, 0]]])
SIZES = torch.tensor([[2, 1]])


@pytest.mark.parametrize(
    ("ids", "lengths", "mask", "words"),
    [
        (GOOD, torch.tensor([[2, 0]]), None, "a length is 0 or below, or above the 2 units"),
        (GOOD, torch.tensor([[3, 1]]), None, "a length is 0 or below, or above the 2 units"),
        (GOOD + 11, SIZES, None, "a unit is outside 0 to 11"),
        (-GOOD, SIZES, None, "a unit is outside 0 to 11"),
        (GOOD, torch.tensor([[1, 1]]), None, "units stand behind the length of a word"),
        (GOOD, torch.tensor([[2, 2]]), None, "unit 0, the end of a word, stands inside one"),
        (
            GOOD,
            torch.tensor([2, 1])[:, None],
            None,
            "lengths have shape (2, 1) and input_ids hold 1 × 2 words",
        ),
        (GOOD[:, :1], SIZES[:, :1], None, "a text of one word has no next word"),
        (
            GOOD.repeat(1, 11, 1),
            SIZES.repeat(1, 11),
            None,
            "a text of 22 words does not fit the 20 positions",
        ),
        (GOOD.repeat(1, 1, 3), SIZES, None, "words of 6 units do not fit the model, whose words have 5"),
        (GOOD, SIZES, torch.tensor([[False, True]]), "padding stands before words"),
        (GOOD, SIZES, torch.tensor([[False, False]]), "a text without words is in the batch"),
    ],
)
def test_tables_that_are_no_words_are_refused(ids, lengths, mask, words):
    with pytest.raises(UserError) as error:
        word_pooled()(ids, lengths, mask)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"n_prefix": 0}, "n_prefix must be at least 1, got 0"),
        ({"max_words": 1}, "max_words must be at least 2, got 1"),
        ({"max_word_len": 0}, "max_word_len must be at least 1, got 0"),
        ({"n_word_head": 3}, "n_embd must be a multiple of n_word_head, got 16 and 3"),
        ({"dropout": 1.0}, "dropout must be in [0, 1), got 1.0"),
        ({"trunk_config": LlamaConfig(hidden_size=32)}, "the trunk has width 32 and n_embd is 16"),
        (
            {"released": True, "max_word_len": 13},
            "the released form takes units 13 to 14 as its CLS, and there are 12",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(UserError) as error:
        word_pooled(**sizes)
    assert words in str(error.value)


def test_every_pair_of_lengths_is_a_block_of_its_own():
    blocks = WordStream.of(torch.randint(1, UNITS, (50,))).blocks
    assert all(one[1] < other[1] for one, other in pairwise(blocks))
