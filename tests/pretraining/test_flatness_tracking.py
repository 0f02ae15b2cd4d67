"""The callback of flatness: it records, stops, and leaves the training bit for bit as it was."""

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.pretraining import FlatnessCallback

ROWS = torch.randint(5, 60, (8, 6), generator=torch.Generator().manual_seed(0))
DATA = Dataset.from_dict({"input_ids": ROWS.tolist(), "labels": ROWS.tolist()})
HELD_OUT = [{"input_ids": ROWS[:2].flip(1)}, {"input_ids": ROWS[2:3].flip(1)}]


def trained(folder, *callbacks, steps=4):
    set_seed(0)
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_steps=2,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    model = tiny.llama(attention_dropout=0.2)
    trainer = Trainer(model, arguments, train_dataset=DATA, callbacks=list(callbacks))
    trainer.train()
    return trainer


def test_it_records_and_changes_nothing(tmp_path):
    callback = FlatnessCallback(HELD_OUT, every=3)
    watched, plain = trained(tmp_path, callback), trained(tmp_path)
    assert [record.step for record in callback.records] == [0, 3, 4]
    assert all(record.fisher.value > 0 and record.fisher.samples == 3 for record in callback.records)
    assert callback.records[0].loss.value != callback.records[-1].loss.value
    weights = zip(watched.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)
    logged = [log for log in watched.state.log_history if "flatness/fisher_trace" in log]
    assert logged[0]["flatness/fisher_trace"] == callback.records[0].fisher.value


def test_it_stops_where_the_trace_falls_no_more(tmp_path):
    callback = FlatnessCallback(HELD_OUT, every=1, patience=2, fall=1.0)
    assert trained(tmp_path, callback).state.global_step == 2
    assert callback.records_since_fall() == 2


BAD = [
    (lambda: FlatnessCallback([]), "0 batches are too few"),
    (lambda: FlatnessCallback(HELD_OUT, every=0), "every must be at least 1"),
    (lambda: FlatnessCallback(HELD_OUT, per="word"), "per must be one of token, sequence"),
]


@pytest.mark.parametrize(("act", "words"), BAD)
def test_what_cannot_be_tracked_is_refused_in_one_sentence(act, words):
    with pytest.raises(UserError, match=words):
        act()
