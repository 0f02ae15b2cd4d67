"""Pairs for post-training a decoder: the codes that it will be given, and the real image that it should have made of them.

    g → mixed       real tokens, of which a share is replaced by samples of the generator
    mixed → x~      decoded, rounded to 8 bits
    x~ → codes      encoded and quantised again by the frozen tokenizer: what the decoder is trained on, beside the real image

The encoder is frozen, so the codes of a pair are computed once, and training runs the decoder alone.
Pairs are drawn in shards, each from its own random numbers; a shard that is written is not drawn again.

Source: Image Tokenizer Needs Post-Training (RobusTok), arXiv 2509.12474, section 4.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import atomic_write
from tokenry.core.io.progress import Progress
from tokenry.core.io.workspace import Workspace
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.core.train.numbered import step_generator
from tokenry.generation.image_tokenizer.preserved_sampling import (
    NextLogits,
    PreservedSampling,
    preserved_generate,
)
from tokenry.generation.image_tokenizer.vq_tokenizers import Codes, Samples, VQTokenizer


@runtime_checkable
class ImagesByNumber(Protocol):
    """Samples by their numbers: a tensor does, and so does anything that reads files."""

    def __len__(self) -> int: ...

    def __getitem__(self, numbers: list[int], /) -> Float[Tensor, "batch channels *size"]: ...


@dataclass(frozen=True)
class DecoderPairs:
    """What a decoder is given, and what it should make.

    Attributes:
        codes: codes of each pair.
        originals: number of the real image of each.
    """

    codes: Int[Tensor, "pairs levels *grid"]
    originals: Int[Tensor, "pairs"]


@dataclass(frozen=True)
class PairDrawing:
    """How pairs are drawn.

    Attributes:
        sampling: sampling that keeps a share of the real tokens.
        reencode: decode the mixed tokens, round to 8 bits and encode again, as the paper does; else the mixed tokens are the codes.
        shard_size: pairs per shard, and images per batch of the generator.
    """

    sampling: PreservedSampling
    reencode: bool = True
    shard_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, shard_size=self.shard_size)
        require_at_least(0, seed=self.seed)


def draw_pairs(
    tokenizer: VQTokenizer,
    generator: Callable[[Int[Tensor, "images"]], NextLogits],
    images: ImagesByNumber,
    classes: Int[Tensor, "images"],
    drawing: PairDrawing,
    folder: Path | None = None,
    fingerprint: str = "",
    progress: Progress = lambda what, share: None,
) -> DecoderPairs:
    """Draw one pair for each image.

    Args:
        tokenizer: the tokenizer, of one level.
        generator: makes the generator of a batch from the classes of its images: `partial(ClassConditionalLM, model, codes)`.
        images: real images in [−1, 1].
        folder: where shards are kept; None to keep them in memory.
        fingerprint: of generator and images, so that a folder with other pairs is refused.
        progress: called before each shard.

    Raises:
        UserError: unequal numbers of images and classes, several levels, a damaged shard, or a folder of other pairs.
    """
    if len(images) != len(classes):
        raise UserError(f"each image needs a class, got {len(images)} images and {len(classes)} classes.")
    if len(tokenizer.codebooks) != 1:
        raise UserError(
            f"tokens are generated one by one, but the tokenizer has {len(tokenizer.codebooks)} levels: post-train it on pairs of your own."
        )
    if folder is not None:
        settings = {
            **asdict(drawing),
            "images": len(images),
            "tokenizer": model_fingerprint(tokenizer.module),
            "fingerprint": fingerprint,
        }
        Workspace(folder, settings, "pairs.json").claim(
            f"{folder} holds pairs of another tokenizer, generator, images or settings: name a new folder."
        )
    parts = []
    for shard, start in enumerate(range(0, len(images), drawing.shard_size)):
        progress("drawing pairs", start / len(images))
        numbers = torch.arange(start, min(start + drawing.shard_size, len(images)))
        file = None if folder is None else Path(folder) / f"pairs-{shard:05d}.safetensors"
        if file is not None and file.exists():
            parts.append(_read(file, numbers))
            continue
        real = images[numbers.tolist()].to(_device(tokenizer))
        draw = step_generator(drawing.seed, shard, "pairs")
        tokens = tokenizer.encode(real)
        mixed = preserved_generate(generator(classes[numbers]), tokens.flatten(1), drawing.sampling, draw)
        codes = mixed.view_as(tokens)
        if drawing.reencode:
            with torch.no_grad():
                codes = tokenizer.encode(eight_bits(tokenizer.decode(codes)))
        parts.append(codes.cpu())
        if file is not None:
            with atomic_write(file) as partial:
                save_file({"codes": parts[-1].to(torch.int32).contiguous(), "originals": numbers}, partial)
    return DecoderPairs(torch.cat(parts), torch.arange(len(images)))


def eight_bits(images: Samples) -> Samples:
    """Images in [−1, 1] as a file with 8 bits per colour would give them back."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _read(file: Path, numbers: Int[Tensor, "pairs"]) -> Codes:
    try:
        held = load_file(file)
        whole = torch.equal(held["originals"], numbers)
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it, and it is drawn again.") from error
    if not whole:
        raise UserError(f"{file} holds pairs of other images: remove it, and it is drawn again.")
    return held["codes"].long()


def _device(tokenizer: VQTokenizer) -> torch.device:
    return next(tokenizer.decoder.parameters()).device
