"""The published models that recipes take at the paper's scale, built from their configs without weights, as far as the first step or number."""

import inspect
import random
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from string import ascii_lowercase
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from PIL import Image
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    GenerationMixin,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    Trainer,
)
from trl.trainer import grpo_trainer

from tests.tiny.tokenizers import chat_bytes
from tokenry.alignment.entanglement import BothGradients
from tokenry.core.errors import UserError
from tokenry.core.train.training import Training
from tokenry.decoding.byte_level.byte_ensemble import ByteEnsemble
from tokenry.decoding.byte_level.byte_lm import ByteLM
from tokenry.models import load_model
from tokenry.models.checkpoint import as_dtype
from tokenry.papers import catalogue
from tokenry.recipes import hapo, load_recipe, sift, tempo, zett
from tokenry.recipes.testbeds import (
    digits_tokenizer,
    entangled_pairs,
    selection_trial,
    spoken_trial,
    tokenizer_swap,
)
from tokenry.recipes.testbeds.spoken_digits import Clip
from tokenry.theory import MarkovSource, markov_experiment
from tokenry.tokenization.transfer.zett import training
from tokenry.tokenization.transfer.zett.training import HyperNetworkTrainer, hypernetwork_for
from tokenry.verbs._tune import comparison, retained
from tokenry.verbs._tune.plan import make_plan


def decoder(kind, vocabulary, width, inner, layers, heads, groups, **settings):
    return kind(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        **settings,
    )


LLAMA_3B = decoder(LlamaConfig, 128_256, 3072, 8192, 28, 24, 8, tie_word_embeddings=True)
TINY_LLAMA = decoder(LlamaConfig, 32_000, 2048, 5632, 22, 32, 4)
LLAVA = LlavaConfig(
    vision_config=CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    ),
    text_config=decoder(LlamaConfig, 32_064, 4096, 11_008, 32, 32, 32),
)
CONFIGS = {
    "01-ai/Yi-1.5-6B": decoder(LlamaConfig, 64_000, 4096, 11_008, 32, 32, 4),
    "meta-llama/Llama-2-7b-hf": decoder(LlamaConfig, 32_000, 4096, 11_008, 32, 32, 32),
    "meta-llama/Llama-3.2-3B": LLAMA_3B,
    "meta-llama/Llama-3.2-3B-Instruct": LLAMA_3B,
    "meta-llama/Meta-Llama-3-8B-Instruct": decoder(LlamaConfig, 128_256, 4096, 14_336, 32, 32, 8),
    "mistralai/Mistral-7B-v0.1": decoder(MistralConfig, 32_000, 4096, 14_336, 32, 32, 8),
    "Qwen/Qwen2.5-3B": decoder(Qwen2Config, 151_936, 2048, 11_008, 36, 16, 2, tie_word_embeddings=True),
    "Qwen/Qwen2.5-Math-1.5B": decoder(Qwen2Config, 151_936, 1536, 8960, 28, 12, 2, tie_word_embeddings=True),
    "Qwen/Qwen3-1.7B": decoder(Qwen3Config, 151_936, 2048, 6144, 28, 16, 8, tie_word_embeddings=True),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": TINY_LLAMA,
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": TINY_LLAMA,
}
TEXT = "How many plums are there? The answer is 18, no more and no less. " * 40
ROW = {
    "question": "How many plums?",
    "answer": "There are 18.\n#### 18",
    "prompt": "How many plums?",
    "solution": "18",
    "chosen": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Eighteen."}],
    "rejected": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Few."}],
    "messages": [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "Eighteen."}],
}


LOAD_DATASET = inspect.signature(datasets.load_dataset)


ELSEWHERE = {
    "dpa-logic": "it has no model: losses of numbers, and of a table",
    "flatness": "no published model: the networks of the laptop, wider",
    "multi-token": "tests/recipes/test_multi_token.py, beside its small run",
    "otr": "no published model: that of the laptop, trained for longer",
    "rewarm": "test_paper_scale.py: two corpora of the hub",
    "scaling": "it trains no model: laws are fitted to published losses",
    "word-pooled": "no published model: those of the laptop, wider",
}
"""Recipes whose models at the paper's scale are built elsewhere, or that have none of their own."""


class ReachedError(Exception):
    """The first step, or the first token, was about to come."""


def paper_sizes(slug):
    return load_recipe(slug).scales["paper"]


def told(what, share=0.0):
    pass


def is_weightless(model):
    return {parameter.device.type for parameter in model.parameters()} == {"meta"}


def billions(model):
    return round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 1)


def weightless(name, *arguments, **options):
    """Stands for `load_model`: the published model without its weights."""
    dtype = as_dtype(inspect.signature(load_model).bind(name, *arguments, **options).arguments.get("dtype"))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            CONFIGS[name], dtype=torch.bfloat16 if dtype == "auto" else dtype
        )


