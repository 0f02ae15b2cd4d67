"""Any data collator may lay out the batches: what is known about a token goes where the token goes, or the collator is refused."""

import copy
import pickle

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding, DataCollatorWithFlattening
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.core.errors import UserError
from tokenry.finetuning import DatasetWeights, RandomTokens, SmallLoss, SSToken, TokenWeighingTrainer
from tokenry.finetuning.collation import IndexingCollator


class Padding(DataCollatorForLanguageModeling):
    """TRL's, for those below."""


class Cutting(Padding):
    def torch_call(self, examples):
        return super().torch_call([{name: ids[:7] for name, ids in example.items()} for example in examples])


class CuttingFromTheLeft(Padding):
    def torch_call(self, examples):
        return super().torch_call([{name: ids[-7:] for name, ids in example.items()} for example in examples])


class Sorting(Padding):
    def torch_call(self, examples):
        return super().torch_call(sorted(examples, key=lambda example: -len(example["input_ids"])))


class Reversing(Padding):
    def torch_call(self, examples):
        return super().torch_call(examples[::-1])


class Dropping(Padding):
    def torch_call(self, examples):
        return super().torch_call(examples[1:] or examples)


class SilentAboutPadding(Padding):
    def torch_call(self, examples):
        batch = super().torch_call(examples)
        del batch["attention_mask"]
        return batch


class SortingInSilence(Sorting):
    def torch_call(self, examples):
        batch = super().torch_call(examples)
        del batch["attention_mask"]
        return batch


class TakingApart(Padding):
    """Pops what it reads, as collators of older versions do."""

    def torch_call(self, examples):
        return super().torch_call(
            [{name: example.pop(name) for name in list(example)} for example in examples]
        )


class Beginning(Padding):
    """Puts a token that is not learned from before each sample."""

    def torch_call(self, examples):
        begun = [
            {"input_ids": [1, *example["input_ids"]], "labels": [-100, *example["labels"]]}
            for example in examples
        ]
        return super().torch_call(begun)


class Encoding(Padding):
    """Gives what tokenizers give, which is no dict."""

    def torch_call(self, examples):
        return BatchEncoding(super().torch_call(examples))


class OneLongRow(Padding):
    """Samples in one row, told apart by their positions."""

    def torch_call(self, examples):
        return DataCollatorWithFlattening(return_tensors="pt")(
            [{name: list(ids) for name, ids in example.items()} for example in examples]
        )


def left(examples):
    """A function; pads on the left."""
    width = max(len(example["input_ids"]) for example in examples)

    def padded(name, value):
        return torch.tensor([[value] * (width - len(e[name])) + list(e[name]) for e in examples])

    real = [{"mask": [1] * len(e["input_ids"])} for e in examples]
    mask = torch.tensor([[0] * (width - len(e["mask"])) + e["mask"] for e in real])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask}


def left_in_silence(examples):
    return {name: value for name, value in left(examples).items() if name != "attention_mask"}


FOLLOWED = [
    Padding(0), Padding(0, pad_to_multiple_of=16), Cutting(0), CuttingFromTheLeft(0), Sorting(0), Reversing(0), Dropping(0),
    SilentAboutPadding(0), SortingInSilence(0), TakingApart(0), Beginning(0), Encoding(0), OneLongRow(0), left, left_in_silence,
]  # fmt: skip


def name_of(collator):
    return getattr(collator, "__name__", type(collator).__name__)


def make_trainer(folder, collator, rows, weighing=None, **options):
    return TokenWeighingTrainer(
        tiny_llama(),
        args=sft_config(
            folder, **{"learning_rate": 0.0, "max_length": None, "per_device_train_batch_size": 4, **options}
        ),
        train_dataset=rows,
        processing_class=tiny_tokenizer(),
        weighing=weighing or DatasetWeights(),
        data_collator=collator,
        history_cache=folder / "cache",
    )


def marked(rows):
    """Weights that say which token of which sample they belong to."""
    weights = [[100.0 * row + t for t in range(len(ids))] for row, ids in enumerate(rows["input_ids"])]
    return rows.add_column("token_weights", weights)


def given_weights(batch, trainer):
    return trainer.store.look_up(["dataset_weight"], batch["token_index"])["dataset_weight"]


