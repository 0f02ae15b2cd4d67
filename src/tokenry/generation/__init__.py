"""Generate images and speech from units larger than a token, or continuous ones, and choose and repair the tokenizers of images."""

from tokenry.generation.image_tokenizer.decoder_post_training import (
    PatchDiscriminator,
    PostTrained,
    PostTrainingConfig,
    post_train_decoder,
)
from tokenry.generation.image_tokenizer.drawn_pairs import DecoderPairs, PairDrawing, draw_pairs
from tokenry.generation.image_tokenizer.perturbation import (
    LatentPerturbation,
    PerturbationSchedule,
    neighbour_table,
    perturb_latents,
    perturb_tokens,
)
from tokenry.generation.image_tokenizer.pfid import PFID, PerturbationGrid, PFIDConfig, pfid
from tokenry.generation.image_tokenizer.preserved_sampling import (
    ClassConditionalLM,
    PreservedSampling,
    preserved_generate,
)
from tokenry.generation.image_tokenizer.tokenizer_losses import LeCam, adaptive_weight, semantic_loss
from tokenry.generation.image_tokenizer.vector_quantizer import QuantizeOutput, VectorQuantizer
from tokenry.generation.image_tokenizer.vq_tokenizers import (
    DacTokenizer,
    DiffusersTokenizer,
    Emu3Tokenizer,
    EncodecTokenizer,
    JanusTokenizer,
    MimiTokenizer,
    VQTokenizer,
    adapt_vq_tokenizer,
    load_vq_tokenizer,
)

__all__ = [
    "PFID",
    "ClassConditionalLM",
    "DacTokenizer",
    "DecoderPairs",
    "DiffusersTokenizer",
    "Emu3Tokenizer",
    "EncodecTokenizer",
    "JanusTokenizer",
    "LatentPerturbation",
    "LeCam",
    "MimiTokenizer",
    "PFIDConfig",
    "PairDrawing",
    "PatchDiscriminator",
    "PerturbationGrid",
    "PerturbationSchedule",
    "PostTrained",
    "PostTrainingConfig",
    "PreservedSampling",
    "QuantizeOutput",
    "VQTokenizer",
    "VectorQuantizer",
    "adapt_vq_tokenizer",
    "adaptive_weight",
    "draw_pairs",
    "load_vq_tokenizer",
    "neighbour_table",
    "perturb_latents",
    "perturb_tokens",
    "pfid",
    "post_train_decoder",
    "preserved_generate",
    "semantic_loss",
]
