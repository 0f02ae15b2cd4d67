"""Word-pooled models: words end to end with every type pooled once against the canvas of 24 units; generation against the released loop.

The text is docstrings of scikit-learn, its words in bytes. The canvas is that of the corrected form, so that both say the same; what is
compared first. The released loop pools and reads all words again for every byte, and spells the last one.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice

import torch
from _measure import interleaved, peak_memory
from _report import Result, result, run, speedup
from torch import Tensor
from torch.nn.functional import cross_entropy

from tokenry.architectures import (
    ByteSpelling,
    Word,
    WordCoder,
    WordPooledConfig,
    WordPooledLM,
    WordSampling,
    generate_words,
)
from tokenry.core.text.docstrings import read_docstrings

CANVAS = 24


def measure(smoke: bool) -> Iterator[Result]:
    """The ratios in CPU time of one thread, and in memory."""
    sizes = (2, 6, 16) if smoke else (4, 96, 256)
    texts, words, width = sizes
    settings = {"threads": 1, "texts": texts, "words": words, "width": width, "canvas": CANVAS}
    model, batch = model_of(width, words), table(texts, words)
    with torch.no_grad():
        torch.testing.assert_close(model(*batch).loss, on_canvas(model, *batch), rtol=1e-3, atol=1e-4)
    rounds = 1 if smoke else 3
    for what, backward in (("forward", False), ("training step", True)):
        steps = {
            "tokenry": partial(step, model, batch, False, backward),
            "canvas": partial(step, model, batch, True, backward),
        }
        seconds = interleaved(steps, rounds, threads=1)
        yield speedup(
            f"{what}: canvas of {CANVAS} units / tokenry",
            seconds["canvas"].cpu / seconds["tokenry"].cpu,
            2.5,
            **settings,
            rounds=rounds,
            cpu_milliseconds={name: round(1000 * found.cpu, 1) for name, found in seconds.items()},
        )
    peaks = peak_memory({name: partial(prepared, sizes, name == "canvas") for name in ("tokenry", "canvas")})
    yield result(
        f"peak memory of a training step: tokenry / canvas of {CANVAS} units",
        peaks["tokenry"] / peaks["canvas"],
        0.4,
        **settings,
        megabytes={name: round(peak, 1) for name, peak in peaks.items()},
    )
    yield from generation(smoke)


def generation(smoke: bool) -> Iterator[Result]:
    """Texts that go on, the most probable unit each time."""
    width, prompt_words, new = (16, 4, 2) if smoke else (128, 64, 16)
    model = model_of(width, prompt_words + new)
    prompt = stream(prompt_words)
    sampling = WordSampling(new, temperature=0)
    written = generate_words(model, [prompt], sampling)[0]
    assert written == released_loop(model, prompt, new)
    seconds = interleaved(
        {
            "tokenry": lambda: generate_words(model, [prompt], sampling),
            "released loop": lambda: released_loop(model, prompt, new),
        },
        1,
        threads=1,
    )
    yield speedup(
        "generation: released loop / tokenry",
        seconds["released loop"].cpu / seconds["tokenry"].cpu,
        20,
        threads=1,
        width=width,
        prompt_words=prompt_words,
        new_words=new,
        new_units=sum(len(word) for word in written),
        cpu_seconds={name: round(found.cpu, 3) for name, found in seconds.items()},
    )


def model_of(width: int, words: int) -> WordPooledLM:
    """An untrained model whose outputs differ enough to be compared."""
    torch.manual_seed(0)
    config = WordPooledConfig(
        n_embd=width, n_layer=4, n_head=4, max_words=words, max_word_len=CANVAS, feed_forward=4 * width, dropout=0.0, initializer_range=0.05
    )  # fmt: skip
    return WordPooledLM(config).eval()


@cache
def docstring_words() -> list[Word]:
    """Words of docstrings, without those that are longer than the canvas."""
    coder = WordCoder(ByteSpelling(), longest=CANVAS)
    texts = read_docstrings(("sklearn",), most_files=40).train
    found = (tuple(coder.units.encode(word)) for text in texts for word in coder.splitter.words(text))
    return [word for word in found if len(word) <= CANVAS]


def stream(words: int, start: int = 0) -> list[Word]:
    """So many words in order."""
    return list(islice(docstring_words(), start, start + words))


def table(texts: int, words: int) -> tuple[Tensor, Tensor]:
    """Texts as a table as wide as the canvas, and their lengths."""
    rows = [stream(words, 500 * number) for number in range(texts)]
    filled = [[[*word, *[0] * (CANVAS - len(word))] for word in row] for row in rows]
    return torch.tensor(filled), torch.tensor([[len(word) for word in row] for row in rows])


def on_canvas(model: WordPooledLM, ids: Tensor, lengths: Tensor) -> Tensor:
    """The loss of the same units and ends from a canvas of all words."""
    logits = model.canvas_logits(ids, lengths)
    told = torch.arange(CANVAS) < (lengths[:, 1:, None] + 1).clamp(max=CANVAS)
    return cross_entropy(logits[told], ids[:, 1:][told])


def step(model: WordPooledLM, batch: tuple[Tensor, Tensor], canvas: bool, backward: bool) -> None:
    """One forward, with or without gradients."""
    with torch.set_grad_enabled(backward):
        loss = on_canvas(model, *batch) if canvas else model(*batch).loss
    if backward:
        loss.backward()
        model.zero_grad()


def prepared(sizes: tuple[int, int, int], canvas: bool) -> Callable[[], None]:
    """A training step in a process of its own."""
    texts, words, width = sizes
    return partial(step, model_of(width, words), table(texts, words), canvas, True)


@torch.no_grad()
def released_loop(model: WordPooledLM, prompt: list[Word], new: int) -> list[Word]:
    """Pool and read all words again for every unit; the last word alone is spelled."""
    words = list(prompt)
    for _ in range(new):
        word: list[int] = []
        while len(word) < CANVAS:
            filled = torch.tensor([[*text, *[0] * (CANVAS - len(text))] for text in (*words, word or [1])])
            lengths = torch.tensor([len(text) for text in (*words, word or [1])])
            states = model.trunk_states(model.pool_canvas(filled[:-1], lengths[:-1])[None])[:, -1]
            rows = model.spell_canvas(states, filled[-1:])[0, model.config.n_prefix - 1 + len(word)]
            logits = model.head(rows)
            if not word:
                logits[0] = -torch.inf
            unit = int(logits.argmax())
            if unit == 0:
                break
            word.append(unit)
        words.append(tuple(word))
    return words[len(prompt) :]


if __name__ == "__main__":
    run(measure, str(__doc__))
