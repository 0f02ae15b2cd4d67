"""Attribution: DecompX in head space and in one backward pass against a tensor per head and source, ReAGent against inseq's; prompts.

DecompX takes a classifier of 4 layers and 768 numbers apart; what it is compared with forms, as the released code, the output of every
head for every pair of position and source, in all rows of all layers, and shares the biases of the MLP in its full width. The one backward
pass through SmolLM2-135M stands beside captum's FeatureAblation, one forward pass per token, and the memory of attributions of 512 tokens
beside that of captum's input x gradient and of attention weights that are kept for all layers, as inseq keeps them. ReAGent runs to the
paper's stopping rule on SmolLM2-135M, beside inseq's class where it is installed (with uniform replacements: its tagger is a download), else
beside the loop of the paper. A prompt is shortened to half of its tokens by one untrained token classifier, in tokenry and in LLMLingua-2
(llmlingua 0.2.2), which counts by the same tokenizer in the place of tiktoken, that it would download.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from _measure import Step, interleaved, peak_memory
from _report import Result, result, run, speedup
from tokenizers import BertWordPieceTokenizer
from torch import Generator, Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
)

from tokenry.attribution import Question, ReAGent, attribute, contributions, decompx, reagent_update
from tokenry.attribution.reagent import keep_top
from tokenry.compression.text import PromptCompressor, TokenClassifierScorer
from tokenry.core.text.token_counts import text_token_counts
from tokenry.models import load_model, load_tokenizer
from tokenry.recipes.testbeds.evidence_twice import COPIED
from tokenry.recipes.testbeds.prose import read_story

EXACT = import_module("tokenry.attribution.decompx")
ENCODERS = {
    "BERT-mini": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "BERT-tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 512,
    },
}
"""The token classifiers that shorten prompts: the larger it is, the less matters what is around it."""
TARGETS = {64: (2.2, 20.0), 96: (2.8, 30.0)}
FORMS = ("head and source", "head space", "one backward")
KEPT, GRADIENT = "attention weights of all layers", "captum InputXGradient"


def measure(smoke: bool) -> Iterator[Result]:
    """Both attributions, their memory, and prompts."""
    yield from decompositions(smoke)
    yield from ablation(smoke)
    yield from memory(smoke)
    yield replacement(smoke)
    yield from prompts(smoke)


# --- DecompX -------------------------------------------------------------------------------------------------------------------------


def shape(smoke: bool) -> dict[str, int]:
    """The sizes of the encoder."""
    if smoke:
        return {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return {"hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 3072}


def decomposing(form: str, length: int, smoke: bool) -> Step:
    """Load an encoder, and return a step that takes a text apart."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**shape(smoke), vocab_size=1000, num_labels=2)).eval()
    ids = torch.randint(1000, (1, 6 if smoke else length))
    forms: dict[str, Step] = {
        "head and source": lambda: by_heads_and_sources(model, ids),
        "head space": lambda: decompx(model, ids).classifier,
        "one backward": lambda: contributions(model, ids, [0]),
    }
    return forms[form]


def decompositions(smoke: bool) -> Iterator[Result]:
    """CPU time and memory of both forms of DecompX beside the head-and-source form, by length."""
    for length, (in_head_space, one_backward) in TARGETS.items():
        steps = {form: decomposing(form, length, smoke) for form in FORMS}
        torch.testing.assert_close(steps["head and source"](), steps["head space"](), rtol=1e-3, atol=1e-5)
        seconds = interleaved(steps, 1 if smoke else 2, threads=1)
        settings: dict[str, Any] = {"length": length, "threads": 1, **shape(smoke)}
        for name, target in (("head space", in_head_space), ("one backward", one_backward)):
            yield speedup(
                f"DecompX of {length} tokens: head and source / {name}",
                seconds["head and source"].cpu / seconds[name].cpu,
                target,
                cpu_seconds={step: round(taken.cpu, 3) for step, taken in seconds.items()},
                **settings,
            )
        peaks = peak_memory({form: partial(decomposing, form, length, smoke) for form in FORMS})
        yield result(
            f"peak memory of DecompX of {length} tokens: head space / head and source",
            peaks["head space"] / peaks["head and source"],
            0.25,
            megabytes={form: round(peak, 1) for form, peak in peaks.items()},
            **settings,
        )


