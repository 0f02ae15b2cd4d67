"""Routed decoding: the reference's tokens, the contract of decoders, what happens at the extremes, and what is refused."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests import tiny
from tests.core.tensors.test_tree_attention import CONFIGS, load
from tests.decoding.check_decoder import PROMPTS, check_decoder, decode, padded
from tests.golden import golden_arrays
from tests.tiny.tokenizers import character_tokenizer, word_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.decoding.r2r.features import Response, read_features
from tokenry.decoding.r2r.routed import (
    RoutedDecoding,
    RoutingAccount,
    activated_parameters,
    routed_generate,
)
from tokenry.decoding.r2r.router import TokenRouter
from tokenry.decoding.r2r.rules import (
    ROUTING_RULES,
    EntropyRule,
    MomentumRule,
    RandomRule,
    RoutingRule,
    SmallStep,
)

SLUG = "05-r2r"
CLEAR = {"initializer_range": 0.5}


def models(**large):
    return tiny.llama(**CLEAR), tiny.llama(seed=1, hidden_size=48, **{**CLEAR, **large})


def a_router(small, threshold=0.5):
    torch.manual_seed(3)
    return TokenRouter.from_small_model(small, top_k=8, widths=(16, 16), threshold=threshold).eval()


def own(model, prompts=PROMPTS, **options):
    """What a model writes alone, up to each end."""
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": 63, "pad_token_id": 0} | options
    found = model.generate(**padded(prompts), **options)[:, max(map(len, prompts)) :].tolist()
    return [row[: row.index(63) + 1] if 63 in row else row for row in found]


# --- reference ---------------------------------------------------------------------------------------------------------


def reference_model(stored, prefix, hidden_size, layers):
    config = LlamaConfig(
        vocab_size=int(stored["vocab"]),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    )
    return model.double().eval()


def test_routed_tokens_are_the_reference():
    stored = golden_arrays(SLUG, "dev-routedgen.npz")
    small, large = reference_model(stored, "WS|", 16, 1), reference_model(stored, "WL|", 32, 2)
    end, limit = int(stored["eos"]), int(stored["max_new_tokens"])
    options = {"max_new_tokens": limit, "eos_token_id": end, "pad_token_id": end}
    rule = EntropyRule(float(stored["entropy_threshold"]))
    found = routed_generate(small, large, rule, stored["prompts"], **options)
    width = found.tokens.shape[1]
    written = stored["source"][:, :width] >= 0
    assert torch.equal(found.sources, stored["source"][:, :width])
    assert torch.equal(found.tokens[written], stored["tokens"][:, :width][written])
    for row, sources in enumerate(found.sources):
        account = RoutingAccount.of(sources[None])
        assert account.rate == pytest.approx(float(stored["llm_fraction"][row]))
        assert account.activated(*stored["params_small_large"].tolist()) == pytest.approx(
            float(stored["avg_params"][row])
        )
    for threshold, name in ((0, "large_only"), (99, "small_only")):
        alone = routed_generate(small, large, rule, stored["prompts"], threshold, **options).tokens
        kept = stored[name][:, : alone.shape[1]] >= 0
        assert torch.equal(alone[kept], stored[name][:, : alone.shape[1]][kept])


# --- contract ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["momentum", "random", "router"])
def test_routing_to_an_equal_model_keeps_the_contract(name):
    small, large = tiny.llama(**CLEAR), tiny.llama(**CLEAR)
    rule: RoutingRule = a_router(small) if name == "router" else ROUTING_RULES.make(name)
    threshold = {"momentum": 1.0, "random": 0.5, "router": 0.5}[name]
    # A router looks at the token that was drawn, so what is drawn anew is no longer the model's distribution.
    check_decoder(RoutedDecoding(small, large, rule, threshold=threshold), small, exact=name != "router")


@pytest.mark.parametrize("options", [{"threshold": 1.5}, {"rate": 0.3}, {"rate": 0}])
def test_routing_to_another_model_keeps_the_contract(options):
    small, large = models()
    check_decoder(RoutedDecoding(small, large, EntropyRule(), **options), small, exact=False)


@pytest.mark.parametrize("sampling", [{}, {"do_sample": True, "temperature": 0.7, "top_k": 5}])
@pytest.mark.parametrize("kind", [tiny.llama, tiny.gpt2])
def test_at_the_extremes_one_model_writes_token_for_token(kind, sampling):
    small = kind(seed=2, initializer_range=0.5)
    large = kind(seed=5, initializer_range=0.5)
    large.train()
    for rule, options, model in (
        (EntropyRule(), {"threshold": 0}, large),
        (EntropyRule(), {"threshold": 100.0}, small),
        (a_router(small), {"threshold": 0}, large),
        (a_router(small), {"threshold": 1.0}, small),
        (a_router(small), {"rate": 1}, large),
        (MomentumRule(), {"rate": 0}, small),
    ):
        torch.manual_seed(0)
        with evaluation_mode(large):
            expected = own(model, **sampling)
        torch.manual_seed(0)
        found = decode(RoutedDecoding(small, large, rule, **options), small, PROMPTS, **sampling)
        assert found == expected
    assert large.training


def test_the_first_token_and_the_end_may_come_from_either():
    small, large = models()
    alone = own(large)
    for end in (alone[0][0], alone[2][1]):
        found = decode(
            RoutedDecoding(small, large, EntropyRule(), rate=1), small, PROMPTS, eos_token_id=[end, 63]
        )
        assert found == [row[: row.index(end) + 1] if end in row else row for row in alone]


def test_it_writes_what_two_models_without_a_cache_write():
    small, large = models()
    rule = EntropyRule(threshold=1.2)
    for prompt in PROMPTS:
        ids, sources = list(prompt), []
        for _ in range(10):
            with torch.no_grad():
                logits = small(torch.tensor([ids])).logits[:, -1]
                sources.append(int(rule.score(step(logits))[0] >= 1.2))
                if sources[-1]:
                    logits = large(torch.tensor([ids])).logits[:, -1]
            ids.append(int(logits.argmax()))
            if ids[-1] == 63:
                break
        found = routed_generate(
            small, large, rule, torch.tensor([prompt]), max_new_tokens=10, eos_token_id=63
        )
        assert found.sources[0].tolist() == sources
        assert found.tokens[0].tolist() == ids[len(prompt) :]
        assert 0 < found.account.rate < 1


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_a_batch_are_at_their_own_places_of_the_large_model(name):
    large = load(name, "eager" if name == "gemma2" else "sdpa")
    small = tiny.llama(vocab_size=large.config.vocab_size, **CLEAR)
    decoder = RoutedDecoding(small, large, RandomRule(), threshold=0.6)
    alone = [decode(decoder, small, [prompt], len(prompt))[0] for prompt in PROMPTS]
    assert decode(decoder, small, PROMPTS) == alone


def test_only_rows_that_ask_are_read():
    small, large = models()
    read = []

    class OneRow(RandomRule):
        def score(self, step):
            return torch.tensor([0.0, 0.0, float(step.number % 3 == 2)])

    large.register_forward_pre_hook(
        lambda module, inputs, options: read.append(tuple(options["input_ids"].shape)), with_kwargs=True
    )
    decoder = RoutedDecoding(small, large, OneRow(), threshold=0.5)
    assert decoder._is_told
    read.clear()
    decode(decoder, small, PROMPTS, max_new_tokens=9, min_new_tokens=9)
    assert read == [(1, len(PROMPTS[2]) + 2), (1, 3), (1, 3)]


def step(logits):
    return SmallStep(logits, logits.argmax(-1))


@pytest.mark.parametrize("kind", [tiny.llama, tiny.gpt2])
def test_a_router_sees_while_decoding_what_it_was_trained_on(kind):
    small = kind(seed=2, initializer_range=0.5)
    seen = []

    class Looking(TokenRouter):
        def score(self, step):
            seen.append(step)
            return super().score(step)

    torch.manual_seed(3)
    router = Looking.from_small_model(small, top_k=8, widths=(16, 16)).eval()
    prompt = list(PROMPTS[2])
    found = routed_generate(small, small, router, torch.tensor([prompt]), 1.0, 6, eos_token_id=63)
    features = read_features(small, [Response(prompt, found.tokens[0].tolist())], top_k=8)
    scores = router.score(features.step())
    for number, at in enumerate(seen[:6]):
        np.testing.assert_allclose(at.hidden[0], features.hidden[number], atol=1e-5)
        assert int(at.tokens) == int(features.tokens[number])
        np.testing.assert_allclose(at.logits.topk(8).values[0], features.top_logits[number], atol=1e-5)
        np.testing.assert_allclose(router.score(at), scores[number : number + 1], atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_a_budget_is_kept_whatever_the_threshold_it_begins_with(rate):
    small, large = models()
    for rule in (EntropyRule(threshold=0.1), RandomRule(threshold=0.99), a_router(small, 0.9)):
        found = routed_generate(
            small, large, rule, torch.tensor([PROMPTS[2]]), rate=rate, max_new_tokens=80, min_new_tokens=80
        )
        # What is routed too often or too seldom while the threshold finds its place does not grow with the text.
        assert RoutingAccount.of(found.sources[:, 20:]).rate == pytest.approx(rate, abs=0.1), rule


def test_adapters_take_part():
    small, large = models()
    torch.manual_seed(0)
    adapted = get_peft_model(
        large, LoraConfig(init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    ).eval()
    wrapped = get_peft_model(small, LoraConfig(init_lora_weights=False, target_modules=["q_proj"])).eval()
    found = decode(RoutedDecoding(wrapped, adapted, EntropyRule(), threshold=0), wrapped, PROMPTS)
    assert found == own(adapted)
    assert decode(RoutedDecoding(wrapped, adapted, EntropyRule(), rate=0), wrapped, PROMPTS) == own(wrapped)


# --- accounts ----------------------------------------------------------------------------------------------------------


def test_accounts_count_by_both_conventions():
    sources = torch.tensor([[0, 1, 0, -1], [0, 1, 1, 0]])
    account = RoutingAccount.of(sources)
    assert account == RoutingAccount(small_tokens=4, large_tokens=3, steps=4, large_forwards=2)
    assert account.rate == pytest.approx(3 / 7)
    assert account.activated(1.5, 32) == pytest.approx((4 * 1.5 + 3 * 32) / 7)
    assert account.activated(1.5, 32, "full", 0.056) == pytest.approx(1.5 + 0.056 + 3 * 32 / 7)
    assert np.isnan(activated_parameters(0, 0, 1, 2))


def test_no_tokens_are_written_where_none_are_asked_for():
    small, large = models()
    found = routed_generate(small, large, EntropyRule(), torch.tensor([PROMPTS[0]]), max_new_tokens=0)
    assert found.tokens.shape == (1, 0)
    assert np.isnan(found.account.rate)


# --- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": -0.1}, "threshold must be at least 0, got -0.1"),
        ({"threshold": 1.1}, r"threshold must be in \[0, 1\], got 1.1: the scores are probabilities"),
        ({"rate": 1.1}, r"rate must be in \[0, 1\], got 1.1"),
        ({"rate": 0.1, "threshold": 0.5}, "a threshold and a rate decide the same thing"),
    ],
)
def test_a_threshold_out_of_range_is_refused(options, words):
    small, large = models()
    with pytest.raises(UserError, match=words):
        RoutedDecoding(small, large, a_router(small), **options)


def test_other_vocabularies_are_refused():
    small, large = models()
    with pytest.raises(UserError, match="the small model has 64 tokens and the large one 80"):
        RoutedDecoding(small, tiny.llama(vocab_size=80), EntropyRule())
    with pytest.raises(UserError, match="the large model has another tokenizer"):
        RoutedDecoding(small, large, EntropyRule(), tokenizers=(word_tokenizer(), character_tokenizer()))


def test_embeddings_may_be_padded_differently():
    small, large = tiny.llama(**CLEAR), tiny.llama(vocab_size=80, seed=1, **CLEAR)
    same = word_tokenizer(), word_tokenizer()
    found = decode(RoutedDecoding(small, large, EntropyRule(), threshold=0, tokenizers=same), small, PROMPTS)
    assert max(map(max, found)) < 64
    assert found == own(large, suppress_tokens=list(range(64, 80)))


def test_another_model_may_not_generate():
    small, large = models()
    with pytest.raises(UserError, match="the decoder was made for another small model"):
        decode(RoutedDecoding(small, large, EntropyRule()), large, PROMPTS)
    with pytest.raises(UserError, match="the prompt is empty"):
        routed_generate(small, large, EntropyRule(), torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(UserError, match="max_new_tokens must be at least 0, got -1"):
        routed_generate(small, large, EntropyRule(), torch.tensor([[1]]), max_new_tokens=-1)
