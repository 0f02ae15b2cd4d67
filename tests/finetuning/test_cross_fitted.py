"""Cross-fitted cleaning: every token is scored by a model that has not seen its sample."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from trl import SFTTrainer

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import CrossFit, CrossFitted, Folds, Signals, SSToken, TokenWeighingTrainer, diagnose
from tokenry.finetuning.dataset_pass import dataset_nll, samples_of
from tokenry.finetuning.fold_training import out_of_fold_nll
from tokenry.finetuning.folds import assign_folds, scored_out_of_fold
from tokenry.finetuning.nll_cache import IndexedSample

LORA = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], lora_dropout=0.2)


def _trainer(folder, weighing=None, rows=None, peft=None, **options):
    torch.manual_seed(0)
    return TokenWeighingTrainer(
        tiny_llama(),
        args=sft_config(folder, **options),
        train_dataset=token_rows() if rows is None else rows,
        processing_class=tiny_tokenizer(),
        peft_config=peft,
        weighing=weighing or CrossFitted(),
        history_cache=folder / "cache",
    )


def _naive_nll(model, row):
    """−log p of every label but the first, from the logits of the whole row."""
    ids, labels = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
    with torch.no_grad():
        log_p = model.eval()(ids[None]).logits[0].log_softmax(-1)
    nll = torch.full(ids.shape, float("nan"))
    for t in range(1, len(ids)):
        if labels[t] != -100:
            nll[t] = -log_p[t - 1, labels[t]]
    return nll


def test_scores_are_those_of_a_naive_computation(tmp_path):
    rows = token_rows(12)
    trainer = _trainer(tmp_path, CrossFitted(epochs=1.0), rows)
    samples = list(samples_of(trainer.train_dataset))
    fold = assign_folds(samples, Folds())
    for number in (0, 1):
        outside = sorted((n for n in range(12) if fold[n] != number), key=lambda n: samples[n].key)
        args = sft_config(tmp_path, max_steps=2)  # half of 12 samples, 3 per step
        plain = SFTTrainer(
            tiny_llama(), args=args, train_dataset=rows.select(outside), processing_class=tiny_tokenizer()
        )
        plain.train()
        for n in range(12):
            if fold[n] == number:
                theirs = _naive_nll(plain.model, rows[n])
                ours = trainer.store.columns["out_of_fold_nll"][samples[n].index]
                torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)
                base = trainer.store.columns["base_nll"][samples[n].index]
                torch.testing.assert_close(
                    base, _naive_nll(tiny_llama(), rows[n]), equal_nan=True, rtol=1e-4, atol=1e-5
                )


def test_the_kept_tokens_are_the_best_of_the_whole_data_set(tmp_path):
    store = _trainer(tmp_path, CrossFitted(share=0.5)).store
    score = store.columns["base_nll"] - store.columns["out_of_fold_nll"]
    targets = ~score.isnan()
    kept = store.columns["kept"]
    assert int(kept.sum()) == int(targets.sum()) // 2
    assert score[kept].min() >= score[targets & ~kept].max()


def test_scores_do_not_change_when_a_samples_own_fold_is_trained_longer(tmp_path):
    rows = token_rows(12)
    trainer = _trainer(tmp_path, rows=rows)
    samples, size = list(samples_of(trainer.train_dataset)), trainer.store.size
    fold = assign_folds(samples, Folds())
    own = {sample.key for sample, number in zip(samples, fold, strict=True) if number == 0}

    def scores(epochs_on_fold_0):
        model = tiny_llama()

        @contextmanager
        def trained_on(outside):
            on_fold_0 = outside[0].key in own
            model.load_state_dict(tiny_llama().state_dict())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for sample in list(outside) * (epochs_on_fold_0 if on_fold_0 else 1):
                ids = torch.from_numpy(np.array(sample.input_ids)).long()[None]
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            yield

        return scored_out_of_fold(
            samples, Folds(), trained_on, lambda inside: dataset_nll(model, inside, size, progress=False)
        )

    brief, long = scores(1), scores(3)
    for sample, number in zip(samples, fold, strict=True):
        same = torch.equal(brief[sample.target_index], long[sample.target_index])
        assert same == (number == 0)


def _samples(texts):
    return [IndexedSample(np.array(text), np.ones(len(text), dtype=bool), range(len(text))) for text in texts]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=6, max_size=20, unique_by=tuple),
    st.integers(2, 4),
    st.randoms(use_true_random=False),
)
def test_folds_are_balanced_and_do_not_depend_on_the_order_of_the_data(texts, count, order):
    folds = assign_folds(_samples(texts), Folds(count))
    sizes = [folds.count(number) for number in range(count)]
    assert max(sizes) - min(sizes) <= 1
    shuffled = order.sample(range(len(texts)), len(texts))
    again = assign_folds(_samples([texts[n] for n in shuffled]), Folds(count))
    assert again == [folds[n] for n in shuffled]


def test_equal_samples_share_a_fold():
    folds = assign_folds(_samples([[1, 2], [3], [1, 2], [4], [1, 2]]), Folds())
    assert folds[0] == folds[2] == folds[4]


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "LoRA"])
def test_the_model_begins_from_its_own_weights_and_learns_the_same_with_scores_from_the_cache(tmp_path, peft):
    computed = _trainer(tmp_path, peft=peft)
    begun = {name: p.detach().clone() for name, p in computed.model.named_parameters()}
    for name, parameter in _trainer(tmp_path / "other", SSToken(), peft=peft).model.named_parameters():
        assert torch.equal(begun[name], parameter), name
    assert len(list((tmp_path / "cache").glob("nll-crossfit-*.safetensors"))) == 1
    computed.train()
    found = _trainer(tmp_path, peft=peft)
    found.train()
    for (name, first), second in zip(
        computed.model.named_parameters(), found.model.parameters(), strict=True
    ):
        assert torch.equal(first, second), name


def test_scores_are_computed_once_and_again_for_anything_that_changes_them(tmp_path):
    def files():
        return len(list((tmp_path / "cache").glob("nll-crossfit-*.safetensors")))

    _trainer(tmp_path)
    _trainer(tmp_path, CrossFitted(share=0.3, dropped_weight=0.0))
    _trainer(tmp_path, SSToken(history="crossfit"))
    _trainer(tmp_path, rows=token_rows().select(range(11, -1, -1)))
    assert files() == 1
    _trainer(tmp_path, CrossFitted(folds=3))
    _trainer(tmp_path, CrossFitted(seed=1))
    _trainer(tmp_path, learning_rate=0.2)
    _trainer(tmp_path, rows=token_rows(11))
    assert files() == 5


def test_mixed_precision_leaves_nothing_on_the_model(tmp_path):
    weighed = _trainer(tmp_path, bf16=True)
    plain = _trainer(tmp_path, SSToken(), bf16=True)
    assert "_original_forward" not in vars(weighed.model)
    assert vars(weighed.model).keys() == vars(plain.model).keys()
    weighed.train()


def test_as_sstokens_history_progress_is_that_of_the_other_folds_from_the_first_step_on(tmp_path):
    weighing = SSToken(history="crossfit", balance=1.0, warmup_fraction=0.5)
    trainer = _trainer(tmp_path, weighing)
    columns = trainer.store.columns
    learnable = ~columns["out_of_fold_nll"].isnan()[None]
    values = {name: columns[name][None] for name in ("base_nll", "out_of_fold_nll")}
    labels = torch.where(learnable, 7, -100)
    labels[0, 0] = -100
    signals = Signals(labels, torch.zeros_like(labels), values, progress=0.0)
    rel = (values["base_nll"] - values["out_of_fold_nll"])[learnable]
    scores = weighing.score(signals)[learnable]
    assert torch.equal(scores.argsort(stable=True), rel.argsort(stable=True))
    assert weighing.needs == {"base_nll", "out_of_fold_nll"}
    assert SSToken(history=CrossFit(folds=Folds(3))).cross_fit.count == 3
    mixed = SSToken(history="crossfit")
    assert mixed.needs == {"base_nll", "out_of_fold_nll", "prompt_attention"}
    _trainer(tmp_path, mixed).train()


def test_noise_is_told_from_what_the_rest_of_the_data_teaches(tmp_path):
    torch.manual_seed(0)
    rows = []
    for _ in range(80):
        key = int(torch.randint(6, 16, (1,)))
        noise = torch.randint(20, 64, (2,)).tolist()
        ids = [key, key + 1, noise[0], key + 1, noise[1], key + 1]
        rows.append({"input_ids": ids, "labels": [-100, *ids[1:]], "token_class": [-1, 0, 1, 0, 1, 0]})
    arguments = {
        "model": tiny_llama(),
        "args": sft_config(tmp_path, learning_rate=0.5, per_device_train_batch_size=2),
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tiny_tokenizer(),
        "history_cache": tmp_path / "cache",
    }
    weighings = {
        "cross-fitted": CrossFitted(epochs=2.0),
        "brief": CrossFitted(epochs=0.05),
        "sstoken": SSToken(history="crossfit", balance=1.0),
    }
    thorough, brief, sstoken = diagnose(arguments, weighings, ["clean", "noise"])
    assert thorough.auroc["noise"] > 0.8
    assert thorough.auroc["noise"] > brief.auroc["noise"]
    assert thorough.unwanted_share < thorough.unwanted_share_of_all
    assert 0.0 <= sstoken.auroc["noise"] <= 1.0


def test_relative_progress_is_that_of_the_score_over_the_base_loss():
    labels = torch.full((1, 3), 7)
    values = {"base_nll": torch.tensor([[9.0, 4.0, 1.0]]), "out_of_fold_nll": torch.tensor([[9.0, 3.0, 0.5]])}
    signals = Signals(labels, torch.zeros_like(labels), values)
    assert CrossFitted().score(signals).tolist() == [[0.0, 1.0, 0.5]]
    relative = CrossFitted(progress="relative").score(signals)
    torch.testing.assert_close(relative, torch.tensor([[0.0, 1 / 4.5, 0.5 / 1.5]]))


def test_bad_folds_and_too_little_data_are_refused(tmp_path):
    with pytest.raises(UserError, match="folds must be at least 2, got 1"):
        CrossFitted(folds=1)
    with pytest.raises(UserError, match="must be trained for more than 0 epochs, got 0"):
        CrossFitted(epochs=0.0)
    weighing = CrossFitted()
    object.__setattr__(weighing, "progress", "clipped")  # the test run would check the annotation first
    with pytest.raises(UserError, match="progress must be one of difference, relative, got 'clipped'"):
        weighing.__post_init__()
    with pytest.raises(UserError, match="has 3 different samples, too few for 4 folds: give more data"):
        _trainer(tmp_path, CrossFitted(folds=4), token_rows(3))
    equal = Dataset.from_list([token_rows(1)[0]] * 4)
    with pytest.raises(UserError, match="has 1 different samples, too few for 2 folds"):
        _trainer(tmp_path, rows=equal)


def test_weights_that_are_split_between_ranks_are_refused_unless_the_scores_are_in_the_cache(tmp_path):
    known = _trainer(tmp_path).store.columns["out_of_fold_nll"]
    split = _trainer(tmp_path, SSToken())
    split.accelerator.state.distributed_type = DistributedType.FSDP
    try:
        samples = list(samples_of(split.train_dataset))
        torch.testing.assert_close(out_of_fold_nll(split, samples, Folds()), known, equal_nan=True)
        with pytest.raises(UserError, match="FSDP and DeepSpeed do not allow: start the same run once"):
            out_of_fold_nll(split, samples, Folds(3))
    finally:
        split.accelerator.state.distributed_type = DistributedType.NO
