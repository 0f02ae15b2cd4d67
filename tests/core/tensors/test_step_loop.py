"""The one loop of decoders against the decoding of transformers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    EosTokenCriteria,
    Gemma3TextConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MambaConfig,
    MaxLengthCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.core.tensors.step_loop import (
    Block,
    Decoder,
    GrowingBatch,
    TokenByToken,
    TokenChoice,
    token_log_probs,
)

GLU = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "intermediate_size": 32,
    "num_attention_heads": 2,
}
MODELS = {
    "llama": lambda: tiny.llama(initializer_range=0.5),
    "gpt2": lambda: tiny.gpt2(initializer_range=0.5, eos_token_id=1, bos_token_id=1),
    "gemma3": lambda: AutoModelForCausalLM.from_config(
        Gemma3TextConfig(
            **GLU,
            num_key_value_heads=1,
            head_dim=8,
            sliding_window=4,
            initializer_range=0.5,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        )
    ).eval(),
    "mamba": lambda: AutoModelForCausalLM.from_config(
        MambaConfig(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=2,
            state_size=4,
            initializer_range=0.5,
            eos_token_id=1,
        )
    ).eval(),
}


def model_of(name):
    torch.manual_seed(0)
    return MODELS[name]()


def padded(*prompts):
    longest = max(map(len, prompts))
    rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


def by_ours(model, inputs, **options):
    return model.generate(
        **inputs, pad_token_id=0, custom_generate=TokenByToken(), return_dict_in_generate=True, **options
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {"do_sample": True, "temperature": 1.3, "top_k": 20}]
)
def test_token_by_token_is_the_decoding_of_generate(name, options):
    model = model_of(name)
    inputs = padded([5, 9, 3]) if name == "mamba" else padded([5, 9, 3], [7], [4, 4, 8, 30, 2, 11])
    torch.manual_seed(3)
    expected = model.generate(**inputs, pad_token_id=0, max_new_tokens=24, **options)
    torch.manual_seed(3)
    found = by_ours(model, inputs, max_new_tokens=24, **options)
    assert torch.equal(found.sequences, expected)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_log_probs_are_those_of_a_second_forward(name):
    model, inputs = model_of(name), padded([5, 9, 3], [7], [4, 4, 8, 30, 2, 11])
    found = by_ours(model, inputs, max_new_tokens=24, do_sample=True, temperature=0.7)
    width = inputs["input_ids"].shape[1]
    for row, count in enumerate(found.new_tokens.tolist()):
        ids = found.sequences[row, inputs["attention_mask"][row].argmax() : width + count]
        logits = model(ids[None]).logits[0, -count - 1 : -1].float()
        expected = token_log_probs(logits, ids[-count:])
        torch.testing.assert_close(found.log_probs[row, :count], expected, atol=1e-4, rtol=1e-4)
        assert bool(found.log_probs[row, count:].isnan().all())


def test_a_row_ends_at_its_end_token_and_the_others_go_on():
    model = model_of("llama")
    inputs = padded([5, 9, 3], [7], [4, 4, 8])
    free = by_ours(model, inputs, max_new_tokens=12, eos_token_id=63)
    ends = [int(free.sequences[1, 3 + 2])]
    found = by_ours(model, inputs, max_new_tokens=12, eos_token_id=ends)
    new = found.sequences[:, 3:].tolist()
    for row, count in zip(new, found.new_tokens.tolist(), strict=True):
        assert row[count - 1] in ends or count == 12
        assert set(row[count:]) <= {0}
    assert found.new_tokens.min() <= 3


def test_a_tensor_comes_back_where_no_dictionary_is_asked_for():
    found = model_of("llama").generate(**padded([5, 9]), max_new_tokens=2, custom_generate=TokenByToken())
    assert found.shape == (1, 4)


class Blocks(Decoder):
    """A decoder that yields what it is told."""

    def __init__(self, *blocks):
        self.told, self.kept = blocks, []

    def blocks(self, model, batch, choose, generation_config, model_kwargs):
        for tokens, counts in self.told:
            before = batch.lengths.clone()
            yield Block(torch.tensor(tokens), torch.tensor(counts), torch.tensor(tokens).neg().float())
            self.kept.append((batch.lengths - before).tolist())


def test_rows_grow_at_their_own_lengths_and_a_block_is_cut_at_the_end_token():
    decoder = Blocks(
        ([[5, 6, 7], [8, 8, 8]], [1, 3]), ([[9, 1, 9], [10, 11, 12]], [3, 2]), ([[2], [13]], [1, 1])
    )
    model = model_of("llama")
    found = model.generate(
        **padded([3], [4]),
        max_new_tokens=6,
        eos_token_id=1,
        pad_token_id=0,
        custom_generate=decoder,
        return_dict_in_generate=True,
    )
    assert found.sequences.tolist() == [[3, 5, 9, 1, 0, 0, 0], [4, 8, 8, 8, 10, 11, 13]]
    assert found.new_tokens.tolist() == [3, 6]
    assert found.log_probs[0, :3].tolist() == [-5, -9, -1]
    assert decoder.kept == [[1, 3], [2, 2]]


def test_a_block_is_cut_at_the_maximum_length():
    found = model_of("llama").generate(
        **padded([3]), max_new_tokens=2, pad_token_id=0, custom_generate=Blocks(([[5, 6, 7, 8]], [4]))
    )
    assert found.tolist() == [[3, 5, 6]]


def test_no_room_means_no_step():
    batch = GrowingBatch(torch.tensor([[3, 4]]), StoppingCriteriaList([MaxLengthCriteria(2)]))
    assert not bool(batch.running.any())
    assert batch.sequences().tolist() == [[3, 4]]


class LastTokenAgain(LogitsProcessor):
    """Makes the last token the most probable one."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, input_ids[:, -1:], 100.0)