@pytest.mark.parametrize("collator", FOLLOWED, ids=name_of)
@pytest.mark.parametrize("twins", [False, True], ids=["", "twins"])
def test_the_weight_of_a_token_goes_where_the_token_goes(tmp_path, collator, twins):
    rows = token_rows(8)
    if twins:  # samples of the same tokens, which only their weights tell apart
        rows = Dataset.from_list([dict(rows[0])] * 4)
    else:  # every token says which it is
        rows = rows.map(
            lambda row, number: {"input_ids": [number * 7 + t % 7 + 1 for t in range(len(row["labels"]))]},
            with_indices=True,
        )
        rows = rows.map(lambda row: {"labels": row["input_ids"]})
    rows = marked(rows)
    trainer = make_trainer(tmp_path, collator, rows)
    examples = [trainer.train_dataset[row] for row in range(4)]
    batch = trainer.data_collator(
        [{n: e[n] for n in ("input_ids", "labels", "token_runs")} for e in examples]
    )
    # The same collator lays the weights themselves out: as ids, shifted so that none is an id of padding.
    by_collator = (collator)(
        [
            {
                "input_ids": [int(w) + 1000 for w in rows[row]["token_weights"]],
                "labels": list(rows[row]["labels"]),
            }
            for row in range(4)
        ]
    )["input_ids"]
    expected = torch.where(by_collator >= 1000, by_collator - 1000, -1)
    assert torch.equal(given_weights(batch, trainer).nan_to_num(-1), expected.float())
    trainer.train()
    assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())


@pytest.mark.parametrize("collator", FOLLOWED, ids=name_of)
@pytest.mark.parametrize(
    "weighing",
    [SSToken(share=0.5), RandomTokens(), SmallLoss(warmup_epochs=0.0)],
    ids=lambda w: type(w).__name__,
)
def test_every_weighing_trains_with_it(tmp_path, collator, weighing):
    trainer = make_trainer(tmp_path, collator, token_rows(8), weighing, learning_rate=0.1)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert all(loss > 0 for loss in losses)
    assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())


@pytest.mark.parametrize("collator", [left, left_in_silence, SortingInSilence(0)], ids=name_of)
def test_padding_that_no_mask_tells_of_is_no_context(tmp_path, collator):
    """The first token of a sample is not learned, although something stands before it."""
    rows = marked(token_rows(8).map(lambda row: {"labels": row["input_ids"]}))
    trainer = make_trainer(tmp_path, collator, rows)
    trainer.train()
    lengths = torch.tensor([len(ids) for ids in rows["input_ids"]])
    unlearned = trainer.store.columns["weight"].isnan().nonzero()[:, 0]
    assert unlearned.tolist() == (lengths.cumsum(0) - lengths).tolist()


class ChangingTokens(Padding):
    def torch_call(self, examples):
        return super().torch_call([{**e, "input_ids": [5] * len(e["input_ids"])} for e in examples])


class LearningItsOwnEnd(Padding):
    def torch_call(self, examples):
        return super().torch_call([{name: [*ids, 1] for name, ids in e.items()} for e in examples])


class LearningPadding(Padding):
    def torch_call(self, examples):
        batch = super().torch_call(examples)
        return {
            **batch,
            "labels": batch["input_ids"].clone(),
            "attention_mask": torch.ones_like(batch["input_ids"]),
        }


class WithoutLabels(Padding):
    def torch_call(self, examples):
        return {name: value for name, value in super().torch_call(examples).items() if name != "labels"}


class WithShorterLabels(Padding):
    def torch_call(self, examples):
        batch = super().torch_call(examples)
        return {**batch, "labels": batch["labels"][:, 1:]}


class InLists(Padding):
    def torch_call(self, examples):
        return {name: value.tolist() for name, value in super().torch_call(examples).items()}


@pytest.mark.parametrize(
    ("collator", "words"),
    [
        (
            ChangingTokens(0),
            "the data collator ChangingTokens learns from other tokens than those of its samples",
        ),
        (
            LearningItsOwnEnd(0),
            "the data collator LearningItsOwnEnd learns from other tokens than those of its samples",
        ),
        (
            LearningPadding(0),
            "the data collator LearningPadding learns from other tokens than those of its samples",
        ),
        (
            WithoutLabels(0),
            "the data collator WithoutLabels must give input_ids and labels as tensors of one shape",
        ),
        (
            WithShorterLabels(0),
            "the data collator WithShorterLabels must give input_ids and labels as tensors of one",
        ),
        (InLists(0), "the data collator InLists must give input_ids and labels as tensors of one shape"),
    ],
    ids=lambda value: name_of(value) if isinstance(value, Padding) else "",
)
def test_a_collator_that_cannot_be_followed_is_refused_before_training(tmp_path, collator, words):
    with pytest.raises(UserError, match=words):
        make_trainer(tmp_path, collator, marked(token_rows(8)))


def test_a_collator_that_cannot_be_followed_is_fine_without_a_weighing(tmp_path):
    trainer = TokenWeighingTrainer(
        tiny_llama(), args=sft_config(tmp_path), train_dataset=token_rows(), processing_class=tiny_tokenizer(),
        data_collator=ChangingTokens(0),
    )  # fmt: skip
    trainer.train()
    assert type(trainer.data_collator) is ChangingTokens