@torch.no_grad()
def by_heads_and_sources(model: BertForSequenceClassification, ids: Tensor) -> Tensor:
    """DecompX with the output of every head for every position and source, and biases shared in the width of the MLP, at all positions."""

    def attended(state: Any, parts: Tensor | None, values: Tensor, rows: slice) -> Tensor:
        p, weights = state.probabilities[:, :, rows], state.heads(state.output.weight[None])[0]
        if parts is None:
            every = torch.einsum("bhjd,ohd->bhjo", values, weights)
            return torch.einsum("bhij,bhjo->bhijo", p, every).sum(dim=1)
        every = torch.einsum("bhsjd,ohd->bhsjo", values.unflatten(-1, (parts.shape[2], -1)), weights)
        return torch.einsum("bhis,bhsjo->bhijo", p, every).sum(dim=1)

    def fed(state: Any, parts: Tensor, x: Tensor, config: Any) -> Tensor:
        z = state.up(x)
        hidden = EXACT.share_bias(parts @ state.up.weight.T, state.up.bias, config.kind)
        hidden = hidden * (state.activation(z) / (z + 1e-12))[:, :, None]
        return EXACT.share_bias(hidden @ state.down.weight.T, state.down.bias, config.kind)

    ours = {name: getattr(EXACT, name) for name in ("_attended", "_fed", "_IN_CACHE")}
    EXACT._attended, EXACT._fed, EXACT._IN_CACHE = attended, fed, 1 << 60
    try:
        return decompx(model, ids, all_positions=True).classifier
    finally:
        for name, own in ours.items():
            setattr(EXACT, name, own)


# --- SmolLM2 -------------------------------------------------------------------------------------------------------------------------


def language_model(smoke: bool, tokens: int, attention: str = "sdpa") -> tuple[Any, Tensor]:
    """SmolLM2-135M, or a tiny model, and the beginning of a story."""
    model = load_model("embedded", dtype=torch.float32, attn_implementation=attention)
    if smoke:
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=49_152, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                        attn_implementation=attention)
        )  # fmt: skip
    ids = load_tokenizer("embedded")(" ".join(read_story()[:40]))["input_ids"]
    return model.eval(), torch.tensor([ids[: 8 if smoke else tokens]])


def ablation(smoke: bool) -> Iterator[Result]:
    """CPU time of one backward pass beside captum's FeatureAblation; without captum, nothing is compared."""
    if not importlib.util.find_spec("captum"):
        return
    captum = import_module("captum.attr")
    model, ids = language_model(smoke, 128)
    with torch.no_grad():
        target = int(model(input_ids=ids, logits_to_keep=1).logits[0, -1].argmax())
    ablated = captum.FeatureAblation(
        lambda text: model(input_ids=text, logits_to_keep=1).logits[:, -1, target]
    )
    steps: dict[str, Step] = {
        "captum FeatureAblation": torch.no_grad()(lambda: ablated.attribute(ids)),
        "one backward": lambda: contributions(model, ids, [target]),
    }
    seconds = interleaved(steps, 1, threads=1)
    yield speedup(
        "one backward pass of SmolLM2, 128 tokens: captum FeatureAblation / tokenry",
        seconds["captum FeatureAblation"].cpu / seconds["one backward"].cpu,
        30,
        cpu_seconds={step: round(taken.cpu, 3) for step, taken in seconds.items()},
        tokens=ids.shape[1],
        threads=1,
    )


def attributing(method: str, smoke: bool) -> Step:
    """Load a model, and return a step that attributes the next token of a text."""
    kept = method == KEPT
    model, ids = language_model(smoke, 512, "eager" if kept else "sdpa")
    with torch.no_grad():
        model(input_ids=ids[:, :2])  # weights that are mapped from the file are read now
    if kept:
        return torch.no_grad()(lambda: model(input_ids=ids, output_attentions=True, logits_to_keep=1))
    if method == GRADIENT:
        captum = import_module("captum.attr")
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        gradient = captum.InputXGradient(
            lambda e: model(inputs_embeds=e, use_cache=False, logits_to_keep=1).logits[:, -1, 7]
        )
        return lambda: gradient.attribute(embedded)
    return lambda: attribute(model, ids, [7], method)