@pytest.fixture
def hub(monkeypatch):
    """A hub that is asked with real signatures, and gives small data, one tokenizer, and models without weights."""
    rows = datasets.Dataset.from_list([ROW] * 40)

    def load_dataset(*arguments, **options):
        path = LOAD_DATASET.bind(*arguments, **options).arguments["path"]
        return rows.remove_columns("prompt") if path.startswith("trl-lib/") else rows

    tokenizer = chat_bytes(TEXT)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(
        retained, "_python_documentation", lambda: [f"{number}. {TEXT}" for number in range(4)]
    )
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    stand_ins = {
        "load_dataset": load_dataset,
        "load_model": weightless,
        "load_tokenizer": lambda name: tokenizer,
        "read_docstrings": lambda packages, *_, **__: SimpleNamespace(train=[TEXT] * 4, held_out=[TEXT] * 4),
    }
    for name, module in [*sys.modules.items()]:
        if name.startswith(("tokenry.recipes.", "tokenry.verbs._tune.")):
            for what in stand_ins.keys() & vars(module).keys():
                monkeypatch.setattr(module, what, stand_ins[what])
    return tokenizer


@pytest.fixture
def reached(monkeypatch):
    """Calls a function until a training takes its first step or a model writes its first token, and returns the model."""

    def at_once(model, *_, **__):
        raise ReachedError(model)

    def validated(model, inputs=None, generation_config=None, **options):
        own = ("custom_generate", "logits_processor", "stopping_criteria")
        given = {name: value for name, value in options.items() if name not in own}
        _, further = model._prepare_generation_config(generation_config, **given)
        model._validate_model_kwargs(further)
        raise ReachedError(model)

    monkeypatch.setattr(Training, "run", lambda training, *_, **__: at_once(training._stepped.module))
    monkeypatch.setattr(Trainer, "train", lambda trainer, *_, **__: at_once(trainer.model))
    monkeypatch.setattr(GenerationMixin, "generate", validated)
    for name, module in [*sys.modules.items()]:
        if name.startswith("tokenry.recipes.") and callable(getattr(module, "fit", None)):
            monkeypatch.setattr(module, "fit", at_once)

    def called(function, *arguments, **options):
        with pytest.raises(ReachedError) as caught:
            function(*arguments, **options)
        return caught.value.args[0]

    return called


def test_sstoken_tunes_a_llama_of_three_billion(hub, reached, tmp_path):
    hub.chat_template = None
    plan = make_plan(dict(paper_sizes("sstoken").plan))
    bench, _ = comparison.assemble(plan, tmp_path, told)
    assert [*bench.weighings] == ["full", "sstoken", "random"]
    sstoken = bench.weighings["sstoken"]
    # Weights without numbers look like those of another rank, which cannot be read before training.
    with pytest.raises(UserError, match="needs a pass before training"):
        bench._train(sstoken, bench.material.train, tmp_path)
    for name in ("full", "random"):
        model = reached(bench._train, bench.weighings[name], bench.material.train, tmp_path)
        loaded = {name: weight for name, weight in model.named_parameters() if "lora_" not in name}
        assert {weight.device.type for weight in loaded.values()} == {"meta"}
        assert len(loaded) < len([*model.parameters()])
        assert round(sum(weight.numel() for weight in loaded.values()) / 1e9, 1) == 3.2


def test_byte_probabilities_ask_an_ensemble_of_three(hub):
    sizes = paper_sizes("byte-probabilities")
    models = [weightless(name, sizes.dtype) for name in sizes.models]
    assert [*map(billions, models)] == [6.7, 7.2, 6.1]
    ensemble = ByteEnsemble([ByteLM(model, hub) for model in models])
    assert len(ensemble.models) == 3


def test_sift_asks_a_chat_model_problems_in_words(hub, reached):
    sizes = paper_sizes("sift")
    exam = sizes.reader.prepared(8, sizes.seed, told)
    assert exam.answers[0] == "18"
    model = reached(sift.answered, exam, {"extract": sift.final_answer, "equivalent": sift.equal_answers}, 0)
    assert is_weightless(model)
    assert billions(model) == 3.2


def test_every_arm_of_hapo_is_a_trainer_of_qwen(hub, reached, monkeypatch):
    monkeypatch.setattr(grpo_trainer, "create_model_from_path", lambda name, **_: weightless(name))
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda *_, **__: hub)
    setting = paper_sizes("hapo").setting
    learn = replace(setting, options=(*setting.options, ("use_cpu", True))).prepared(0)
    for arm in hapo.ARMS.values():
        model = reached(learn, arm)
        assert is_weightless(model)
        assert billions(model) == 1.5


def test_tempo_looks_at_texts_of_qwen(hub, reached):
    model = reached(tempo.look_at_texts, paper_sizes("tempo"), told)
    assert is_weightless(model)
    assert billions(model) == 1.7


