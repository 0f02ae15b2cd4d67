"""Token log-probs while generating, the statistics of rows of logits in one pass, and the prompts of SIFT, on SmolLM2; a cascade beside a peer.

Generation is greedy, four prompts of different lengths in a batch; every variant writes the same tokens. The second pass reads prompts and
answers once more and computes logits of the answers only. The statistics are NLL, entropy and the 100 largest logits of 256 rows.

SIFT's prefill is that of four questions through stage 3, all roles, one new token each. The released pipeline runs a job per step of a stage
and loads its model in each, nine times by its scripts (zhijie-group/SIFT at 5b28463); it does not run here, so that figure is not timed.

The combined score of mcp-confidence is one more rule on the log-probs of a tiny character model whose answers a larger one can replace
(`recipes.testbeds.character_tasks`); rules that learn see one half of the problems, and the curves are those of the other half.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from unittest.mock import patch

import numpy as np
import torch
from _measure import Seconds, Step, interleaved
from _report import Result, installed_version, note, result, run, speedup
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tokenry.core.tensors.losses import OutputHead, output_head
from tokenry.core.tensors.row_statistics import row_entropy, row_nll, row_statistics
from tokenry.core.tensors.step_loop import TokenByToken, token_log_probs
from tokenry.decoding import (
    Examples,
    PostHocDeferral,
    SIFTPrompts,
    auc_df,
    chow_score,
    clean_sticker,
    pad_logprobs,
)
from tokenry.decoding.fitted_rule import halves
from tokenry.decoding.sift.prompts import Role
from tokenry.models import LocalText, Sampling, load_model, load_tokenizer
from tokenry.recipes.testbeds.character_tasks import (
    CharacterModel,
    answers_of,
    draw_problems,
    is_right,
    train_character_model,
)
from tokenry.verbs import sift

ALONE, TOLD, AGAIN = "generate", "generate with log-probs", "generate and a second pass"
LENGTHS, TOP = (24, 40, 11, 32), 100
RELEASED_LOADS = 9
QUESTIONS = (
    "A bakery sells 24 rolls at 3 dollars each and 15 loaves at 5 dollars each. How much does it take?",
    "Jon reads 12 pages on Monday and twice as many on Tuesday. His book has 90 pages. How many are left?",
    "A tank holds 240 litres and loses 8 litres an hour. How many litres are in it after 6 hours?",
    "Three friends share 45 marbles so that Ann gets 5 more than each of the others. How many does Ann get?",
)
STICKER = """**Conditions:**
1. A bakery sells 24 rolls.
2. Each roll costs 3 dollars.
3. It sells 15 loaves.
4. Each loaf costs 5 dollars.

