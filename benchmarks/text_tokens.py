"""Attribution: DecompX in head space and in one backward pass against a tensor per head and source, ReAGent against its loop; prompts.

DecompX takes a classifier of 4 layers and 768 numbers apart; what it is compared with forms, as the released code, the output of every
head for every pair of position and source. ReAGent makes the same steps as the loop of the paper, which reads one step at a time and all
logits, on a model of the shape of SmolLM2-135M. A prompt is shortened to half of its tokens by one untrained token classifier, in tokenry and
in LLMLingua-2 (llmlingua 0.2.2), which counts by the same tokenizer in the place of tiktoken, that it would download.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from _measure import Step, interleaved
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

from tokenry.attribution import Question, ReAGent, contributions, decompx, reagent_update
from tokenry.attribution.reagent import keep_top
from tokenry.compression.text import PromptCompressor, TokenClassifierScorer
from tokenry.core.text.token_counts import text_token_counts
from tokenry.models import load_tokenizer
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


def measure(smoke: bool) -> Iterator[Result]:
    """Both attributions, and prompts."""
    yield from decompositions(smoke)
    yield replacement(smoke)
    yield from prompts(smoke)


def decompositions(smoke: bool) -> Iterator[Result]:
    """CPU time of both forms of DecompX beside the head-and-source form, by length."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 3072}
    if smoke:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertForSequenceClassification(BertConfig(**sizes, vocab_size=1000, num_labels=2)).eval()
    for length, (in_head_space, one_backward) in TARGETS.items():
        ids = torch.randint(1000, (1, 6 if smoke else length))
        torch.testing.assert_close(
            by_heads_and_sources(model, ids), decompx(model, ids).classifier, rtol=1e-3, atol=1e-5
        )
        steps: dict[str, Step] = {
            "head and source": lambda ids=ids: by_heads_and_sources(model, ids),  # type: ignore[misc]
            "head space": lambda ids=ids: decompx(model, ids),  # type: ignore[misc]
            "one backward": lambda ids=ids: contributions(model, ids, [0]),  # type: ignore[misc]
        }
        seconds = interleaved(steps, 1 if smoke else 2, threads=1)
        for name, target in (("head space", in_head_space), ("one backward", one_backward)):
            yield speedup(
                f"DecompX of {length} tokens: head and source / {name}",
                seconds["head and source"].cpu / seconds[name].cpu,
                target,
                cpu_seconds={step: round(taken.cpu, 3) for step, taken in seconds.items()},
                length=length,
                threads=1,
                **sizes,
            )


def by_heads_and_sources(model: BertForSequenceClassification, ids: Tensor) -> Tensor:
    """DecompX with the output of every head for every position and source, as tokenry mixes in head space instead."""

    def attended(state: Any, parts: Tensor | None, rows: slice) -> Tensor:
        p, weights = state.probabilities, state.heads(state.output.weight[None])[0]
        if parts is None:
            every = torch.einsum("bjhd,ohd->bhjo", state.heads(state.value(state.x)), weights)
            return torch.einsum("bhij,bhjo->bijo", p, every)
        every = torch.einsum("bsjhd,ohd->bhsjo", state.heads(parts @ state.value.weight.T), weights)
        return torch.einsum("bhis,bhsjo->bijo", p, every)

    own, EXACT._attended = EXACT._attended, attended
    try:
        return decompx(model, ids, all_positions=True).classifier
    finally:
        EXACT._attended = own


def replacement(smoke: bool) -> Result:
    """CPU time of the same steps of ReAGent, many in one batch and one at a time."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    if smoke:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary, probes, steps, length = 49_152, 16, 4, 24
    model = LlamaForCausalLM(
        LlamaConfig(**sizes, num_key_value_heads=3 if not smoke else 1, vocab_size=vocabulary, tie_word_embeddings=True)
    ).eval()  # fmt: skip
    context, target = torch.randint(vocabulary, (length,)), 7
    method = ReAGent(probes=probes, max_steps=steps, top_k=1, keep_top_n=1)
    question = Question(model, context, (target,))
    seconds = interleaved(
        {
            "loop": lambda: loop(model, context, target, probes, steps),
            "tokenry": lambda: method.until_answered(question),
        },
        1,
        threads=1,
    )
    return speedup(
        "ReAGent: one step at a time with all logits / tokenry, equal steps",
        seconds["loop"].cpu / seconds["tokenry"].cpu,
        3.0,
        cpu_seconds={name: round(taken.cpu, 3) for name, taken in seconds.items()},
        probes=probes, steps=steps, length=length, vocabulary=vocabulary, threads=1, **sizes,
    )  # fmt: skip


@torch.no_grad()
def loop(model: LlamaForCausalLM, context: Tensor, target: int, probes: int, steps: int) -> Tensor:
    """The paper's loop: a step, its test, and the next step."""
    draw = Generator().manual_seed(0)

    def p(ids: Tensor) -> Tensor:
        return model(input_ids=ids, use_cache=False).logits[:, -1].softmax(-1)

    def replaced(mask: Tensor) -> Tensor:
        return torch.where(mask, torch.randint(49_152, mask.shape, generator=draw), context)

    z = torch.zeros(probes, len(context), dtype=torch.float64)
    original = p(context[None])[:, target]
    for _ in range(steps):
        mask = torch.rand(z.shape, generator=draw) < 0.3
        z = reagent_update(z, mask, original, p(replaced(mask))[:, target])
        p(replaced(~keep_top(z, 1))).topk(1)
    return z


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
