"""At the paper's scale, every recipe's settings are valid, and its models are built: without weights, so that no GPU is needed to find a wrong argument."""

import inspect
import sys

import datasets
import pytest
import torch
import transformers
from accelerate import init_empty_weights
from PIL import Image
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from tests import tiny
from tests.tiny.tokenizers import chatml_tokenizer
from tokenry.core.tensors.output_head import is_encoder_decoder
from tokenry.decoding import TokenRouter
from tokenry.papers import catalogue
from tokenry.pretraining import generator_config, longformer_config
from tokenry.recipes import load_recipe
from tokenry.recipes.testbeds import (
    addition_transformer,
    clause_language,
    code_functions,
    coded_text,
    evidence_twice,
    far_evidence,
    quadrant_digits,
    row_transformer,
    tiny_encoder,
    two_corpora,
    word_families,
)
from tokenry.recipes.testbeds.character_reader import CharacterReader
from tokenry.recipes.testbeds.reasoning_pair import ReasoningRouting

SLUGS = [paper.slug for paper in catalogue() if paper.available]


class ReachedError(Exception):
    """The training was about to begin."""


def paper_sizes(slug):
    return load_recipe(slug).scales["paper"]


@pytest.fixture
def before_training(monkeypatch):
    """Calls a function until it trains, and returns the first model that it would train; its weights are on no device."""

    def fit(model, *_, **__):
        raise ReachedError(model)

    def called(function, *arguments, **options):
        for name, module in [*sys.modules.items()]:
            if name.startswith("tokenry.recipes.") and callable(getattr(module, "fit", None)):
                monkeypatch.setattr(module, "fit", fit)
        with init_empty_weights(include_buffers=False), pytest.raises(ReachedError) as reached:
            function(*arguments, **options)
        return reached.value.args[0]

    return called


def is_weightless(model):
    assert isinstance(model, nn.Module)
    return {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("slug", SLUGS)
def test_the_settings_of_the_paper_are_valid_and_larger_than_those_of_a_laptop(slug):
    scales = load_recipe(slug).scales
    assert set(scales) == {"laptop", "paper"}
    assert scales["paper"] != scales["laptop"]


FLAN = {
    "google/flan-t5-base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12},
    "google/flan-t5-large": {"d_model": 1024, "d_ff": 2816, "num_layers": 24, "num_heads": 16},
}


def test_encoder_decoders_of_a_cascade():
    pair = paper_sizes("cascades").pair
    both = {"vocab_size": 32_128, "feed_forward_proj": "gated-gelu"}
    with torch.device("meta"):
        models = [
            T5ForConditionalGeneration(T5Config(**both, decoder_start_token_id=0, **FLAN[name]))
            for name in (pair.small, pair.large)
        ]
    assert all(map(is_weightless, models))
    # Built without weights, the head is tied; that of the checkpoints is a matrix of its own.
    sizes = [model.num_parameters() + model.shared.weight.numel() for model in models]
    assert sizes == [247_577_856, 783_150_080]
    assert all(is_encoder_decoder(model) for model in models)


QWEN = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": {
        "vocab_size": 152_064,
        "hidden_size": 5120,
        "intermediate_size": 27_648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
    },
}


def test_reasoning_models_of_a_router():
    pair, tokenizer = paper_sizes("r2r").pair, chatml_tokenizer()
    with torch.device("meta"):
        small, large = (
            Qwen2ForCausalLM(Qwen2Config(**QWEN[name], tie_word_embeddings=False))
            for name in (pair.small, pair.large)
        )
        routing = ReasoningRouting(pair, small, large, (tokenizer, tokenizer))
        router = TokenRouter.from_small_model(small)
    assert all(map(is_weightless, (small, large, router)))
    assert [model.num_parameters() for model in (small, large)] == [1_777_088_000, 32_763_876_352]
    trained = sum(weight.numel() for weight in router.parameters() if weight.requires_grad)
    assert trained == 56_302_081
    assert routing.decoding(router, rate=0.15).rate == 0.15


def test_readers_of_evidence(before_training):
    assert is_weightless(before_training(evidence_twice.train_model, paper_sizes("reagent").setting, 0))


def test_readers_of_word_families(before_training):
    setting = paper_sizes("frugalprompt").family
    sentences = word_families.draw_sentences(8, setting, torch.Generator().manual_seed(0))
    assert is_weightless(before_training(word_families.train_reader, sentences, setting, 0))


def test_models_of_coded_text(before_training):
    sizes = paper_sizes("equal-info")
    rows = torch.randint(256, (4, sizes.length))
    assert is_weightless(before_training(coded_text._trained, rows, 256, sizes, 0, lambda what, share: None))


def test_encoders_of_replaced_tokens():
    sizes = paper_sizes("electra")
    config = clause_language.ClauseLanguage(sizes.language).config()
    with torch.device("meta"):
        assert is_weightless(AutoModel.from_config(config))
        assert is_weightless(
            AutoModelForMaskedLM.from_config(generator_config(config, sizes.generator_share))
        )


