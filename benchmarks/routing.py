"""Two models that write together: mismatches of a million rows, and routed decoding beside the generation of one model, on SmolLM2.

Mismatches are those of texts of 500 tokens, found by comparing tensors and by a loop over pandas rows, as in the released code. Routed
decoding goes by entropy: at rate 0 the rule looks at every token and the small model (half the layers) writes all, at rate 1 the large one.
"""

from collections.abc import Iterator
from functools import partial

import pandas
import torch
from _measure import interleaved
from _report import Result, run, speedup
from decoding import compared, tiny_model
from torch import Tensor, nn

from tokenry.decoding import EntropyRule, RoutedDecoding, align_labels, find_mismatches
from tokenry.models import load_model

STOP = 7


def measure(smoke: bool) -> Iterator[Result]:
    """Mismatches, then routed decoding."""
    torch.manual_seed(0)
    model = tiny_model() if smoke else load_model("embedded").eval()
    yield mismatches(*((2000, 1) if smoke else (1_000_000, 1)))
    yield from routed(model, *((4, 1) if smoke else (32, 4)))


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


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
