"""Two models that write together: mismatches of a million rows, and routed decoding beside the generation of one model, on SmolLM2.

Mismatches are those of texts of 500 tokens, found by comparing tensors and by a loop over pandas rows, as in the released code. Routed
decoding goes by entropy: at rate 0 the rule looks at every token and the small model (half the layers) writes all, at rate 1 the large one.
A router of the paper's size (56 million parameters, new weights) is measured apart, at a threshold that routes nothing. Eight prompts of one
batch are routed at random at rate 0.2, against the same prompts one by one.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas
import torch
from _measure import interleaved
from _report import Result, run, speedup
from decoding import compared, tiny_model
from torch import Tensor, nn

from tokenry.decoding import (
    EntropyRule,
    RandomRule,
    RoutedDecoding,
    TokenRouter,
    align_labels,
    find_mismatches,
)
from tokenry.models import load_model

STOP = 7


def measure(smoke: bool) -> Iterator[Result]:
    """Mismatches, then routed decoding."""
    torch.manual_seed(0)
    model = tiny_model() if smoke else load_model("embedded").eval()
    yield mismatches(*((2000, 1) if smoke else (1_000_000, 1)))
    small, sizes = half_of(model), (4, 1) if smoke else (32, 4)
    yield from routed(small, model, *sizes)
    yield router(small, model, (8, 8) if smoke else (1024,) * 6, *sizes)
    yield in_a_batch(small, model, max(2, sizes[0] // 2), sizes[1])


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


def half_of(model: nn.Module) -> nn.Module:
    """A model of the same kind with half the layers, untrained."""
    config = model.config
    layers = {"num_hidden_layers": max(1, config.num_hidden_layers // 2)}
    return type(model)(type(config)(**{**config.to_dict(), **layers})).eval()


def asked(prompts: Tensor, new_tokens: int) -> dict[str, Any]:
    """Options under which a text has exactly so many new tokens."""
    limits = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
    return {**limits, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompts)}


def routed(small: nn.Module, model: nn.Module, new_tokens: int, rounds: int) -> Iterator[Result]:
    """Two models together by a rule, against the one that writes everything."""
    prompts = torch.randint(10, model.config.vocab_size, (1, 32))
    options = asked(prompts, new_tokens)
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


def router(
    small: nn.Module, model: nn.Module, widths: tuple[int, ...], new_tokens: int, rounds: int
) -> Result:
    """The small model with a router that looks at every token and routes none, against its own generation.

    The target is what the paper reports beside 1.5 and 32 billion parameters: 5.96 % of the time.
    """
    prompts = torch.randint(10, model.config.vocab_size, (1, 32))
    options = asked(prompts, new_tokens)
    rule = TokenRouter.from_small_model(small, widths=widths).eval()
    # A new router may be sure of a token by chance; this one never is.
    rule.backbone.output_layer[1].bias.data.fill_(-1e4)
    together = partial(
        small.generate, prompts, custom_generate=RoutedDecoding(small, model, rule, threshold=1.0), **options
    )
    alone = partial(small.generate, prompts, **options)
    assert torch.equal(together(), alone())
    ours, other = "the small model with a router that routes nothing", "generate of the small model"
    seconds = interleaved({ours: together, other: alone}, rounds, threads=1)
    of_rule = sum(weight.numel() for weight in rule.parameters() if weight.requires_grad)
    millions = {"router": of_rule / 1e6, "small": small.num_parameters() / 1e6}
    shape = {"prompts": 1, "new_tokens": new_tokens, "threads": 1, "rounds": rounds}
    measured = compared(seconds, ours, other, 1.0596, shape)
    measured["settings"]["million_parameters"] = {name: round(size, 1) for name, size in millions.items()}
    return measured


def in_a_batch(small: nn.Module, model: nn.Module, new_tokens: int, rounds: int) -> Result:
    """Eight prompts of different lengths, each routed on its own, in one batch and one by one."""
    lengths = (24, 40, 11, 32, 18, 27, 36, 21)
    prompts = [torch.randint(10, model.config.vocab_size, (1, length)) for length in lengths]
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    padded = torch.zeros(mask.shape, dtype=torch.long)
    padded[mask] = torch.cat(prompts, 1)[0]
    decoder = RoutedDecoding(small, model, RandomRule(), threshold=0.8)

    def batch() -> Tensor:
        options = {**asked(padded, new_tokens), "attention_mask": mask.long()}
        return small.generate(padded, custom_generate=decoder, **options)[:, padded.shape[1] :]

    def single() -> Tensor:
        return torch.cat(
            [
                small.generate(prompt, custom_generate=decoder, **asked(prompt, new_tokens))[
                    :, prompt.shape[1] :
                ]
                for prompt in prompts
            ]
        )

    assert torch.equal(batch(), single())
    ours, other = "eight routed prompts in one batch", "eight routed prompts one by one"
    seconds = interleaved({ours: batch, other: single}, max(1, rounds // 2), threads=1)
    shape = {"prompts": len(lengths), "new_tokens": new_tokens, "threads": 1, "rounds": max(1, rounds // 2)}
    return compared(seconds, ours, other, 1.0, shape)


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