@pytest.mark.parametrize("times", [1, 2])
def test_sliding_windows(times):
    sizes = paper_sizes("budget-longformer")
    evidence = far_evidence.FarEvidence(sizes.documents)
    config = longformer_config("small", evidence.vocabulary, **evidence.sizes(times * sizes.window))
    with torch.device("meta"):
        assert is_weightless(AutoModelForMaskedLM.from_config(config))
        assert is_weightless(
            AutoModelForMaskedLM.from_config(generator_config(config, sizes.generator_share))
        )


def test_generators_of_cells():
    from tokenry.recipes import xar

    with torch.device("meta"):
        for arm in (xar.NOISY, xar.CLEAN):
            assert is_weightless(xar.model_for(paper_sizes("xar"), arm, 0))


@pytest.mark.parametrize("slug", ["clinical-efficiency", "ai-text-detection", "long-text-hacks"])
def test_encoder_classifiers(slug):
    tokenizer = tiny_encoder.encoder_tokenizer(["The answer is."], 300)
    with torch.device("meta"):
        classifier = tiny_encoder.tiny_encoder(tokenizer, ("a", "b"), sizes=paper_sizes(slug).encoder)
    assert is_weightless(classifier.model)


def test_encoders_of_code():
    tokenizer = tiny_encoder.encoder_tokenizer(["The answer is."], 300)
    with torch.device("meta"):
        classifier = code_functions.code_classifier(tokenizer, ("a", "b"), paper_sizes("code-merge").timed)
    assert is_weightless(classifier.model)


def test_adders():
    with torch.device("meta"):
        assert is_weightless(addition_transformer.addition_model(paper_sizes("number-tokens").setting, 40, 0))


def test_readers_of_characters():
    with torch.device("meta"):
        assert is_weightless(CharacterReader(paper_sizes("charbench").reader, 900, 24, 30))


def test_multilayer_perceptrons_of_permutations():
    sizes = paper_sizes("inverse-permutation")
    with torch.device("meta"):
        assert is_weightless(row_transformer.RowTransformer(2 * sizes.n, sizes.n, sizes.mlps))


def test_readers_of_one_visual_token():
    from tokenry.compression.vision import QueCC

    with torch.device("meta"):
        model = quadrant_digits.QuadrantReader(QueCC, paper_sizes("one-visual-token").digits)
    assert is_weightless(model)


class Rows(list):
    """A data set of the hub with the columns that any recipe reads; `data[part][column]` is a column of it."""

    def __getitem__(self, key):
        if isinstance(key, int | slice):
            return super().__getitem__(key)
        return [row[key] for row in self] if key in super().__getitem__(0) else self

    def shuffle(self, seed):
        return self

    def take(self, number):
        return self


@pytest.fixture
def hub(monkeypatch):
    """A hub that is asked with real signatures, and gives small data and models without weights."""
    row = {
        "image": Image.new("RGB", (30, 20)),
        "label": 3,
        "text": "The answer is no. " * 400,
        "func": "int f() { return 1; }",
        "target": True,
    }
    signature = inspect.signature(datasets.load_dataset)
    asked = []

    def load_dataset(*arguments, **options):
        asked.append(signature.bind(*arguments, **options).arguments["path"])
        return Rows([row] * 8)

    with torch.device("meta"):
        classifier = ViTForImageClassification(
            ViTConfig(hidden_size=384, num_attention_heads=6, num_labels=1000)
        )
        language_model = tiny.llama()
    processor = ViTImageProcessor()
    tokenizer = tiny_encoder.encoder_tokenizer([row["text"]], 300)
    tokenizer.eos_token = tokenizer.sep_token
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", lambda name: processor)
    monkeypatch.setattr(
        transformers.AutoModelForImageClassification, "from_pretrained", lambda name: classifier
    )
    monkeypatch.setattr(nn.Module, "to", lambda module, *_, **__: module)
    monkeypatch.setattr(two_corpora, "load_model", lambda name, dtype=None: language_model)
    for testbed in (two_corpora, code_functions):
        monkeypatch.setattr(testbed, "load_tokenizer", lambda name: tokenizer)
    return asked


def told(what, share):
    pass


@pytest.mark.parametrize("slug", ["pitome", "diffrate", "zero-tprune"])
def test_image_classifiers_of_the_hub(slug, hub):
    sizes = paper_sizes(slug)
    loaded = (sizes.load if slug == "pitome" else sizes)(told)
    classifier = getattr(loaded, "classifier", loaded)
    assert is_weightless(classifier.model)
    assert tuple(classifier.images.shape) == (8, 3, 224, 224)
    assert set(hub) == {"ILSVRC/imagenet-1k"}


def test_functions_of_the_hub(hub):
    task = paper_sizes("code-merge").task()
    assert len(task.train.sources) == 8
    assert hub == ["code_x_glue_cc_defect_detection"]


def test_parallel_texts_of_the_hub(hub):
    corpus = paper_sizes("premiums")(told)
    assert len(corpus.train) == 10
    assert len(hub) == 20


def test_two_corpora_of_the_hub(hub):
    corpora = two_corpora.pythia(told, tokens=4096)
    with torch.device("meta"):
        assert is_weightless(corpora.fresh(0))
    assert len(hub) >= 2
