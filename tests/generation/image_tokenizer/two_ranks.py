"""A post-training in two processes; each of them saves what it has in the end."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.tiny.vq import TinyTokenizer, images
from tokenry.generation.image_tokenizer.decoder_post_training import (
    PatchDiscriminator,
    PostTrainingConfig,
    post_train_decoder,
)
from tokenry.generation.image_tokenizer.drawn_pairs import DecoderPairs


def main(folder):
    tokenizer, pictures = TinyTokenizer(), images(12)
    pairs = DecoderPairs(tokenizer.encode(pictures), torch.arange(12))
    torch.manual_seed(0)
    config = PostTrainingConfig(steps=4, batch_size=2, learning_rate=1e-2)
    post_train_decoder(
        tokenizer, pairs, pictures, config, torch.nn.functional.l1_loss, PatchDiscriminator(3, 4, 1)
    )
    save_file(tokenizer.state_dict(), folder / f"rank-{torch.distributed.get_rank()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