def memory(smoke: bool) -> Iterator[Result]:
    """Peak memory of attributions, beside what keeps the attention of all layers, and beside captum."""
    compared = {"attention-rollout": KEPT, "attention-mean": KEPT, "decompx:method=linear": GRADIENT}
    if not importlib.util.find_spec("captum"):
        del compared["decompx:method=linear"]
    peaks = peak_memory({name: partial(attributing, name, smoke) for name in {*compared, *compared.values()}})
    for ours, theirs in compared.items():
        yield result(
            f"peak memory of 512 tokens: {ours} / {theirs}",
            peaks[ours] / peaks[theirs],
            1.0,
            megabytes={name: round(peak, 1) for name, peak in peaks.items()},
        )


# --- ReAGent -------------------------------------------------------------------------------------------------------------------------


def replacement(smoke: bool) -> Result:
    """CPU time of ReAGent until all of its probes have stopped, or for a number of steps."""
    text, answer = COPIED[0]
    tokenizer, probes, steps = load_tokenizer("embedded"), 4 if smoke else 64, 2 if smoke else 4
    model, _ = language_model(smoke, 0)
    context, target = torch.tensor(tokenizer(text)["input_ids"]), tokenizer(answer)["input_ids"][0]
    method = ReAGent(probes=probes, max_steps=steps)
    question = Question(model, context, (target,))
    has_inseq = bool(importlib.util.find_spec("inseq"))
    peer = "inseq's ReAGent" if has_inseq else "the paper's loop"
    told: dict[str, int] = {}

    def theirs() -> None:
        torch.manual_seed(0)
        run_peer = inseq_reagent if has_inseq else loop
        told[peer] = run_peer(model, tokenizer, context, target, probes, steps)

    def ours() -> None:
        told["tokenry"] = method.until_answered(question).forwards

    seconds = interleaved({peer: theirs, "tokenry": ours}, 1, threads=1)
    return speedup(
        f"ReAGent, {probes} probes: {peer} / tokenry",
        seconds[peer].cpu / seconds["tokenry"].cpu,
        3.0,
        cpu_seconds={name: round(taken.cpu, 3) for name, taken in seconds.items()},
        sequences=told,
        probes=probes,
        steps_at_most=steps,
        length=len(context),
        threads=1,
    )


@torch.no_grad()
def inseq_reagent(model: Any, tokenizer: Any, context: Tensor, target: int, probes: int, steps: int) -> int:
    """Inseq's own class with its defaults; returns the number of sequences that were read."""
    core = import_module("inseq.attr.feat.ops.reagent_core")

    class Uniform(import_module("inseq.attr.feat.ops.reagent_core.token_sampler").TokenSampler):  # type: ignore[misc]
        def __call__(self, ids: Tensor) -> Tensor:
            return torch.randint(len(tokenizer), ids.shape)

    stop = core.TopKStoppingConditionEvaluator(
        model=model, sampler=Uniform(), top_k=3, keep_top_n=5, keep_ratio=0.0
    )
    replacer = core.UniformTokenReplacer(sampler=Uniform(), ratio=0.3)
    scored = core.DeltaProbImportanceScoreEvaluator(model, tokenizer, replacer, stop, steps)
    core.AggregateRationalizer(scored, probes, 0, keep_top_n=5)(context[None], torch.tensor([target]))
    return probes * (2 * scored.num_steps + 1)


@torch.no_grad()
def loop(model: Any, tokenizer: Any, context: Tensor, target: int, probes: int, steps: int) -> int:
    """The paper's loop: a step of all probes with all logits, its test, and the next step; returns the number of sequences."""
    draw = Generator().manual_seed(0)

    def p(ids: Tensor) -> Tensor:
        return model(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)

    def replaced(mask: Tensor) -> Tensor:
        return torch.where(mask, torch.randint(len(tokenizer), mask.shape, generator=draw), context)

    z = torch.zeros(probes, len(context), dtype=torch.float64)
    stopped = torch.zeros(probes, dtype=torch.bool)
    original, step = p(context[None])[:, target], 0
    while step < steps and not stopped.all():
        step += 1
        mask = torch.rand(z.shape, generator=draw) < 0.3
        after = reagent_update(z, mask, original, p(replaced(mask))[:, target])
        z = torch.where(stopped[:, None], z, after)
        stopped |= (p(replaced(~keep_top(z, 5))).topk(3).indices == target).any(dim=1)
    return probes * 2 * step + 1


