"""Sampling that keeps real tokens: the released sequences, its ends, and any causal language model as the generator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.golden import golden_arrays, golden_json
from tokenry.core.errors import UserError
from tokenry.generation.image_tokenizer.preserved_sampling import (
    ClassConditionalLM,
    PreservedSampling,
    inverse_cdf,
    preserved_generate,
)

SLUG = "40-image-tokenizer-posttraining"
CODES = 12


@pytest.fixture(scope="module")
def released():
    return golden_arrays(SLUG, "dev-preserve.npz")


def first_order(released):
    start = len(released["cond_logits"]) - 1

    def next_logits(seen):
        last = seen[:, -1] if seen.shape[1] else torch.full((len(seen),), start)
        return released["cond_logits"][last], released["uncond_logits"][last]

    return next_logits


@pytest.mark.parametrize("sigma", [0.0, 0.3, 0.7, 1.0])
def test_the_released_sequences(released, sigma):
    sampling = PreservedSampling(
        sigma,
        float(released["temperature"]),
        float(released["guidance_scale"]),
        float(released["guidance_scale_pow"]),
    )
    found = preserved_generate(
        first_order(released),
        released["gt_tokens"],
        sampling,
        u_keep=released["u_keep"],
        u_sample=released["u_sample"],
    )
    assert torch.equal(found, released[f"tokens_sigma_{sigma}"])


def test_the_released_guidance():
    for case in golden_json(SLUG, "dev-schedules.json")["rar_cfg"]:
        sampling = PreservedSampling(
            guidance=case["guidance_scale"], guidance_power=case["guidance_scale_pow"]
        )
        for step, weight in zip(case["steps"], case["cfg"], strict=True):
            assert sampling.weight(step, case["image_seq_len"]) == pytest.approx(weight, abs=1e-12)


def generator_model():
    return tiny.llama(vocab_size=CODES + 4).eval()  # three classes, and one token for none


def tokens(images=3, length=5):
    return torch.randint(CODES, (images, length), generator=torch.Generator().manual_seed(0))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.sampled_from([1.0, 3.0]))
def test_all_are_kept_at_one_and_only_those_below_sigma_between(seed, guidance):
    real = tokens()
    lm = ClassConditionalLM(generator_model(), CODES, torch.tensor([0, 1, 2]), guidance != 1)
    draw = torch.Generator().manual_seed(seed)
    u_keep = torch.rand(real.shape, generator=draw)
    found = preserved_generate(lm, real, PreservedSampling(0.5, guidance=guidance), draw, u_keep=u_keep)
    kept = u_keep < 0.5
    assert torch.equal(found[kept], real[kept])
    assert torch.equal(preserved_generate(lm, real, PreservedSampling(1.0)), real)


def test_the_cache_gives_the_samples_of_the_whole_sequence():
    model, real, classes = generator_model(), tokens(), torch.tensor([0, 1, 2])

    def whole(seen):
        sides = [CODES + classes, torch.full((3,), CODES + 3)]
        logits = [
            model(input_ids=torch.cat([side[:, None], seen], 1)).logits[:, -1, :CODES].float()
            for side in sides
        ]
        return logits[0], logits[1]

    sampling = PreservedSampling(0.3, guidance=4.0)
    cached = ClassConditionalLM(model, CODES, classes, guided=True)
    one, other = (
        preserved_generate(act, real, sampling, torch.Generator().manual_seed(1)) for act in (cached, whole)
    )
    assert torch.equal(one, other)


def test_a_number_above_all_sums_draws_the_last_code():
    assert inverse_cdf(torch.zeros(1, 3), torch.tensor([1.0])).item() == 2
    assert inverse_cdf(torch.zeros(1, 3), torch.tensor([0.0])).item() == 0


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: PreservedSampling(sigma=1.2), r"sigma must be in \[0, 1\], got 1.2"),
        (lambda: PreservedSampling(temperature=0), "temperature must be above 0, got 0"),
        (lambda: PreservedSampling(guidance=-1), "guidance must be at least 0, got -1"),
        (
            lambda: ClassConditionalLM(generator_model(), CODES, torch.tensor([4])),
            "16 holds 12 codes and 4 classes, but class 4 is asked for",
        ),
        (
            lambda: preserved_generate(
                ClassConditionalLM(generator_model(), CODES, torch.tensor([0])),
                tokens(1),
                PreservedSampling(0.5, guidance=2.0),
            ),
            "guidance 2.0 needs a generator that was trained without the class too",
        ),
        (
            lambda: preserved_generate(
                ClassConditionalLM(generator_model(), 4, torch.tensor([0])),
                torch.tensor([[2, 9]]),
                PreservedSampling(0.0),
            ),
            "tokens go from 2 to 9, but the codebook has 4 codes",
        ),
    ],
)
def test_wrong_input_is_refused(act, words):
    with pytest.raises(UserError, match=words):
        act()
