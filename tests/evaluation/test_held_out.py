import math

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy

from tokenry.core.errors import UserError
from tokenry.core.stats import ratio_estimate
from tokenry.evaluation import held_out_nll, paired_difference


def rows_of(lengths, vocabulary=256, prompt=2, seed=0):
    draws = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(4, vocabulary, (length,), generator=draws).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


def nll_by_hand(model, row):
    with torch.no_grad():
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
    return float(cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="sum"))


def test_nll_is_the_cross_entropy_of_each_sample(model):
    rows = rows_of([7, 3, 12, 5])
    result = held_out_nll(model, rows, batch_size=3)
    model.eval()
    assert result.nll == pytest.approx([nll_by_hand(model, row) for row in rows], rel=1e-5)
    assert result.tokens.tolist() == [5, 1, 10, 3]


def test_batch_size_never_changes_the_result(model):
    rows = rows_of([4, 9, 6, 15, 3, 8, 8])
    one_by_one = held_out_nll(model, rows, batch_size=1)
    for batch_size in (2, 3, 100):
        assert held_out_nll(model, rows, batch_size=batch_size).nll == pytest.approx(one_by_one.nll, rel=1e-5)


def test_a_dataset_and_a_list_of_rows_mean_the_same(model):
    rows = rows_of([4, 9, 6])
    dataset = datasets.Dataset.from_list(rows)
    assert held_out_nll(model, dataset).nll.tolist() == held_out_nll(model, rows).nll.tolist()
    assert held_out_nll(model, dataset.with_format("torch")).items == held_out_nll(model, rows).items


def test_an_adapter_is_part_of_the_model(model):
    rows = rows_of([4, 9, 6])
    base = held_out_nll(model, rows)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    assert not np.allclose(held_out_nll(adapted, rows).nll, base.nll, rtol=1e-3)
    with adapted.disable_adapter():
        assert held_out_nll(adapted, rows).nll == pytest.approx(base.nll, rel=1e-5)


def test_dropout_is_off_and_every_module_gets_its_own_mode_back(model):
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    rows = rows_of([12, 12])
    assert held_out_nll(model, rows).nll.tolist() == held_out_nll(model, rows).nll.tolist()
    assert [module.training for module in model.modules()] == before


def test_the_first_token_is_never_predicted(model):
    whole = rows_of([5, 6], prompt=0)
    assert held_out_nll(model, whole).tokens.tolist() == [4, 5]


def test_a_sample_without_learnable_tokens_weighs_nothing(model):
    rows = rows_of([7, 9, 5])
    silent = {"input_ids": [5, 6, 7], "labels": [-100] * 3}
    with_silent = held_out_nll(model, [*rows, silent])
    assert with_silent.nll_per_token.value == pytest.approx(held_out_nll(model, rows).nll_per_token.value)
    assert math.isnan(with_silent.nll_per_token_of_items[-1])


def test_mean_is_per_token_and_not_per_item(model):
    result = held_out_nll(model, rows_of([4, 20, 9]))
    assert result.nll_per_token.value == pytest.approx(result.nll.sum() / result.tokens.sum())
    assert result.nll_per_token.samples == 3


def test_bytes_are_those_of_the_learnable_text(model, tokenizer):
    rows = []
    for prompt, answer in (("how many?", " the näïve answer ✓"), ("what?", "seven")):
        head, tail = (
            tokenizer(f"<|user|>{prompt}<|end|><|assistant|>")["input_ids"],
            tokenizer(answer)["input_ids"],
        )
        rows.append({"input_ids": [*head, *tail, 0], "labels": [-100] * len(head) + [*tail, 0]})
    result = held_out_nll(model, rows, tokenizer=tokenizer)
    assert result.text_bytes.tolist() == [len(" the näïve answer ✓".encode()), len("seven")]
    assert result.bits_per_byte.value == pytest.approx(
        result.nll.sum() / math.log(2) / result.text_bytes.sum()
    )


def test_bytes_of_several_turns_add_up(model, tokenizer):
    ids, labels = [], []
    for text, learned in (("one?", False), ("two words", True), ("three?", False), ("four", True)):
        piece = tokenizer(text)["input_ids"]
        ids += piece
        labels += piece if learned else [-100] * len(piece)
    result = held_out_nll(model, [{"input_ids": ids, "labels": labels}] * 2, tokenizer=tokenizer)
    assert result.text_bytes.tolist() == [len("two words") + len("four")] * 2


def test_without_a_tokenizer_there_are_no_bits_per_byte(model):
    assert held_out_nll(model, rows_of([4, 5])).bits_per_byte is None


def test_equal_sizes_give_the_ordinary_mean_and_standard_error():
    totals = np.array([3.0, 5.0, 4.0, 8.0])
    found = ratio_estimate(totals, np.full(4, 2))
    assert found.value == pytest.approx((totals / 2).mean())
    assert found.standard_error == pytest.approx((totals / 2).std(ddof=1) / 2)


def test_standard_error_covers_the_true_ratio_as_often_as_it_says():
    draws = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        sizes = draws.integers(5, 40, 60)
        totals = sizes * draws.gamma(4.0, 0.25, 60)
        found = ratio_estimate(totals, sizes)
        inside += found.low < 1.0 < found.high
    assert 0.90 < inside / 400 < 0.98


def test_pairing_cancels_what_both_models_find_hard(model):
    control = held_out_nll(model, rows_of([4, 20, 9, 13]))
    better = type(control)(control.nll - 0.25 * control.tokens, control.tokens, None, control.items)
    paired = paired_difference(better, control, to="full")
    assert paired.difference == pytest.approx(-0.25)
    assert paired.standard_error == pytest.approx(0.0, abs=1e-9)
    assert (paired.to, paired.samples) == ("full", 4)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.integers(1, 30)), min_size=2, max_size=20))
def test_difference_of_the_means_is_the_mean_difference(items):
    run, control, sizes = (np.array(column) for column in zip(*items, strict=True))
    difference = ratio_estimate(run - control, sizes)
    assert difference.value == pytest.approx(
        ratio_estimate(run, sizes).value - ratio_estimate(control, sizes).value, abs=1e-9
    )
    assert difference.standard_error == pytest.approx(ratio_estimate(control - run, sizes).standard_error)


def test_runs_on_other_items_cannot_be_paired(model):
    one, other = held_out_nll(model, rows_of([4, 5])), held_out_nll(model, rows_of([4, 5], seed=1))
    with pytest.raises(UserError, match="not measured on the same held-out items"):
        paired_difference(one, other)
    with pytest.raises(UserError, match="same order"):
        paired_difference(held_out_nll(model, rows_of([4, 5])), held_out_nll(model, rows_of([4, 5])[::-1]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least two samples"),
        ([{"text": "x"}, {"text": "y"}], "no input_ids and no labels.*columns found: text"),
        ([{"input_ids": [1, 2], "labels": [1, 2, 3]}] * 2, "labels have shape"),
        ([{"input_ids": [1, 2], "labels": [1, 9999]}] * 2, "not in the vocabulary"),
        ([{"input_ids": [1, 2], "labels": [-100, -100]}] * 2, "no token of the held-out data is learnable"),
    ],
)
def test_unusable_rows_are_refused(model, rows, message):
    with pytest.raises(UserError, match=message):
        held_out_nll(model, rows)


def test_a_diverged_model_is_named(model):
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="training has diverged"):
        held_out_nll(model, rows_of([4, 5]))
