"""A pretrained Longformer as the encoder of a summariser: LED's layers are the same, so its weights are put under their names there.

BudgetLongformer (arXiv 2211.17135): the decoder begins from random weights, which did better than those of a BART; its token table is the
encoder's. The first token of a text sees all tokens and is seen by all.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import (
    LEDConfig,
    LEDForConditionalGeneration,
    LongformerModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.bart.modeling_bart import BartDecoder

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.text.passages import in_batches
from tokenry.pretraining.longformer import RESERVED

_LAYER = {
    "attention.self": "self_attn.longformer_self_attn",
    "attention.output.dense": "self_attn.output",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
"""Parts of a layer: their names in Longformer, and in LED."""


def attach_decoder(
    encoder: PreTrainedModel,
    layers: int = 6,
    max_summary: int = 1024,
    seed: int = 0,
    init: PreTrainedModel | str = "random",
) -> LEDForConditionalGeneration:
    """Make a model that reads with this encoder and writes with a decoder of random weights, or with that of a BART.

    Args:
        encoder: a Longformer, with or without a head; it stays as it is.
        layers: layers of the decoder; of a BART with more of them, evenly spaced ones.
        max_summary: maximum number of tokens that the decoder writes.
        seed: random seed of the decoder.
        init: `random`, with the sizes of the encoder; or a BART of its width, whose decoder is copied. The token table is the encoder's.

    Raises:
        UserError: the encoder is no Longformer, or `init` does not fit it.
    """
    inner = encoder.base_model
    if not isinstance(inner, LongformerModel):
        raise UserError(
            f"a decoder is attached to a Longformer, whose layers are those of LED, got {type(encoder).__name__}."
        )
    require_at_least(1, layers=layers, max_summary=max_summary)
    config = inner.config
    if config.hidden_act != "gelu":
        raise UserError(
            f"LED's encoder is run with gelu, and this Longformer has {config.hidden_act}: it cannot be carried over."
        )
    copied = _decoder_of(init, config.hidden_size, layers, max_summary)
    heads, inner_width = config.num_attention_heads, config.intermediate_size
    if copied is not None:
        heads, inner_width = copied.config.decoder_attention_heads, copied.config.decoder_ffn_dim
    led = LEDConfig(
        vocab_size=config.vocab_size,
        d_model=config.hidden_size,
        encoder_layers=config.num_hidden_layers,
        encoder_attention_heads=config.num_attention_heads,
        encoder_ffn_dim=config.intermediate_size,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        decoder_ffn_dim=inner_width,
        attention_window=config.attention_window,
        max_encoder_position_embeddings=config.max_position_embeddings - RESERVED,
        max_decoder_position_embeddings=max_summary,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        decoder_start_token_id=config.eos_token_id,
        init_std=config.initializer_range,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = LEDForConditionalGeneration(led)
    table = inner.get_input_embeddings().weight
    made.to(device=table.device, dtype=table.dtype)
    _carry_over(inner, made)
    if copied is not None:
        _copy_decoder(copied, made)
    return made.train(encoder.training)


def summarise(
    model: LEDForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_new_tokens: int = 128,
    num_beams: int = 4,
    batch_size: int = 4,
) -> list[str]:
    """Summarise texts by beam search, with global attention on their first token; longer texts than the encoder reads are cut."""
    require_at_least(1, max_new_tokens=max_new_tokens, num_beams=num_beams, batch_size=batch_size)
    longest, found = model.config.max_encoder_position_embeddings, []
    device = model.get_input_embeddings().weight.device
    with torch.no_grad(), evaluation_mode(model):
        for some in in_batches(texts, batch_size):
            inputs = tokenizer(
                some, padding=True, truncation=True, max_length=longest, return_tensors="pt"
            ).to(device)
            seen = torch.zeros_like(inputs["input_ids"])
            seen[:, 0] = 1
            written = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                global_attention_mask=seen,
                max_new_tokens=max_new_tokens,
                num_beams=num_beams,
            )
            found += tokenizer.batch_decode(written, skip_special_tokens=True)
    return found


def _decoder_of(init: PreTrainedModel | str, width: int, layers: int, max_summary: int) -> BartDecoder | None:
    """The decoder that is copied, None for random weights."""
    if init == "random":
        return None
    decoder = getattr(getattr(init, "base_model", None), "decoder", None)
    if not isinstance(decoder, BartDecoder):
        raise UserError(
            f"init must be 'random' or a BART, whose decoder is copied, got {init if isinstance(init, str) else type(init).__name__!r}."
        )
    config = decoder.config
    for what, asked, there in (
        ("width", width, config.d_model),
        ("activation_function", "gelu", config.activation_function),
    ):
        if asked != there:
            raise UserError(
                f"the decoder needs {what} {asked}, and that of init has {there}: give another BART, or init='random'."
            )
    for what, most_asked, most in (
        ("layers", layers, config.decoder_layers),
        ("max_summary", max_summary, config.max_position_embeddings),
    ):
        if most_asked > most:
            raise UserError(
                f"{what} is {most_asked}, and the decoder of init has {most}: ask for at most that, or use init='random'."
            )
    return decoder


def _copy_decoder(decoder: BartDecoder, made: LEDForConditionalGeneration) -> None:
    """Copy evenly spaced layers, positions and norm of a BART's decoder; BART's positions have reserved rows."""
    own, theirs = made.led.decoder, decoder.layers
    last = len(theirs) - 1
    for number, layer in enumerate(own.layers):
        place = last if len(own.layers) == 1 else round(number * last / (len(own.layers) - 1))
        layer.load_state_dict(theirs[place].state_dict())
    own.layernorm_embedding.load_state_dict(decoder.layernorm_embedding.state_dict())
    with torch.no_grad():
        table = own.embed_positions.weight
        table.copy_(decoder.embed_positions.weight[RESERVED : RESERVED + len(table)])


def _carry_over(inner: LongformerModel, made: LEDForConditionalGeneration) -> None:
    """Copy the weights of the encoder; segments have one row, which every position has in it."""
    encoder, embeddings = made.led.encoder, inner.embeddings
    weights = dict(_renamed(inner))
    weights["embed_tokens.weight"] = embeddings.word_embeddings.weight
    weights["embed_positions.weight"] = (
        embeddings.position_embeddings.weight[RESERVED:] + embeddings.token_type_embeddings.weight[0]
    )
    own = encoder.state_dict()
    if lacking := own.keys() ^ weights.keys():
        raise UserError(
            f"this Longformer has other weights than LED's encoder ({min(lacking)}, …): it cannot be carried over."
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = inner.config.layer_norm_eps


def _renamed(inner: LongformerModel) -> Iterator[tuple[str, Tensor]]:
    """The weights of the layers and of the first norm, under their names in LED's encoder."""
    for name, weight in inner.embeddings.LayerNorm.named_parameters():
        yield f"layernorm_embedding.{name}", weight
    for number, layer in enumerate(inner.encoder.layer):
        for theirs, ours in _LAYER.items():
            for name, weight in layer.get_submodule(theirs).named_parameters():
                yield f"layers.{number}.{ours}.{name}", weight
