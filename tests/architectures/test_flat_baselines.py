"""The flat baseline scores the same words, unit by unit; without positions it has none, also after it was saved."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from tests.tiny.words import flat_lm, windows
from tokenry.architectures import FlatConfig, FlatLM, collate_flat, flat_units
from tokenry.core.errors import UserError


@pytest.mark.parametrize("whole_words", [0, 4])
def test_words_are_scored_from_their_units_and_ends(whole_words):
    model, texts = flat_lm(whole_words=whole_words), windows(1)
    if whole_words:
        texts = [[word[:1] if word[0] <= whole_words else word for word in text] for text in texts]
    for text, (nll, right) in zip(texts, model.score_words(texts, batch_size=3), strict=True):
        spelled = [word if word[0] <= whole_words else (*word, 0) for word in text]
        units = torch.tensor([flat_units(text, whole_words)])
        assert units[0].tolist() == [unit for word in spelled for unit in word]
        logits = model(input_ids=units).logits[0, :-1]
        of_units = cross_entropy(logits, units[0, 1:], reduction="none")
        place = len(spelled[0]) - 1
        for number, word in enumerate(spelled[1:]):
            told = slice(place, place + len(word))
            assert nll[number] == pytest.approx(of_units[told].sum().item(), abs=1e-4)
            assert right[number] == (logits[told].argmax(1).tolist() == [*word])
            place = told.stop


def test_its_loss_is_that_of_gpt2_without_the_first_word():
    model, batch = flat_lm(), collate_flat(windows(2))
    ours = model(**batch).loss
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    theirs = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(ours, theirs)
    told = int((batch["labels"] != -100).sum())
    torch.testing.assert_close(model(**batch, num_items_in_batch=2 * told).loss, ours / 2)


@pytest.mark.parametrize("positions", [True, False])
def test_positions_are_there_or_not_after_it_was_saved(positions, tmp_path):
    flat_lm(positions=positions).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(model, FlatLM)
    units = torch.tensor([[3, 3, 3, 3]])
    states = model.transformer(input_ids=units).last_hidden_state[0]
    assert torch.allclose(states[0], states[3], atol=1e-5) is not positions, "the same unit again and again"
    assert model.config.embd_pdrop == 0.0


def test_one_over_words_reads_the_longest_of_them():
    config = FlatConfig.over_words(3, 4, vocab_size=9, n_embd=8, n_layer=1, n_head=2)
    text = [(1, 2, 3, 4)] * 3
    assert len(FlatLM(config).score_words([text])[0][0]) == 2
    with pytest.raises(UserError, match="a window of 20 units does not fit the 15 positions"):
        FlatLM(config).score_words([[*text, (1, 2, 3, 4)]])