def test_the_collator_keeps_its_class_and_its_attributes(tmp_path):
    collator = Sorting(0, pad_to_multiple_of=4)
    trainer = make_trainer(tmp_path, collator, marked(token_rows(8)))
    assert isinstance(trainer.data_collator, DataCollatorForLanguageModeling)
    assert isinstance(trainer.data_collator, Sorting)
    assert trainer.data_collator.pad_to_multiple_of == 4
    trainer.data_collator.pad_to_multiple_of = 8
    assert collator.pad_to_multiple_of == 8
    assert not hasattr(trainer.data_collator, "nothing_of_this_name")
    for other in (copy.copy(trainer.data_collator), pickle.loads(pickle.dumps(trainer.data_collator))):
        assert other.pad_to_multiple_of == 8


@pytest.mark.parametrize("base", [Padding, Sorting], ids=lambda base: base.__name__)
def test_a_collator_that_remembers_is_called_once_per_batch(tmp_path, base):
    class Counting(base):
        batches = 0

        def torch_call(self, examples):
            self.batches += 1
            return super().torch_call(examples)

    collator = Counting(0)
    make_trainer(tmp_path, collator, marked(token_rows(8))).train()
    assert collator.batches == 2


def test_the_guard_of_trl_still_sees_its_collator(tmp_path):
    trainer = make_trainer(
        tmp_path,
        None,
        token_rows(8),
        SmallLoss(warmup_epochs=0.0),
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    masked = token_rows(4).rename_column("labels", "completion_mask")
    with pytest.raises(ValueError, match="mask columns but no 'labels'"):
        trainer.evaluate(masked)


def test_workers_load_the_same_batches(tmp_path):
    first, second = (
        make_trainer(tmp_path, Sorting(0), marked(token_rows(8)), dataloader_num_workers=workers)
        for workers in (0, 1)
    )
    first.train()
    second.train()
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (first, second)]
    assert losses[0] == losses[1]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_order_any_cut_and_any_padding_is_followed(data):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    examples = [
        {"input_ids": data.draw(st.lists(st.integers(1, 2), min_size=n, max_size=n)), "labels": [7] * n}
        for n in lengths
    ]
    order = data.draw(st.permutations(range(len(lengths))))[: data.draw(st.integers(1, len(lengths)))]
    start, width = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 9))
    right, masked = data.draw(st.booleans()), data.draw(st.booleans())

    def lay_out(examples):
        laid = {"input_ids": [], "labels": [], "attention_mask": []}
        for row in order:
            ids = list(examples[row]["input_ids"])[start : start + width]
            padding = [0] * (width - len(ids))
            for name, values, value in (
                ("input_ids", ids, 0), ("labels", [7] * len(ids), -100), ("attention_mask", [1] * len(ids), 0),
            ):  # fmt: skip
                fill = [value] * len(padding)
                laid[name].append([*values, *fill] if right else [*fill, *values])
        return {name: torch.tensor(rows) for name, rows in laid.items() if masked or name != "attention_mask"}

    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    runs = [{**e, "token_runs": ends[row : row + 2]} for row, e in enumerate(examples)]
    batch = IndexingCollator(lay_out)(runs)
    marks = [
        {**e, "input_ids": range(100 + ends[row], 100 + ends[row + 1])} for row, e in enumerate(examples)
    ]
    expected = lay_out(marks)["input_ids"]
    assert torch.equal(batch["token_index"], torch.where(expected >= 100, expected - 100, -1))


def test_a_sample_that_begins_with_another_is_told_from_it():
    def swapped(examples):
        first, second = (list(example["input_ids"]) for example in examples)
        ids, mask = [second, [0, *first]], [[1, 1], [0, 1]]
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
        }

    runs = [
        {"input_ids": [1], "labels": [1], "token_runs": [0, 1]},
        {"input_ids": [1, 1], "labels": [1, 1], "token_runs": [1, 3]},
    ]
    assert IndexingCollator(swapped)(runs)["token_index"].tolist() == [[1, 2], [-1, 0]]


def test_rows_without_numbers_are_left_to_the_collator():
    batch = IndexingCollator(Padding(0))([{"input_ids": [3, 4], "labels": [3, 4]}])
    assert batch.keys() == {"input_ids", "labels", "attention_mask"}


def test_rows_that_were_changed_are_refused():
    with pytest.raises(UserError, match="rows of the training data have another number of tokens than when"):
        IndexingCollator(Padding(0))([{"input_ids": [3, 4], "labels": [3, 4], "token_runs": [0, 3]}])