# --- prompts -------------------------------------------------------------------------------------------------------------------------


def prompts(smoke: bool) -> Iterator[Result]:
    """CPU time of shortening a prompt to half of its tokens, and how far it is off; without llmlingua, nothing is compared."""
    if not importlib.util.find_spec("llmlingua"):
        return
    story, target = " ".join(read_story()).split(), load_tokenizer("embedded")
    text = " ".join(story[1000 : 1060 if smoke else 3000])
    budget = int(text_token_counts(target, [text])[0]) // 2
    settings: dict[str, Any] = {"words": len(text.split()), "budget": budget, "threads": 1}
    for shape, sizes in ENCODERS.items():
        model, tokenizer, theirs = token_classifier(" ".join(story), sizes, target)
        ours = PromptCompressor(TokenClassifierScorer(model, tokenizer), tokens=budget, tokenizer=target)
        made: dict[str, str] = {}
        steps: dict[str, Step] = {
            "LLMLingua-2": lambda theirs=theirs, made=made: made.update(theirs=theirs(text, budget)),  # type: ignore[misc]
            "tokenry": lambda ours=ours, made=made: made.update(ours=ours.compress(text).text),  # type: ignore[misc]
        }
        seconds = interleaved(steps, 1 if smoke else 5, threads=1)
        yield result(
            f"a prompt of 2,000 words to half of its tokens, {shape}: tokenry / LLMLingua-2",
            seconds["tokenry"].cpu / seconds["LLMLingua-2"].cpu,
            0.5,
            cpu_seconds={step: round(taken.cpu, 3) for step, taken in seconds.items()},
            **settings,
            **sizes,
        )
    left = {name: int(text_token_counts(target, [text])[0]) for name, text in made.items()}
    yield result(
        f"tokens off the budget, as a share of it: tokenry (LLMLingua-2: {left['theirs'] / budget - 1:+.1%})",
        abs(left["ours"] - budget) / budget,
        0.0,
        tokens_left={"tokenry": left["ours"], "LLMLingua-2": left["theirs"]},
        **settings,
        **sizes,
    )


def token_classifier(text: str, sizes: dict[str, int], target: Any) -> tuple[Any, Any, Any]:
    """An untrained token classifier with its tokenizer, and LLMLingua-2 with both."""
    torch.manual_seed(0)
    trained = BertWordPieceTokenizer(lowercase=False)
    trained.train_from_iterator([text], vocab_size=8000, show_progress=False)
    tokenizer = BertTokenizerFast(tokenizer_object=trained._tokenizer, do_lower_case=False)
    model = BertForTokenClassification(BertConfig(**sizes, vocab_size=len(tokenizer), num_labels=2)).eval()
    with tempfile.TemporaryDirectory() as folder:
        # LLMLingua knows a model's special tokens by its name.
        name = Path(folder, "bert-base-multilingual-cased")
        model.save_pretrained(name)
        tokenizer.save_pretrained(name)
        return model, tokenizer, llmlingua(name, target)


def llmlingua(folder: Path, target: Any) -> Any:
    """LLMLingua-2 with the target's tokenizer in the place of tiktoken: a function of a text and its number of tokens."""
    counting = SimpleNamespace(encode=lambda text: target(text, add_special_tokens=False)["input_ids"])
    stub = ModuleType("tiktoken")
    stub.encoding_for_model = stub.get_encoding = lambda name: counting  # type: ignore[attr-defined]
    sys.modules["tiktoken"] = stub
    compressor = import_module("llmlingua").PromptCompressor(
        str(folder), device_map="cpu", use_llmlingua2=True
    )

    def shortened(text: str, tokens: int) -> str:
        return compressor.compress_prompt_llmlingua2([text], target_token=tokens)["compressed_prompt"]

    return shortened


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
