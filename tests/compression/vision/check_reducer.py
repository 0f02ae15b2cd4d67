"""What every token reduction must keep: `check_reducer(MyReducer(...))` in the test of a new one.

Tokens become fewer and never come back, special tokens stay themselves in front, a size counts what a token stands for, an image is
reduced as it would be alone, gradients are finite, bfloat16 stays bfloat16, and a model whose reduction is removed is as it was.
"""

import torch

from tests.tiny.encoders import SPECIAL, inputs, tiny, tokens_of
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.flops import layer_costs
from tokenry.compression.reducer import REDUCERS, TokenReducer
from tokenry.compression.vision.shares import EncoderShape
from tokenry.core.tensors.patching import find_encoder


def check_reducer(
    reducer: TokenReducer, family: str = "deit", drawn: bool = False, counted: bool = True
) -> None:
    """Check a reduction of a tiny encoder.

    Args:
        reducer: one that removes tokens of an encoder of three layers.
        family: the encoder, by its name in `tests.tiny.encoders`.
        drawn: whether chance decides, so that an image in a batch is reduced otherwise than alone.
        counted: whether a size is the number of tokens that one stands for (DiffRate's are weights).
    """
    model, given, special = tiny(family), inputs(family), SPECIAL.get(family, 1)
    untouched = _states(model, given)
    reduction = apply_token_reduction(model, reducer)
    together = _states(model, given)

    counts = reduction.token_counts
    assert counts[0] == tokens_of(family)
    assert list(counts) == sorted(counts, reverse=True)
    assert special < counts[-1] < counts[0], "tokens become fewer, and one that is not special is left"
    assert together.shape[1] == counts[-1]
    assert torch.isfinite(together).all()

    places = reduction.places()
    assert places.shape == (2, counts[0])
    assert torch.equal(places[:, :special], torch.arange(special).expand(2, -1))
    assert places.max() < counts[-1]
    sources = reduction.source_map().sum(dim=2)
    assert (sources[:, :special] == 1).all(), "nothing is merged into a special token"
    assert (sources.sum(dim=1) <= counts[0]).all()
    if counted and reduction.size is not None:
        torch.testing.assert_close(reduction.size.squeeze(-1).float(), sources.float())

    if not drawn:
        for number, alone in enumerate(given["pixel_values"]):
            state = _states(model, {"pixel_values": alone[None]})[0]
            torch.testing.assert_close(state, together[number], rtol=1e-4, atol=1e-5)

    model(**given).to_tuple()[0].square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)

    reduction.remove()
    torch.testing.assert_close(_states(model, given), untouched, rtol=0, atol=0)

    half = tiny(family).bfloat16()
    with apply_token_reduction(half, reducer):
        assert _states(half, {"pixel_values": given["pixel_values"].bfloat16()}).dtype == torch.bfloat16


def reducer_at(method: str, share: float, family: str = "deit") -> TokenReducer:
    """A registered reduction with the options that cost this share on a tiny encoder: what a sweep makes."""
    shape = EncoderShape(layer_costs(find_encoder(tiny(family))), tokens_of(family), SPECIAL.get(family, 1))
    return REDUCERS.make(method, **REDUCERS[method].method.at(share, shape))


def _states(model: torch.nn.Module, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """What leaves the last layer."""
    seen = []
    hook = find_encoder(model).layers[-1].register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.no_grad():
        model(**given)
    hook.remove()
    return seen[0]
