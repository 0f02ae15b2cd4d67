"""The hypernetwork's forward: each piece of work once, against every position of every token with its padding.

The padded form is that of the released code (on the same modules and weights): seven positions per token, the source rows gathered and
projected for each, all layers on all of them. Both give the same rows. Surface forms come from a real pair: SmolLM2's tokenizer as the
source, and a byte-level BPE or a drawn Unigram vocabulary of scikit-learn's and scipy's docstrings as the target.
"""

from collections.abc import Callable, Iterator

import torch
from _measure import interleaved
from _report import Result, note, run, speedup
from torch import Tensor

from tokenry.core.text.docstrings import read_docstrings
from tokenry.models import load_tokenizer
from tokenry.tokenization.training.byte_level_training import train_bpe
from tokenry.tokenization.transfer.zett.byte_conversion import to_byte_level
from tokenry.tokenization.transfer.zett.hypernetwork import EmbeddingHyperNetwork, HyperNetworkConfig
from tokenry.tokenization.transfer.zett.surface_forms import mask_id, surface_forms
from tokenry.tokenization.transfer.zett.unigram_sampler import UnigramSampler

TARGET = 2.0


def measure(smoke: bool) -> Iterator[Result]:
    """Transfer (forward alone) and training (with gradients), of a BPE vocabulary and of a drawn one."""
    texts = list(read_docstrings(("sklearn",) if smoke else ("sklearn", "scipy")).train)
    texts = texts[:100] if smoke else texts
    source = to_byte_level(load_tokenizer())
    tokenizers = {
        "BPE": (600 if smoke else 8_192, lambda size: _bpe(texts, size)),
        "drawn Unigram": (600 if smoke else 16_384, lambda size: _unigram(texts, size)),
    }
    width, rounds = (32, 1) if smoke else (256, 2)
    vocabulary = len(source.tokens) - source.extra_tokens
    config = HyperNetworkConfig(
        vocabulary=vocabulary,
        embedding_size=width,
        pad_id=mask_id(source.tokenizer),
        fallback_rows=source.extra_tokens,
    )
    torch.manual_seed(0)
    network = EmbeddingHyperNetwork(config)
    embeddings = torch.randn(vocabulary, width)
    for name, (size, make) in tokenizers.items():
        note(f"{name} of {size:,} tokens")
        tokens = make(size)
        forms, truncated = surface_forms(tokens, source.tokenizer)
        yield from _compared(name, network, forms, embeddings, rounds, truncated)


def _bpe(texts: list[str], size: int) -> list[str]:
    made = train_bpe(texts, size)
    return [made.id_to_token(number) for number in range(made.get_vocab_size())]


def _unigram(texts: list[str], size: int) -> list[str]:
    sampler = UnigramSampler(pool=len(texts))
    sampler.update(texts)
    made = sampler.sample(size, 1e-5, torch.Generator().manual_seed(0))
    return made.convert_ids_to_tokens(list(range(len(made))))


def _compared(
    name: str,
    network: EmbeddingHyperNetwork,
    forms: Tensor,
    embeddings: Tensor,
    rounds: int,
    truncated: int,
) -> Iterator[Result]:
    pieces = (forms != network.config.pad_id).sum(dim=1).float()
    found: dict[str, Tensor] = {}
    forwards: dict[str, Callable[[], Tensor]] = {
        "once": lambda: network(forms, embeddings).input,
        "padded": lambda: padded(network, forms, embeddings),
    }

    def transfer(which: str) -> Callable[[], None]:
        def step() -> None:
            with torch.no_grad():
                found[which] = forwards[which]()

        return step

    def training(which: str) -> Callable[[], None]:
        def step() -> None:
            network.zero_grad()
            forwards[which]().square().mean().backward()

        return step

    for what, make in (("forward", transfer), ("forward and backward", training)):
        seconds = interleaved({which: make(which) for which in forwards}, rounds, threads=1)
        yield speedup(
            f"{what}, {name} vocabulary, padded / once",
            seconds["padded"].cpu / seconds["once"].cpu,
            TARGET,
            tokens=len(forms),
            truncated=truncated,
            mean_pieces=round(float(pieces.mean()), 2),
            distinct_forms=len(forms.unique(dim=0)),
            distinct_source_ids=len(forms.unique()),
            width=network.config.embedding_size,
            layers=network.config.layers,
            max_length=network.config.max_length,
            largest_difference=float((found["once"] - found["padded"]).abs().max()),
            cpu_seconds={which: round(each.cpu, 3) for which, each in seconds.items()},
            threads=1,
            rounds=rounds,
        )


def padded(network: EmbeddingHyperNetwork, forms: Tensor, embeddings: Tensor) -> Tensor:
    """Rows of the input matrix, every position of every token computed."""
    config = network.config
    rows = network.in_scaler(embeddings[forms.clamp(max=config.vocabulary - 1)])
    fallback = network.fallback_embeddings((forms - config.vocabulary).clamp(min=0))
    rows = torch.where((forms >= config.vocabulary)[..., None], fallback, rows)
    parts, mask = network.model.embeddings, forms != config.pad_id
    hidden = network.input_projection(rows) + parts.token_type_embeddings.weight
    hidden = parts.LayerNorm(hidden + parts.position_embeddings.weight)
    for layer in network.model.encoder.layer:
        hidden = layer(hidden, mask, hidden.shape[1])
    return network.scaler(network.output_projection(hidden[:, 0]))


if __name__ == "__main__":
    run(measure, __doc__.splitlines()[0])
