"""TRL's trackers get what a weighing logs, beside TRL's own figures."""

import pytest

from tests.tiny.models import llama as tiny_llama
from tests.tiny.tokenizers import word_tokenizer as tiny_tokenizer
from tests.tiny.training import sft_config, token_rows
from tokenry.finetuning import SSToken, TokenWeighingTrainer


def test_tensorboard_has_the_statistics_of_the_weighing_beside_trls(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = TokenWeighingTrainer(
        tiny_llama(),
        args=sft_config(tmp_path, report_to=["tensorboard"]),
        train_dataset=token_rows(),
        processing_class=tiny_tokenizer(),
        weighing=SSToken(warmup_fraction=0.5),
        history_cache=tmp_path / "cache",
    )
    trainer.train()
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    written = EventAccumulator(str(events)).Reload()
    logged = [entry["tokens/share_kept"] for entry in trainer.state.log_history if "loss" in entry]
    assert [event.value for event in written.Scalars("train/tokens/share_kept")] == pytest.approx(logged)
    assert {"train/loss", "train/num_tokens", "train/signals/prompt_attention"} <= set(
        written.Tags()["scalars"]
    )