def test_both_gradients_of_a_pair_of_llama(hub, monkeypatch):
    # It would look for several texts in one row, by numbers that are not there.
    monkeypatch.setattr(transformers.masking_utils, "find_packed_sequence_indices", lambda positions: None)
    sizes = paper_sizes("entanglement")
    model = weightless(sizes.model)
    pairs = entangled_pairs.sentiment_pairs(hub, sizes.prompts)
    pairs += entangled_pairs.data_pairs(sizes.data, hub, 8)
    assert len(pairs) == 3 * sizes.prompts + 8
    with pytest.raises(NotImplementedError, match="nonzero"):  # after the whole forward pass
        BothGradients(model, pairs[-1].pair, list(model.parameters()))
    assert billions(model) == 8.0


def test_hypernetworks_of_tinyllama_in_both_forms(hub, monkeypatch):
    monkeypatch.setattr(training, "source_rows", lambda model, number: torch.randn(number, 2 * 2048))
    draws = random.Random(0)
    texts = [" ".join("".join(draws.choices(ascii_lowercase, k=9)) for _ in range(60)) for _ in range(200)]
    subject = replace(paper_sizes("zett")(told), texts=texts)
    assert billions(subject.model) == billions(subject.variant) == 1.1
    for settings in zett._SETTINGS.values():
        network = hypernetwork_for(subject.model, subject.old, **subject.hypernetwork, **settings)
        HyperNetworkTrainer(subject.model, subject.old, subject.texts, subject.training, network)


def test_qwen_changes_its_tokenizer(hub, monkeypatch):
    asked = inspect.signature(huggingface_hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **o: asked.bind(*a, **o).args[0])
    monkeypatch.setattr(
        tokenizer_swap, "sentence_encoder", lambda folder: lambda strings: torch.ones(len(strings), 4)
    )
    subject = paper_sizes("tokenadapt")(told)
    assert is_weightless(subject.model)
    assert billions(subject.model) == 3.1
    assert len(subject.auxiliary[0]) == len(subject.auxiliary[1]) == len(hub)


def test_zoo_prune_asks_llava_as_far_as_its_sensitivities(hub, monkeypatch):
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(LLAVA)
    row = {"question": "Is there a dog?", "answer": "no", "image": Image.new("RGB", (30, 20))}

    def load_dataset(*arguments, **options):
        assert LOAD_DATASET.bind(*arguments, **options).arguments["path"] == "lmms-lab/POPE"
        return datasets.Dataset.from_list([row] * 2)

    def processed(images, text, return_tensors):
        assert "<image>" in text
        ids = torch.tensor([[1] + [LLAVA.image_token_index] * 576 + [2]], device="meta")
        pixels = torch.empty(1, 3, 336, 336, device="meta")
        return transformers.BatchFeature(
            {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(transformers.BatchFeature, "to", lambda feature, *_: feature)
    monkeypatch.setattr(LlavaForConditionalGeneration, "from_pretrained", lambda name, dtype: llava)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda name: processed)
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        paper_sizes("zoo-prune")(told)
    assert billions(llava) == 7.1


@pytest.mark.parametrize("arm", spoken_trial.ARMS)
def test_heads_that_speak(arm, reached):
    sizes = replace(paper_sizes("flow-omni"), voices=2, takes=1, test_takes=1, codes=4)
    clips = [
        Clip(torch.randn(8000), digit, voice, is_test)
        for digit, voice, is_test in product(range(10), range(5), (False, True))
    ]
    trial = spoken_trial.SpokenTrial(clips, sizes)
    with init_empty_weights(include_buffers=False):
        model = reached(trial.said_by, arm, told)
    assert is_weightless(model)
    assert model.config.text_config.hidden_size == 896


@pytest.mark.parametrize("order", paper_sizes("markov-theory").orders)
def test_transformers_on_markov_sources(order, reached):
    source = MarkovSource.switching(order, 0.1, 0.1)
    with init_empty_weights(include_buffers=False):
        model = reached(markov_experiment, source, config=paper_sizes("markov-theory").training)
    assert is_weightless(model)


def test_autoencoders_of_digits(reached):
    setting = replace(paper_sizes("image-tokenizer-posttraining").setting, copies=1)
    digits = digits_tokenizer.distorted_digits(setting, 0)
    with init_empty_weights(include_buffers=False):
        judge = digits_tokenizer.DigitJudge(digits_tokenizer.metric_body(), 32)
        model = reached(digits_tokenizer.train_digits_tokenizer, digits, judge, setting, 0)
    assert is_weightless(model)


def test_families_of_checkpoints(hub, reached):
    sizes = paper_sizes("preselect")
    with init_empty_weights(include_buffers=False):
        model = reached(selection_trial.measured, sizes, told)
    assert is_weightless(model)


def test_no_recipe_is_left_out():
    here = Path(__file__)
    built = "".join(
        file.read_text(encoding="utf-8") for file in (here, here.with_name("test_paper_scale.py"))
    )
    assert [paper.slug for paper in catalogue() if paper.available and f'"{paper.slug}"' not in built] == []