def test_processors_see_each_row_up_to_its_own_last_token():
    batch = GrowingBatch(torch.tensor([[3, 4], [5, 6]]), StoppingCriteriaList())
    batch.append(Block(torch.tensor([[7, 8], [9, 0]]), torch.tensor([2, 1])))
    chosen = TokenChoice(LogitsProcessorList([LastTokenAgain()]))(batch, torch.zeros(2, 20))
    assert chosen.tolist() == [8, 9]


def test_the_mask_covers_the_prompts_and_each_rows_own_tokens():
    batch = GrowingBatch(
        torch.tensor([[0, 4], [5, 6]]), StoppingCriteriaList(), 0, torch.tensor([[0, 1], [1, 1]])
    )
    batch.append(Block(torch.tensor([[7, 8], [9, 0]]), torch.tensor([2, 1])))
    assert batch.attention_mask().int().tolist() == [[0, 1, 1, 1], [1, 1, 1, 0]]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.integers(0, 3)),
            min_size=3,
            max_size=3,
        ),
        max_size=6,
    )
)
def test_every_row_is_what_it_is_alone(steps):
    """Rows of one batch against batches of one row, an end token (1) and a maximum length among the criteria."""
    ended = lambda ids, scores, **_: ids[:, -1] == 1  # noqa: E731
    limits = StoppingCriteriaList([MaxLengthCriteria(9), ended])
    together = GrowingBatch(torch.tensor([[2], [3], [4]]), limits)
    alone = [GrowingBatch(torch.tensor([[token]]), limits) for token in (2, 3, 4)]
    for rows in steps:
        tokens, counts = (torch.tensor(values) for values in zip(*rows, strict=True))
        together.append(Block(tokens, counts))
        for row, batch in enumerate(alone):
            batch.append(Block(tokens[row : row + 1], counts[row : row + 1]))
    for row, batch in enumerate(alone):
        assert together.sequences()[row, : batch.length].tolist() == batch.sequences()[0].tolist()
        assert bool(together.running[row]) == bool(batch.running[0])


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.lists(st.lists(st.integers(1, 6), min_size=4, max_size=4), min_size=2, max_size=2),
    counts=st.lists(st.integers(0, 4), min_size=2, max_size=2),
)
def test_a_block_added_at_once_ends_where_it_ends_token_by_token(tokens, counts):
    """The criteria of length and end token are read off the block; any other is asked after every token."""

    class Never(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.zeros(len(input_ids), dtype=torch.bool)

    known = [MaxLengthCriteria(8), EosTokenCriteria([5, 6])]
    batches = [
        GrowingBatch(torch.tensor([[3, 4], [5, 6]]), StoppingCriteriaList(criteria))
        for criteria in (known, [*known, Never()])
    ]
    block = Block(torch.tensor(tokens), torch.tensor(counts), torch.tensor(tokens) / -7)
    for _ in range(2):
        kept = [batch.append(block).tolist() for batch in batches]
        assert kept[0] == kept[1]
    at_once, one_by_one = batches
    assert torch.equal(at_once.sequences(), one_by_one.sequences())
    assert torch.equal(at_once.running, one_by_one.running)
    torch.testing.assert_close(at_once.log_probs, one_by_one.log_probs, equal_nan=True, rtol=0, atol=0)


def test_beam_search_is_refused():
    with pytest.raises(UserError, match="num_beams is 3, and TokenByToken follows one sequence per row"):
        model_of("llama").generate(
            **padded([3]), max_new_tokens=2, num_beams=3, custom_generate=TokenByToken()
        )
