"""Trainings of a `ContinuousTokenLM` on two ranks; run by test_two_ranks.py, on two CPU processes."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, WhisperConfig, WhisperModel

from tests import tiny
from tokenry.generation import ContinuousTokenLM, SpokenSample, StreamCollator

ANSWER = (5, 6, 9)


def hearing_model(**settings: Any) -> ContinuousTokenLM:
    """Tokens of two frames of three bins, beside a tiny Llama, heard by a tiny Whisper; nothing is dropped."""
    torch.manual_seed(0)
    sizes = {"d_model": 12, "vocab_size": 20, "num_mel_bins": 5, "max_source_positions": 8}
    layers = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_layers": 1}
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    whisper = WhisperModel(WhisperConfig(**sizes, **layers, **ids, decoder_attention_heads=2))
    options = {"channels": 6, "width": 8, "depth": 1, "stack": 2, "prenet_dropout": 0.0} | settings
    model = ContinuousTokenLM.around(tiny.llama(), whisper, condition_dropout=0.0, **options)
    for parameter in model.speech_head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def sample(number: int, speaks: bool = True, writes: bool = True, hears: bool = True) -> SpokenSample:
    """An answer in text, in speech or in both, to speech that is heard or to nothing."""
    draw = torch.Generator().manual_seed(number)
    heard = {"heard": torch.randn(5, 16, generator=draw), "heard_states": 3} if hears else {}
    frames = torch.randn(6, 3, generator=draw) if speaks else None
    return SpokenSample((1 + number % 4,), ANSWER if writes else (), frames, **heard)


def trained(model: ContinuousTokenLM, samples: list[SpokenSample], folder: Path, ranks: int = 1) -> None:
    """Two steps of four samples, in order."""
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4 // ranks, learning_rate=0.1, optim="sgd", report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", train_sampling_strategy="sequential",
        **({"ddp_backend": "gloo", "ddp_timeout": 60, "ddp_find_unused_parameters": False} if ranks > 1 else {}),
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=samples, data_collator=StreamCollator(2)).train()


def same_shapes(folder: Path, ranks: int = 1) -> ContinuousTokenLM:
    """All but the flow, whose noise is each rank's own, on answers of one length."""
    model = hearing_model(flow_weight=0.0)
    model.train_stage("everything")
    trained(model, [sample(number) for number in range(8)], folder, ranks)
    return model


def every_shape(folder: Path, ranks: int) -> ContinuousTokenLM:
    """The first stage; in the first step rank 0 hears and says nothing, in the second rank 1 writes nothing."""
    model = hearing_model()
    model.train_stage("alignment")
    silent = [sample(number, speaks=False, hears=False) for number in range(2)]
    wordless = [sample(number, writes=False) for number in range(6, 8)]
    # Accelerate deals out whole batches in turn, of two samples here.
    trained(model, [*silent, *map(sample, range(2, 6)), *wordless], folder, ranks)
    return model


def _main(output: Path) -> None:
    torch.set_num_threads(1)
    for train in (same_shapes, every_shape):
        torch.save(train(output, 2).state_dict(), output / f"{train.__name__}-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    _main(Path(sys.argv[1]))
