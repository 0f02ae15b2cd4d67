"""Replaced-token detection of the size of ELECTRA-Small, and sliding windows, against what is written with transformers.

The loop computes logits of all positions, draws a token for each of them by Gumbel noise, and keeps those of the masked ones; ours takes
the masked positions to the vocabulary alone. Both take one step of the same pair on the same masks, forward and backward, dropout on.

Sliding windows: one layer of the attention of a Longformer in its own form and in blocks, and blocks against full attention.
"""

from collections.abc import Callable, Iterator

import torch
from _measure import interleaved
from _report import Result, note, run, speedup
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import (
    AutoModelForMaskedLM,
    ElectraConfig,
    ElectraForPreTraining,
    LongformerModel,
    PreTrainedTokenizerFast,
)

from tokenry.core.tensors.chunked_loss import CHUNK_ELEMENTS, matrix_loss
from tokenry.core.tensors.output_head import output_head
from tokenry.core.tensors.row_losses import cross_entropy as cross_entropy_of_rows
from tokenry.pretraining import (
    ReplacedTokenPretrainer,
    SlidingWindow,
    generator_config,
    longformer_config,
    sliding_window_attention,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def pair(config: ElectraConfig) -> tuple[ReplacedTokenPretrainer, ElectraForPreTraining]:
    """Generator and discriminator, together and the discriminator alone."""
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(SPECIAL)}, "[UNK]"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))
    torch.manual_seed(0)
    disc = ElectraForPreTraining(config)
    generator = AutoModelForMaskedLM.from_config(generator_config(config, 0.25))
    return ReplacedTokenPretrainer(generator, disc, tokenizer).train(), disc.train()


def loop_step(model: ReplacedTokenPretrainer, disc: ElectraForPreTraining, ids: Tensor, mask: Tensor) -> None:
    """A step as it is written with transformers alone."""
    masked, _ = model._masked(ids, mask, 0)
    labels = ids.masked_fill(~masked.selected, -100)
    logits = model.generator(input_ids=masked.input_ids, attention_mask=mask).logits
    loss = cross_entropy(logits.transpose(1, 2), labels)
    with torch.no_grad():
        noise = -torch.log(-torch.log(torch.rand_like(logits) + 1e-9) + 1e-9)
        sampled = (logits + noise).argmax(-1)
    corrupted = torch.where(masked.selected, sampled, ids)
    found = disc(input_ids=corrupted, attention_mask=mask, labels=(corrupted != ids).long())
    (loss + 50 * found.loss).backward()
    model.zero_grad()


def our_step(model: ReplacedTokenPretrainer, ids: Tensor, mask: Tensor) -> None:
    """A step of ours."""
    model(ids, mask, number=0).loss.backward()
    model.zero_grad()


def measure(smoke: bool) -> Iterator[Result]:
    """The ratios in CPU time of one thread."""
    yield from replaced_tokens(smoke)
    yield from sliding_windows(smoke)


