"""Decoding with drafts: what the model writes by itself, whatever the drafts are, on every architecture."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.core.tensors.test_tree_attention import CONFIGS, load
from tests.decoding.check_decoder import PROMPTS, decode
from tokenry.core.errors import UserError
from tokenry.decoding.multi_token.decode import MultiTokenDecoding, _Drafts
from tokenry.decoding.multi_token.drafter import Drafter
from tokenry.decoding.multi_token.layout import block_layout

GREEDY = {"max_new_tokens": 14, "do_sample": False, "eos_token_id": 49, "pad_token_id": 0}


class Told(MultiTokenDecoding):
    """Drafts are those of a text, each token right or wrong as `rights` says, in turn."""

    def __init__(self, drafter, mode, texts, rights):
        super().__init__(drafter, mode)
        self.texts, self.rights, self.asked = texts, rights, 0

    def _looked_up(self, batch, starts, drafts, running):
        k, vocabulary = self.drafter.k, self.drafter.head.vocabulary
        tokens = torch.zeros(len(batch.lengths), k, dtype=torch.long)
        for row, length in enumerate((batch.lengths - batch.prompt_length).tolist()):
            draft = (self.texts[row] + [0] * k)[length : length + k]
            for place in range(k):
                is_right = self.rights[self.asked % len(self.rights)]
                self.asked += 1
                tokens[row, place] = draft[place] if is_right else (draft[place] + 1) % vocabulary
        counts = drafts.counts if drafts.by_masks.any() else torch.full_like(drafts.counts, k)
        return _Drafts(tokens[:, : int(counts.max())], counts, drafts.by_masks)


def own_texts(model, prompts, **options):
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        found.append(
            model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
        )
    return found


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("mode", ["linear", "quadratic"])
def test_ragged_batches_write_what_each_model_writes_alone(name, mode):
    model = load(name, "eager" if name == "gemma2" else "sdpa")
    texts = own_texts(model, PROMPTS, **GREEDY)
    decoder = Told(Drafter(model, k=3, rank=2), mode, texts, [True, True, False, True, True, True, True])
    assert decode(decoder, model, PROMPTS, **GREEDY) == texts
    assert decoder.account.tokens_per_step > 1.3, "drafts are used"


@pytest.mark.parametrize("name", CONFIGS)
def test_masks_read_the_same_in_decoding_as_in_training(name):
    """Each draft against one forward over the whole text with a block at its end, rejected drafts and padding in between."""
    model = load(name, "eager" if name == "gemma2" else "sdpa")
    drafter = Drafter(model, k=3, rank=2)
    for layer in drafter.lora.layers.values():
        torch.nn.init.normal_(layer.lora_B.weight)
    read, draft = [], drafter.draft

    def recorded(z, last, sampler):
        read[:] = z
        return draft(z, last, sampler)

    class Checked(MultiTokenDecoding):
        checked = 0

        def _looked_up(self, batch, starts, drafts, running):
            for row in (drafts.by_masks & batch.running).nonzero()[:, 0].tolist():
                text = batch.input_ids[
                    row, batch.attention_mask()[row].int().argmax() : batch.lengths[row] - 1
                ]
                layout = block_layout(len(text), torch.tensor([[len(text) - 1]]), 3)
                masks = drafter.hidden_states(text[None], layout)[0, -3:]
                torch.testing.assert_close(read[row], masks, rtol=1e-4, atol=1e-4)
                self.checked += 1
            return drafts

    drafter.draft, decoder = recorded, Checked(drafter, "quadratic")
    decode(decoder, model, PROMPTS, **{**GREEDY, "max_new_tokens": 6})
    assert decoder.checked > 5


@pytest.fixture(scope="module")
def alone():
    """A model and what it writes after each prompt."""
    model = tiny.llama(initializer_range=0.5)
    return model, own_texts(model, PROMPTS, **{**GREEDY, "eos_token_id": 63, "max_new_tokens": 8})


@settings(max_examples=10, deadline=None)
@given(rights=st.lists(st.booleans(), min_size=1, max_size=9), mode=st.sampled_from(["linear", "quadratic"]))
def test_no_draft_changes_a_token(alone, rights, mode):
    model, texts = alone
    decoder = Told(Drafter(model, k=2, rank=2), mode, texts, rights)
    assert decode(decoder, model, PROMPTS, max_new_tokens=8) == texts
    blocks = decoder.account.blocks
    if not any(rights):
        assert decoder.account.tokens_per_step == 1
    if all(rights) and mode == "quadratic":
        assert blocks[1:] == [[3, 3, 2]] * 2


def test_one_mask_and_a_prompt_of_one_token():
    model = tiny.llama(initializer_range=0.5)
    drafter = Drafter(model, k=1, rank=1)
    for mode in ("auto", "linear", "quadratic"):
        found = drafter.generate(torch.tensor([[7]]), mode, **{**GREEDY, "eos_token_id": 63})
        assert found.tokens[0, 1:].tolist() == own_texts(model, [[7]], **{**GREEDY, "eos_token_id": 63})[0]
        assert sum(found.blocks[0]) == 14


@pytest.mark.newer("transformers")
def test_a_logits_processor_sees_no_drafted_token():
    """Processors are asked for each verified token once, about the text up to it."""
    model = tiny.llama(initializer_range=0.5)
    options = {**GREEDY, "eos_token_id": 63, "repetition_penalty": 3.0, "no_repeat_ngram_size": 2}
    texts = own_texts(model, PROMPTS, **options)
    decoder = Told(Drafter(model, k=3, rank=2), "quadratic", texts, [True, True, False])
    assert decode(decoder, model, PROMPTS, **options) == texts


def test_a_text_that_repeats_itself_is_looked_up():
    model = tiny.llama(initializer_range=0.5)
    options = {**GREEDY, "max_new_tokens": 30, "eos_token_id": 63, "suppress_tokens": list(range(3, 64))}
    decoder = MultiTokenDecoding(Drafter(model, k=3, rank=2), "auto")
    assert decode(decoder, model, PROMPTS, **options) == own_texts(model, PROMPTS, **options)
    assert decoder.account.tokens_per_step > 1.5


def test_another_model_is_refused():
    drafter = Drafter(tiny.llama(), k=1, rank=1)
    with pytest.raises(UserError, match="the drafter stands on another model than"):
        decode(MultiTokenDecoding(drafter), tiny.llama(), PROMPTS)


def test_a_block_beyond_the_last_position_is_refused():
    model = tiny.gpt2(n_positions=20)
    drafter = Drafter(model, k=3, rank=1)
    assert decode(MultiTokenDecoding(drafter), model, PROMPTS, max_new_tokens=9)
    words = "blocks of 3 masks reach 6 positions beyond the text.*may have 15 tokens together, and have 16"
    with pytest.raises(UserError, match=words):
        decode(MultiTokenDecoding(drafter), model, PROMPTS, max_new_tokens=10)


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="mode must be one of auto, linear, quadratic, got 'cubic'"):
        MultiTokenDecoding(Drafter(tiny.llama(), k=1, rank=1), "cubic")
