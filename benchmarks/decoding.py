"""Token log-probs while generating, statistics of rows of logits in one pass, and two models that write together, on SmolLM2.

Generation is greedy, four prompts of different lengths in a batch; every variant writes the same tokens. The second pass reads prompts and
answers once more and computes logits of the answers only. The statistics are NLL, entropy and the 100 largest logits of 256 rows.

Mismatches are those of texts of 500 tokens, found by comparing tensors and by a loop over pandas rows, as in the released code. Routed
decoding goes by entropy: at rate 0 the rule looks at every token and the small model writes all, at rate 1 the large one does.
"""

from collections.abc import Iterator
from functools import partial

import pandas
import torch
from _measure import Seconds, Step, interleaved
from _report import Result, result, run, speedup
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.core.tensors.losses import OutputHead, output_head
from tokenry.core.tensors.row_statistics import row_entropy, row_nll, row_statistics
from tokenry.core.tensors.step_loop import TokenByToken, token_log_probs
from tokenry.decoding import EntropyRule, RoutedDecoding, align_labels, find_mismatches
from tokenry.models import load_model

ALONE, TOLD, AGAIN = "generate", "generate with log-probs", "generate and a second pass"
LENGTHS, TOP, STOP = (24, 40, 11, 32), 100, 7


def measure(smoke: bool) -> Iterator[Result]:
    """Log-probs of generated tokens, then row statistics."""
    torch.manual_seed(0)
    model = tiny_model() if smoke else load_model("embedded").eval()
    yield mismatches(*((2000, 1) if smoke else (1_000_000, 1)))
    yield from routed(model, *((4, 1) if smoke else (32, 4)))
    yield from log_probs(model, *((4, 1) if smoke else (32, 4)))
    yield one_pass(output_head(model), model.config.hidden_size, *((8, 1) if smoke else (256, 5)))


def tiny_model() -> LlamaForCausalLM:
    """For smoke runs: untrained."""
    sizes = {"vocab_size": 200, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2)).eval()


def mismatches(rows: int, rounds: int) -> Result:
    """Mismatches and labels of flat tensors, against a loop over rows."""
    texts = torch.arange(rows) // 500
    types = (torch.arange(rows) % 500 >= 50).long()
    tokens = torch.randint(1000, (rows,))
    predictions = torch.where(torch.rand(rows) < 0.1, torch.randint(1000, (rows,)), tokens.roll(-1))
    frame = pandas.DataFrame(
        {"text": texts, "type": types, "token": tokens, "prediction": predictions, "row": range(rows)}
    )

    def by_tensors() -> Tensor:
        found = find_mismatches(predictions, tokens, types, STOP, texts)
        return align_labels(types, found, torch.ones_like(found)).divergent

    def by_rows() -> Tensor:
        divergent = torch.zeros_like(types)
        for _, text in frame.groupby("text"):
            written = text[text["type"].to_numpy().argmax() :].reset_index(drop=True)
            following = written["token"].shift(-1)
            differs = (written["prediction"] != following) & (following != STOP)
            for row in range(len(written) - 1):
                if differs[row]:
                    divergent[int(written.iloc[row]["row"])] = 1
        return divergent

    assert torch.equal(by_tensors(), by_rows())
    ours, other = "mismatches and labels by tensors", "by a loop over pandas rows"
    seconds = interleaved({ours: by_tensors, other: by_rows}, rounds, threads=1)
    times = {name: round(seconds[name].cpu, 4) for name in (ours, other)}
    return speedup(
        f"{other} / {ours}",
        seconds[other].cpu / seconds[ours].cpu,
        100,
        cpu_seconds=times,
        rows=rows,
        threads=1,
        rounds=rounds,
    )


def routed(model: nn.Module, new_tokens: int, rounds: int) -> Iterator[Result]:
    """Two models together by a rule, against the one that writes everything."""
    config = model.config
    small = type(model)(
        type(config)(**{**config.to_dict(), "num_hidden_layers": max(1, config.num_hidden_layers // 2)})
    ).eval()
    prompts = torch.randint(10, config.vocab_size, (1, 32))
    options = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "pad_token_id": 0,
    }
    options["attention_mask"] = torch.ones_like(prompts)
    alone = {
        name: partial(writer.generate, prompts, **options)
        for name, writer in (("small", small), ("large", model))
    }
    for writer, decoder in (
        ("small", RoutedDecoding(small, model, EntropyRule(), threshold=1e9)),
        ("large", RoutedDecoding(small, model, EntropyRule(), rate=1)),
    ):
        together = partial(small.generate, prompts, custom_generate=decoder, **options)
        assert torch.equal(together(), alone[writer]())
        ours, other = f"routed at rate {int(writer == 'large')}", f"generate of the {writer} model"
        seconds = interleaved({ours: together, other: alone[writer]}, rounds, threads=1)
        shape = {"prompts": 1, "new_tokens": new_tokens, "threads": 1, "rounds": rounds}
        yield compared(seconds, ours, other, 1.1, shape)


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


def compared(
    seconds: dict[str, Seconds], ours: str, other: str, target: float, shape: dict[str, int]
) -> Result:
    times = {name: round(seconds[name].cpu, 3) for name in (ours, other)}
    return result(
        f"{ours} / {other}", seconds[ours].cpu / seconds[other].cpu, target, cpu_seconds=times, **shape
    )


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