def replaced_tokens(smoke: bool) -> Iterator[Result]:
    """A step, and the generator's head."""
    rows, length, rounds = (2, 16, 1) if smoke else (8, 128, 5)
    sizes = {"num_hidden_layers": 1, "vocab_size": 300} if smoke else {}
    config = ElectraConfig(**sizes)
    model, disc = pair(config)
    ids = torch.randint(
        len(SPECIAL), config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0)
    )
    mask = torch.ones_like(ids)
    shape = {
        "rows": rows,
        "length": length,
        "layers": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
    }
    note("a step")
    steps = {"loop": lambda: loop_step(model, disc, ids, mask), "ours": lambda: our_step(model, ids, mask)}
    taken = interleaved(steps, rounds, threads=1)
    yield speedup(
        "RTD step, ELECTRA-Small, against full logits and Gumbel noise at all positions",
        taken["loop"].cpu / taken["ours"].cpu,
        1.9,
        **shape,
        loop=taken["loop"].cpu,
        ours=taken["ours"].cpu,
    )
    note("the generator's head")
    masked, _ = model._masked(ids, mask, 0)
    hidden = torch.randn(rows, length, model.generator.config.hidden_size, requires_grad=True)
    slots = masked.weights.nonzero(as_tuple=True)
    labels = ids.masked_fill(~masked.selected, -100)

    def everywhere() -> None:
        logits = model.generator.generator_lm_head(model.generator.generator_predictions(hidden))
        cross_entropy(logits.transpose(1, 2), labels).backward()
        model.zero_grad()

    def at_slots() -> None:
        chosen = hidden[slots[0], masked.positions[slots]]
        given, head = output_head(model.generator).split(chosen)
        ones = torch.ones(len(given))
        loss = matrix_loss(given, masked.labels[slots], ones, head, cross_entropy_of_rows, CHUNK_ELEMENTS)[0]
        (loss / len(given)).backward()
        model.zero_grad()

    taken = interleaved({"everywhere": everywhere, "slots": at_slots}, 2 * rounds, threads=1)
    yield speedup(
        "generator's head, masked positions alone against all positions",
        taken["everywhere"].cpu / taken["slots"].cpu,
        6.0,
        **shape,
        slots=len(slots[0]),
        all=taken["everywhere"].cpu,
        masked=taken["slots"].cpu,
    )


def sliding_windows(smoke: bool) -> Iterator[Result]:
    """Forward, forward with backward, and against full attention."""
    length, window, rounds = (64, 8, 1) if smoke else (4096, 256, 3)
    torch.manual_seed(0)
    settings = {"window": window, "positions": length, "num_hidden_layers": 1}
    model = LongformerModel(longformer_config("small", 100, **settings), add_pooling_layer=False).eval()
    layer = model.encoder.layer[0].attention.self
    hidden = torch.randn(1, length, 256, requires_grad=True)
    nothing = torch.zeros(1, length, dtype=torch.bool)
    given = {
        "attention_mask": torch.zeros(1, length),
        "is_index_masked": nothing,
        "is_index_global_attn": nothing,
    }

    def attend() -> Tensor:
        return layer(hidden, **given, is_global_attn=False)[0]

    def in_blocks(step: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with SlidingWindow(model):
                step()

        return run

    def forward() -> None:
        with torch.no_grad():
            attend()

    def both() -> None:
        attend().sum().backward()
        model.zero_grad()

    def projected() -> Tensor:
        return torch.stack([project(hidden).sum() for project in (layer.query, layer.key, layer.value)]).sum()

    def projections() -> None:
        with torch.no_grad():
            projected()

    def projections_both() -> None:
        projected().backward()
        model.zero_grad()

    shape = {"length": length, "window": window, "width": 256, "heads": 4}
    for name, step, alone, target in (
        ("forward", forward, projections, 2.5),
        ("forward and backward", both, projections_both, 4.0),
    ):
        note(f"sliding windows, {name}")
        steps = {"theirs": step, "blocks": in_blocks(step), "projections of both alone": alone}
        taken = interleaved(steps, rounds, threads=1)
        ratio = taken["theirs"].cpu / taken["blocks"].cpu
        figures = {key: seconds.cpu for key, seconds in taken.items()}
        yield speedup(
            f"sliding-window attention, {name}, against transformers", ratio, target, **shape, **figures
        )
        shared = figures["projections of both alone"]
        ratio = (figures["theirs"] - shared) / (figures["blocks"] - shared)
        said = f"sliding-window attention without its projections, {name}, against transformers"
        yield speedup(said, ratio, target, **shape, **figures)
    q, k, v = torch.randn(3, 1, 4, length, 64)
    taken = interleaved(
        {
            "full": lambda: scaled_dot_product_attention(q, k, v),
            "blocks": lambda: sliding_window_attention(q, k, v, window),
        },
        rounds,
        threads=1,
    )
    ratio = taken["full"].cpu / taken["blocks"].cpu
    figures = {key: seconds.cpu for key, seconds in taken.items()}
    yield speedup("sliding-window attention against full attention", ratio, 2.0, **shape, **figures)


if __name__ == "__main__":
    run(measure, __doc__ or "")
