"""Drawn batches: the same by number from wherever one begins, special tokens at hand, labels where they belong."""

import pytest
import torch

from tests.tokenization.transfer.zett.tiny import DRAWING, TEXTS, tokenizer
from tokenry.core.train.numbered import TextBatches, step_generator
from tokenry.tokenization.transfer.zett.byte_conversion import to_byte_level
from tokenry.tokenization.transfer.zett.drawn_batches import DrawingConfig, DrawnBatches, masked, next_tokens
from tokenry.tokenization.transfer.zett.surface_forms import surface_forms

SOURCE = to_byte_level(tokenizer(mask_token="<mask>"))
TWO = {"one": TEXTS[:250], "other": TEXTS[250:]}


def batches(texts=None, config=DRAWING, seed=0):
    return DrawnBatches(SOURCE, texts or {"all": TEXTS}, config, 4, seed)


def same(one, other):
    return all(
        torch.equal(each, getattr(other, name))
        if isinstance(each, torch.Tensor)
        else each == getattr(other, name)
        for name, each in vars(one).items()
    )


@pytest.mark.parametrize("texts", [{"all": TEXTS}, TWO], ids=["one language", "two"])
def test_a_batch_is_the_same_whatever_was_asked_for_before(texts):
    in_order, at_once = batches(texts), batches(texts)
    expected = [in_order[number] for number in range(7)]
    assert same(at_once[6], expected[6])
    assert same(at_once[2], expected[2])
    assert not same(expected[2], expected[6])


def test_other_seeds_draw_other_batches():
    assert not same(batches()[0], batches(seed=1)[0])


def test_vocabulary_sizes_stay_within_their_bounds():
    config = DrawingConfig(**{**vars(DRAWING), "vocabulary_std": 50.0})
    drawn = batches(config=config)
    sizes = {len(drawn[number].forms) - len(SOURCE.special_ids) for number in range(8)}
    assert sizes <= set(range(410, 431))
    assert len(sizes) > 1


def test_special_tokens_point_to_the_same_tokens_of_the_source():
    drawn = batches()
    names = drawn.tokenizer(3).convert_ids_to_tokens(drawn[3].special.tolist())
    assert names == [SOURCE.tokens[number] for number in drawn[3].special_in_source.tolist()]
    assert set(drawn[3].special_in_source.tolist()) == set(SOURCE.special_ids)


def test_surface_forms_are_those_of_the_drawn_tokens():
    drawn = batches()
    made = drawn.tokenizer(2)
    names = made.convert_ids_to_tokens(list(range(len(made))))
    assert torch.equal(drawn[2].forms, surface_forms(names, SOURCE.tokenizer, 4)[0])


def test_texts_are_cut_at_the_block_size_and_padded_on_the_right():
    config = DrawingConfig(**{**vars(DRAWING), "block_size": 5})
    batch = batches(config=config)[0]
    assert batch.input_ids.shape == (8, 5)
    assert batch.attention_mask[:, 0].all()
    assert (batch.attention_mask.diff(dim=1) <= 0).all()


def test_a_causal_model_learns_every_real_token_but_the_first():
    batch = batches()[0]
    labels = next_tokens(batch)
    assert (labels[:, 0] == -100).all()
    assert torch.equal(labels[:, 1:] == -100, batch.attention_mask[:, 1:] == 0)
    learned = labels != -100
    assert torch.equal(labels[learned], batch.input_ids[learned])


def test_masking_hides_15_percent_of_what_is_no_special_token_and_mostly_behind_the_mask():
    drawn = batches()
    hidden = behind = kept = learnable = 0
    for number in range(30):
        batch = drawn[number]
        shown, labels = masked(batch, 2, step_generator(0, number, "mask"))
        chosen = labels != -100
        assert torch.equal(labels[chosen], batch.input_ids[chosen])
        assert torch.equal(shown[~chosen], batch.input_ids[~chosen])
        assert not torch.isin(labels[chosen], batch.special).any()
        assert batch.attention_mask[chosen].all()
        hidden += int(chosen.sum())
        behind += int((shown[chosen] == 2).sum())
        kept += int((shown[chosen] == labels[chosen]).sum())
        learnable += int((batch.attention_mask.bool() & ~torch.isin(batch.input_ids, batch.special)).sum())
    assert hidden / learnable == pytest.approx(0.15, abs=0.03)
    assert behind / hidden == pytest.approx(0.8, abs=0.06)
    assert kept / hidden == pytest.approx(0.1, abs=0.05)


def test_an_epoch_holds_every_text_once_and_the_next_in_another_order():
    made = TextBatches(TEXTS[:12], 4, 0)
    first, second = ([text for number in part for text in made[number]] for part in (range(3), range(3, 6)))
    assert sorted(first) == sorted(second) == sorted(TEXTS[:12])
    assert first != second
    assert made[0] == first[:4]