**Question:**
How much money does the bakery take?"""


def measure(smoke: bool) -> Iterator[Result]:
    """Log-probs of generated tokens, then row statistics."""
    torch.manual_seed(0)
    model = tiny_model() if smoke else load_model("embedded").eval()
    yield from log_probs(model, *((4, 1) if smoke else (32, 10)))
    yield one_pass(output_head(model), model.config.hidden_size, *((8, 1) if smoke else (256, 5)))
    yield from sift_prompts(smoke)
    yield from beside_mcp_confidence(*((3, 40) if smoke else (300, 1200)))


def tiny_model() -> LlamaForCausalLM:
    """For smoke runs: untrained."""
    sizes = {"vocab_size": 200, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()


def log_probs(model: nn.Module, new_tokens: int, rounds: int) -> Iterator[Result]:
    """Generation by itself, with log-probs, and with a second forward that reads them."""
    prompts = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    mask = torch.arange(max(LENGTHS)) >= max(LENGTHS) - torch.tensor(LENGTHS)[:, None]
    prompts[mask] = torch.randint(10, model.config.vocab_size, (int(mask.sum()),))
    options = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }
    generate = partial(model.generate, input_ids=prompts, attention_mask=mask.long(), **options)
    told = {"custom_generate": TokenByToken(), "return_dict_in_generate": True}

    def again() -> Tensor:
        return second_pass(model, generate(), mask, new_tokens)

    found = generate(**told)
    assert torch.equal(found.sequences, generate())
    torch.testing.assert_close(found.log_probs, again(), rtol=1e-3, atol=1e-3)
    steps: dict[str, Step] = {ALONE: generate, TOLD: partial(generate, **told), AGAIN: again}
    seconds = interleaved(steps, rounds, threads=1)
    shape = {"prompts": len(LENGTHS), "new_tokens": new_tokens, "threads": 1, "rounds": rounds}
    for other, target in ((ALONE, 1.05), (AGAIN, 1.0)):
        yield compared(seconds, TOLD, other, target, shape)


@torch.no_grad()
def second_pass(model: nn.Module, sequences: Tensor, mask: Tensor, new_tokens: int) -> Tensor:
    whole = torch.cat([mask, mask.new_ones(len(mask), new_tokens)], 1).long()
    logits = model(
        input_ids=sequences,
        attention_mask=whole,
        position_ids=(whole.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=new_tokens + 1,
        use_cache=False,
    ).logits[:, :-1]
    answers = sequences[:, -new_tokens:]
    return token_log_probs(logits.flatten(0, 1).float(), answers.flatten()).view_as(answers)


def one_pass(head: OutputHead, width: int, rows: int, rounds: int) -> Result:
    """Three statistics together, and each in a pass of its own."""
    hidden, targets = torch.randn(rows, width), torch.randint(0, head.vocabulary, (rows,))

    def together() -> None:
        row_statistics(hidden, targets, head, ("nll", "entropy", "top"), top_k=TOP)

    def apart() -> None:
        row_nll(hidden, targets, head)
        row_entropy(hidden, head)
        row_statistics(hidden, None, head, ("top",), top_k=TOP)

    one, three = "NLL, entropy and top-100 in one pass", "in three passes"
    seconds = interleaved({one: together, three: apart}, rounds, threads=1)
    shape = {"rows": rows, "width": width, "vocabulary": head.vocabulary, "threads": 1, "rounds": rounds}
    return compared(seconds, one, three, 0.5, shape)


def sift_prompts(smoke: bool) -> Iterator[Result]:
    """The prompts of SIFT read with their common beginning once, and with it each time; then the loads of a whole run."""
    name = str(stored_tiny_model()) if smoke else "embedded"
    model, tokenizer = load_model(name).eval(), load_tokenizer(name)
    sticker = clean_sticker(STICKER)
    about: dict[Role, str] = {
        "SG": "",
        "P_S": sticker,
        "P_QS": sticker,
        "FO": sticker,
        "IG": STICKER,
        "P_Q": "",
    }
    prompts = [
        [SIFTPrompts().prompt(role, query, text) for query in QUESTIONS] for role, text in about.items()
    ]
    stages = [prompts[0], [*prompts[1], *prompts[2]], prompts[3], prompts[4], prompts[5]]
    once = Sampling(1, log_probs=False)
    texts = {share: LocalText(model, tokenizer, batch_size=8, share_prefix=share) for share in (True, False)}
    steps: dict[str, Step] = {
        name: lambda text=texts[share]: [text.generate(stage, once) for stage in stages]
        for name, share in (("shared prefix", True), ("each prompt whole", False))
    }
    seconds = interleaved(steps, 1, threads=1)
    shape = {"questions": len(QUESTIONS), "batch": 8, "threads": 1, "rounds": 1}
    yield compared(seconds, "shared prefix", "each prompt whole", 0.65, shape, what="SIFT prefill: ")
    loads = {"tokenry": loads_of_a_run(name), "released pipeline": RELEASED_LOADS}
    ratio = loads["tokenry"] / loads["released pipeline"]
    yield result(
        "SIFT model loads: tokenry / released pipeline", ratio, round(1 / RELEASED_LOADS, 3), loads=loads
    )


def loads_of_a_run(model: str) -> int:
    """How often `tokenry sift` loads its model for a question that goes through all stages."""
    with TemporaryDirectory() as folder, patch("tokenry.models.load_model", wraps=load_model) as loading:
        questions = Path(folder, "questions.txt")
        questions.write_text(QUESTIONS[0])
        sift.run(sift.Plan(questions, model=model, max_new_tokens=1), lambda what, share: None)
        return int(loading.call_count)


def stored_tiny_model() -> Path:
    """For smoke runs: an untrained chat model on disk."""
    backend = Tokenizer(WordLevel({"<unk>": 0, "<end>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    folder = Path(mkdtemp())
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def beside_mcp_confidence(steps: int, problems: int) -> Iterator[Result]:
    """The area under the deferral curve of post-hoc deferral against that of mcp-confidence's score."""
    try:
        from mcp_confidence import Gate
    except ImportError:
        note("mcp-confidence is not installed, so its score is left out: pip install mcp-confidence==0.2.0")
        return
    small, large = (
        train_character_model(CharacterModel(*size), 0) for size in ((2, 24, steps), (3, 48, 2 * steps))
    )
    drawn = draw_problems(problems, torch.Generator().manual_seed(1))
    answers = [answers_of(model, drawn) for model in (small, large)]
    right = [np.array(list(map(is_right, drawn, written)), dtype=float) for written in answers]
    examples = Examples(*pad_logprobs([answer.log_probs or () for answer in answers[0]]), *right)
    learned, held = halves(problems, 0)
    seen = examples.rows(held)
    scores = {
        "post-hoc": PostHocDeferral().fit(examples.rows(learned)).score(seen.logprobs, seen.mask),
        "Chow-average": chow_score(seen.logprobs, seen.mask, "average"),
        "mcp-confidence": [Gate().from_logprobs(answers[0][place].log_probs or ()).score for place in held],
    }
    areas = {name: auc_df(np.asarray(score), seen.q_small, seen.q_large) for name, score in scores.items()}
    auc = {name: round(area.auc, 4) for name, area in areas.items()} | {
        "random": round(areas["post-hoc"].random, 4)
    }
    yield speedup(
        "AUC-DF of a cascade: post-hoc deferral / mcp-confidence's combined score",
        areas["post-hoc"].auc / areas["mcp-confidence"].auc,
        1.0,
        auc=auc,
        problems=len(held),
        mcp_confidence=installed_version("mcp-confidence"),
    )


def compared(
    seconds: dict[str, Seconds], ours: str, other: str, target: float, shape: dict[str, int], what: str = ""
) -> Result:
    times = {name: round(seconds[name].cpu, 3) for name in (ours, other)}
    return result(
        f"{what}{ours} / {other}", seconds[ours].cpu / seconds[other].cpu, target, cpu_seconds=times, **shape
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
