"""One contract for all decoders."""

import pytest
import torch

from tests import tiny
from tests.decoding.check_decoder import check_decoder
from tests.decoding.multi_token.test_golden import golden_drafter
from tests.golden import golden_arrays
from tokenry.core.tensors.step_loop import Block, TokenByToken, token_log_probs
from tokenry.decoding.multi_token.decode import MultiTokenDecoding
from tokenry.decoding.r2r.routed import RoutedDecoding
from tokenry.decoding.r2r.rules import EntropyRule


class FourAtOnce(TokenByToken):
    """Blocks of up to four tokens, of which each row keeps another number: the same tokens as one by one."""

    def blocks(self, model, batch, choose, generation_config, model_kwargs):
        while True:
            rows = [self._draft(model, batch, choose, row) for row in range(len(batch.lengths))]
            tokens, values = (torch.stack(column) for column in zip(*rows, strict=True))
            yield Block(tokens, 1 + (torch.arange(len(rows)) + batch.lengths) % 4, values)

    def _draft(self, model, batch, choose, row):
        ids, mask = batch.input_ids[row : row + 1, : batch.lengths[row]], batch.attention_mask()[row]
        real, values = mask[: batch.lengths[row]].long()[None], []
        for _ in range(4):
            positions = (real.cumsum(1) - 1).clamp(min=0)
            output = model(input_ids=ids, attention_mask=real, position_ids=positions, use_cache=False)
            logits = output.logits[:, -1].float()
            token = choose.of_scores(choose.logits_processor(ids, logits.clone()))
            values.append(token_log_probs(logits, token))
            ids, real = torch.cat([ids, token[None]], 1), torch.cat([real, torch.ones_like(token)[None]], 1)
        return ids[0, -4:], torch.cat(values)


DECODERS = [TokenByToken(), FourAtOnce()]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: type(decoder).__name__)
def test_every_decoder_keeps_the_contract(decoder):
    check_decoder(decoder)


def test_routing_to_an_equal_model_keeps_the_contract():
    small, large = (tiny.llama(initializer_range=0.5) for _ in range(2))
    check_decoder(RoutedDecoding(small, large, EntropyRule(), threshold=1.0), small)


@pytest.mark.parametrize("mode", ["auto", "linear", "quadratic"])
def test_multi_token_decoding_keeps_the_contract(mode):
    """With the trained drafter of the reference numbers, so that drafts are often right."""
    drafter = golden_drafter(golden_arrays("25-multi-token", "dev-model.npz"))
    check_decoder(MultiTokenDecoding(drafter, mode), drafter.model.float())
