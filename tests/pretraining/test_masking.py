"""Masks, samples and labels: what holds for any batch, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny.pretraining import text_rows
from tokenry.core.errors import UserError
from tokenry.core.train.numbered import uniform_numbers
from tokenry.pretraining import mask_tokens, rtd_labels, rtd_loss, sample_replacements
from tokenry.pretraining.masking import corrupt, row_keys, sample_at

SPECIAL = (0, 2, 3)
ROWS = st.lists(st.integers(2, 12), min_size=1, max_size=4).map(tuple)


def masked(rows, **options):
    return mask_tokens(
        *rows.values(), SPECIAL, 4, **{"generator": torch.Generator().manual_seed(0), **options}
    )


@settings(max_examples=15)
@given(ROWS, st.floats(0.05, 0.9), st.booleans(), st.booleans())
def test_chosen_tokens_are_words_whose_labels_are_what_stood_there(lengths, p, left, replace):
    rows = text_rows(lengths, left=left)
    batch = masked(rows, p=p, replace=replace)
    ids, chosen = rows["input_ids"], batch.selected
    assert not (chosen & torch.isin(ids, torch.tensor([0, 2, 3, 4]))).any()
    filled = batch.weights > 0
    assert torch.equal(batch.labels[filled], ids.gather(1, batch.positions)[filled])
    assert torch.equal(batch.input_ids[~chosen], ids[~chosen])
    assert (batch.positions[~filled] == 0).all()
    assert (batch.labels[~filled] == 0).all()
    if not replace:
        assert torch.equal(chosen.sum(1), batch.weights.sum(1).long()), "no position comes twice"
        words = torch.tensor(lengths) - 2
        most = max(1, int((p + 0.005) * max(lengths)))
        wanted = torch.tensor([max(1, min(most, round(p * length))) for length in lengths])
        assert torch.equal(batch.weights.sum(1).long(), wanted.minimum(words))


def test_a_share_of_the_chosen_tokens_stays_as_it_is():
    rows = text_rows((402,) * 8)
    batch = masked(rows, keep_prob=0.15)
    kept = (batch.input_ids == rows["input_ids"])[batch.selected].float().mean()
    assert abs(kept - 0.15) < 0.05
    assert not (masked(rows, keep_prob=0.0).input_ids == rows["input_ids"])[batch.selected].any()


def test_positions_are_drawn_evenly():
    rows = text_rows((22,) * 2000)
    times = masked(rows, p=0.15).selected.float().mean(0)[1:-1]
    assert (times - 3 / 20).abs().max() < 0.03
    with_replacement = masked(rows, p=0.15, replace=True).selected.float().mean(0)[1:-1]
    assert (with_replacement - (1 - (19 / 20) ** 3)).abs().max() < 0.03


@pytest.mark.parametrize("draw", ["gumbel", "quantile"])
def test_samples_follow_the_distribution_of_the_generator(draw):
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, float("-inf")])
    rows, generator = logits.expand(40_000, -1), torch.Generator().manual_seed(0)
    if draw == "gumbel":
        found = sample_replacements(rows, temperature=2.0, generator=generator)
    else:
        found = sample_at(rows, torch.rand(len(rows), generator=generator), temperature=2.0)
    shares = torch.bincount(found, minlength=5) / len(rows)
    torch.testing.assert_close(shares, (logits / 2).softmax(0), atol=0.01, rtol=0)


def test_half_precision_draws_as_evenly():
    found = sample_replacements(
        torch.zeros(2000, 1000, dtype=torch.bfloat16), generator=torch.Generator().manual_seed(0)
    )
    assert abs(float(found.float().mean()) - 499.5) < 25


@pytest.mark.parametrize("draw", ["gumbel", "quantile"])
def test_a_disallowed_token_is_never_drawn(draw):
    logits, true = torch.tensor([[9.0, 0.0, 0.0]]).repeat(200, 1), torch.zeros(200, dtype=torch.long)
    found = (
        sample_replacements(logits, disallow=true)
        if draw == "gumbel"
        else sample_at(logits, torch.rand(200), disallow=true)
    )
    assert (found != 0).all()


def test_draws_by_key_are_uniform_and_follow_from_the_row_alone():
    rows = text_rows((14, 9, 5))
    keys = row_keys(*rows.values(), number=7)
    again = row_keys(*text_rows((14, 9, 5), left=True).values(), number=7)
    alone = row_keys(rows["input_ids"][1:2, :9], rows["attention_mask"][1:2, :9], number=7)
    assert torch.equal(keys, again)
    assert torch.equal(keys[1:2], alone)
    assert not (keys == row_keys(*rows.values(), number=8)).any()
    drawn = uniform_numbers(keys, torch.arange(20_000).expand(3, -1))
    assert (drawn.mean(1) - 0.5).abs().max() < 0.01
    assert (drawn.var(1) - 1 / 12).abs().max() < 0.005
    assert torch.corrcoef(drawn).fill_diagonal_(0).abs().max() < 0.03
    assert abs(torch.corrcoef(torch.stack([drawn[0, 1:], drawn[0, :-1]]))[0, 1]) < 0.03


def test_a_token_that_was_guessed_right_counts_as_original():
    original = torch.tensor([[2, 5, 6, 7, 3]])
    corrupted, selected = torch.tensor([[2, 5, 8, 7, 3]]), torch.tensor([[False, True, True, False, False]])
    assert rtd_labels(original, corrupted, selected).tolist() == [[0, 0, 1, 0, 0]]


def test_rows_without_a_word_have_nothing_to_predict_and_no_effect():
    rows = {"input_ids": torch.tensor([[2, 3, 0, 0], [0, 0, 0, 0], [2, 7, 8, 3]])}
    rows["attention_mask"] = (rows["input_ids"] > 0).long()
    batch = masked(rows)
    assert batch.weights.sum(1).tolist() == [0, 0, 1]
    sampled = torch.full_like(batch.labels, 9)
    assert torch.equal(corrupt(rows["input_ids"], batch, sampled)[:2], rows["input_ids"][:2])
    again = masked(rows, replace=True)
    assert again.weights.sum(1).tolist() == [0, 0, 1]


def test_duplicates_of_the_released_code_are_means_rounded_down():
    batch = masked(text_rows((6,)))._replace(
        positions=torch.tensor([[2, 2, 0]]), weights=torch.tensor([[1.0, 1.0, 0.0]])
    )
    ids = torch.tensor([[2, 5, 6, 7, 8, 3]])
    sampled = torch.tensor([[9, 14, 30]])
    assert corrupt(ids, batch, sampled, official_duplicates=True).tolist() == [[2, 5, 11, 7, 8, 3]]
    assert corrupt(ids, batch, sampled).tolist()[0][2] in (9, 14)


def test_padding_and_the_order_of_rows_never_change_the_losses():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 2, 9, generator=generator), torch.randint(9, (3, 2), generator=generator)
    weights = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    disc, wrong = torch.randn(3, 5, generator=generator), torch.randint(2, (3, 5), generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    whole = rtd_loss(logits, labels, weights, disc, wrong, mask)
    order = torch.tensor([2, 0, 1])
    wider = [torch.nn.functional.pad(each[order], (0, 3)) for each in (disc, wrong, mask)]
    again = rtd_loss(logits[order], labels[order], weights[order], *wider)
    for name in ("total_loss", "gen_loss", "disc_loss"):
        torch.testing.assert_close(again[name], whole[name])
    nothing = rtd_loss(logits, labels, weights * 0, disc, wrong, mask * 0)
    assert float(nothing["total_loss"]) == 0


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1])
def test_a_share_outside_of_0_and_1_is_refused(p):
    with pytest.raises(UserError, match=r"mask_prob must be in \(0, 1\), got"):
        masked(text_rows(), p=p)


def test_a_temperature_or_a_share_that_cannot_be_is_refused():
    with pytest.raises(UserError, match="temperature must be above 0, got 0"):
        sample_replacements(torch.zeros(1, 3), temperature=0.0)
    with pytest.raises(UserError, match=r"keep_prob must be in \[0, 1\], got 2"):
        masked(text_rows(), keep_prob=2.0)
