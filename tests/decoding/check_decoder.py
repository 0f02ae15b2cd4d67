"""What every decoder must do, whatever it is made of: `check_decoder(MyDecoder())` with a tiny model.

A decoder that writes what the model itself would write (`exact`) is compared with `generate`; any decoder must treat rows alone and in a
batch alike, end where it is told to, and leave the model as it was.
"""

import pytest
import torch
from scipy.stats import chisquare

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.core.tensors.step_loop import Decoder

PROMPTS = ([5, 9, 3], [7], [4, 4, 8, 30, 2, 11])
LONGEST = max(map(len, PROMPTS))


def padded(prompts, width=LONGEST):
    rows = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def decode(decoder, model, prompts, width=LONGEST, **options):
    """The new tokens of each prompt, up to its end."""
    options = {"pad_token_id": 0, "eos_token_id": 63, "do_sample": False, "max_new_tokens": 12} | options
    found = model.generate(
        **padded(prompts, width), custom_generate=decoder, return_dict_in_generate=True, **options
    )
    counts = found.new_tokens.tolist()
    return [row[width : width + count] for row, count in zip(found.sequences.tolist(), counts, strict=True)]


def check_decoder(decoder: Decoder, model=None, exact: bool = True) -> None:
    """Check one decoder, greedy and sampled, in float32 and bfloat16.

    Args:
        decoder: as it is given to `generate`.
        model: that it decodes; by default a tiny Llama.
        exact: whether it writes what the model itself would write.
    """
    model = tiny.llama(initializer_range=0.5) if model is None else model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    training = [module.training for module in model.modules()]
    alone = [decode(decoder, model, [prompt], len(prompt))[0] for prompt in PROMPTS]
    assert decode(decoder, model, PROMPTS) == alone, "a batch is its rows one by one"
    assert decode(decoder, model, PROMPTS, LONGEST + 3) == alone, "padding changes nothing"
    for limit in range(1, 6):
        assert decode(decoder, model, PROMPTS, max_new_tokens=limit) == [row[:limit] for row in alone]
    # A text of no tokens is refused by generate itself.
    with pytest.raises(ValueError, match="must be greater than 0"):
        decode(decoder, model, PROMPTS, max_new_tokens=0)
    longest = max(alone, key=len)
    assert len(longest) > 5
    for end in longest[:5]:
        ended = [row[: row.index(end) + 1] if end in row else row for row in alone]
        assert decode(decoder, model, PROMPTS, eos_token_id=[end, 63]) == ended, (
            "a row ends at its end token, wherever it is"
        )
    if exact:
        for prompt, row in zip(PROMPTS, alone, strict=True):
            own = model.generate(
                **padded([prompt], len(prompt)),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=63,
                pad_token_id=0,
            )
            assert own[0, len(prompt) :].tolist() == row, "greedy decoding is the model's"
        check_distribution(decoder, model)
    half = model.to(torch.bfloat16)
    assert [len(row) for row in decode(decoder, half, PROMPTS, min_new_tokens=4, max_new_tokens=4)] == [
        4,
        4,
        4,
    ]
    model.to(torch.float32)
    assert [module.training for module in model.modules()] == training
    assert all(
        torch.allclose(value.float(), before[name].float(), rtol=1e-2)
        for name, value in model.state_dict().items()
    )
    with pytest.raises(
        UserError, match=f"num_beams is 2, and {type(decoder).__name__} follows one sequence per row"
    ):
        decode(decoder, model, PROMPTS, num_beams=2)


def check_distribution(decoder: Decoder, model, draws: int = 200, tokens: int = 4) -> None:
    """Two sampled tokens of a small vocabulary against the probability of each pair under the model."""
    others = list(range(tokens, model.config.vocab_size))
    torch.manual_seed(0)
    pairs = decode(
        decoder,
        model,
        [PROMPTS[0]],
        3,
        do_sample=True,
        top_k=0,
        num_return_sequences=draws,
        max_new_tokens=2,
        suppress_tokens=others,
    )
    counts = torch.zeros(tokens, tokens, dtype=torch.double)
    for first, second in pairs:
        counts[first, second] += 1
    with torch.no_grad():
        rows = torch.tensor([[*PROMPTS[0], first] for first in range(tokens)])
        probabilities = model(rows).logits[:, -2:, :tokens].double().softmax(-1)
    due = probabilities[0, 0][:, None] * probabilities[:, 1] * draws
    common = due > 4  # the others are one cell, as the test asks for
    cells = [
        torch.cat([table[common], table[~common].sum(0, keepdim=True)]).numpy() for table in (counts, due)
    ]
    assert chisquare(*cells).pvalue > 1e-3, "sampling has the model's distribution"
