"""Quantiser, perturbation and annealing: the released values, and that no perturbation is the plain quantiser to the bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays, golden_json
from tokenry.core.errors import UserError
from tokenry.generation.image_tokenizer.perturbation import (
    LatentPerturbation,
    PerturbationSchedule,
    neighbour_table,
    perturb_latents,
    perturb_tokens,
)
from tokenry.generation.image_tokenizer.vector_quantizer import VectorQuantizer, look_up

SLUG = "40-image-tokenizer-posttraining"
CASES = [f"c{number}" for number in range(6)]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantizer(codes=16, dim=4, **options):
    torch.manual_seed(0)
    return VectorQuantizer(codes, dim, **options)


@pytest.fixture(scope="module")
def released():
    return golden_arrays(SLUG, "dev-perturb.npz")


def released_case(released, name):
    case = {
        key.removeprefix(f"{name}/"): value for key, value in released.items() if key.startswith(f"{name}/")
    }
    made = VectorQuantizer(*case["codebook_used"].shape, l2_norm=bool(case["l2norm"])).double()
    with torch.no_grad():
        made.weight.copy_(case["codebook_used"])
    return case, made


@pytest.mark.parametrize("name", CASES)
def test_the_released_quantiser(released, name):
    case, made = released_case(released, name)
    output = made(case["z"])
    assert torch.equal(output.indices.flatten(), case["indices"])
    torch.testing.assert_close(output.quantized, case["quant"], rtol=0, atol=1e-10)
    torch.testing.assert_close(output.vq_loss, case["vq_loss"], rtol=0, atol=1e-10)
    torch.testing.assert_close(output.commitment_loss, case["commit_loss"], rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_peer_chooses_the_same_codes():
    peer = pytest.importorskip("vector_quantize_pytorch")
    ours, z = quantizer(l2_norm=False), drawn(2, 4, 3, 3)
    theirs = peer.VectorQuantize(
        4, 16, accept_image_fmap=True, ema_update=False, learnable_codebook=True
    ).eval()
    theirs.codebook = ours.weight.detach()
    chosen, indices, _ = theirs(z)
    output = ours(z)
    assert torch.equal(indices, output.indices)
    torch.testing.assert_close(chosen, output.quantized)


@pytest.mark.parametrize("name", CASES)
def test_the_released_perturbation_and_its_gradient(released, name):
    case, made = released_case(released, name)
    perturbation = LatentPerturbation(float(case["alpha"]), float(case["beta"]), int(case["delta"]))
    z = case["z"].clone().requires_grad_()
    output = made(z)
    shape = output.indices.shape
    perturbed, indices = perturb_latents(
        output, made, perturbation, u=case["u"].view(shape), rank=case["r"].view(shape)
    )
    torch.testing.assert_close(perturbed, case["perturbed"], rtol=0, atol=1e-10)
    images = int(shape[0] * perturbation.proportion)
    assert torch.equal(indices[:images].flatten(), case["perturbed_indices"][: indices[:images].numel()])
    assert torch.equal(indices[images:], output.indices[images:])
    (perturbed * case["grad_coef"]).sum().backward()
    torch.testing.assert_close(z.grad, case["grad_z"], rtol=0, atol=1e-10)


def test_the_released_annealing():
    for case in golden_json(SLUG, "dev-schedules.json")["anneal"]:
        # With another end ratio the released code jumps to it at the end; ours comes there in a straight line.
        schedule = PerturbationSchedule(LatentPerturbation(), case["start"], case["end"], case["end_ratio"])
        between = case["end_ratio"] == 0.5
        for epoch, ratio, delta in zip(case["epochs"], case["ratio"], case["delta"], strict=True):
            if ratio is not None and (between or not case["start"] < epoch <= case["end"]):
                assert schedule.ratio(epoch) == pytest.approx(ratio, abs=1e-12)
                assert schedule(epoch).strength == delta


def test_an_annealed_strength_is_one_at_least():
    assert PerturbationSchedule(LatentPerturbation(strength=1), end_ratio=0.0)(200).strength == 1


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(0.0, 1.0, 4), (1.0, 0.0, 4), (1.0, 1.0, 1), (1.0, 0.3, 4)]),
    st.integers(1, 3),
    st.booleans(),
)
def test_without_perturbation_the_output_is_that_of_the_quantiser_to_the_bit(settings_, images, l2_norm):
    made, z = quantizer(l2_norm=l2_norm), drawn(images, 4, 3, 3)
    output = made(z)
    perturbed, indices = perturb_latents(output, made, LatentPerturbation(*settings_))
    assert torch.equal(perturbed, output.quantized)
    assert torch.equal(indices, output.indices)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 16), st.floats(0, 1))
def test_only_the_first_images_change_and_only_to_near_codes(seed, strength, rate):
    made, z = quantizer(), drawn(4, 4, 3, 3, seed=seed)
    output = made(z)
    generator = torch.Generator().manual_seed(seed)
    _, indices = perturb_latents(output, made, LatentPerturbation(rate, 0.5, strength), generator)
    assert torch.equal(indices[2:], output.indices[2:])
    places = output.distances.argsort(1).argsort(1).gather(1, indices.view(-1, 1))
    assert int(places.max()) < strength


def test_a_code_is_its_own_nearest_neighbour_even_beside_its_twin():
    codebook = torch.cat([drawn(3, 4), drawn(3, 4)])
    assert torch.equal(neighbour_table(codebook, 2)[:, 0], torch.arange(6))


def test_codes_that_are_equally_far_come_by_their_number():
    line = torch.arange(40.0)[:, None]
    nearest = [sorted(range(40), key=lambda other, own=own: (abs(other - own), other)) for own in range(40)]
    assert neighbour_table(line, 40).tolist() == nearest


def test_the_released_neighbours_and_tokens():
    released = golden_arrays(SLUG, "dev-frechet.npz")
    table = neighbour_table(released["pfid_codebook"], 12)
    assert torch.equal(table, released["neighbours"])


def test_tokens_change_at_the_rate_that_rank_zero_leaves():
    table = neighbour_table(drawn(64, 4), 8)
    tokens = torch.randint(64, (200, 50), generator=torch.Generator().manual_seed(0))
    changed = perturb_tokens(tokens, table, 0.6, torch.Generator().manual_seed(1))
    assert (changed != tokens).float().mean().item() == pytest.approx(0.6 * (1 - 1 / 8), abs=0.02)
    assert torch.equal(perturb_tokens(tokens, table[:, :1], 1.0), tokens)
    assert torch.equal(perturb_tokens(tokens, table, 0.0, u=torch.zeros(200, 50)), tokens)


def test_half_precision_chooses_codes_by_distances_in_single():
    made, z = quantizer().bfloat16(), drawn(2, 4, 3, 3).bfloat16()
    output = made(z)
    assert output.quantized.dtype == torch.bfloat16
    assert output.distances.dtype == torch.float32
    assert perturb_latents(output, made, LatentPerturbation(1.0, 1.0, 4))[0].dtype == torch.bfloat16


def test_a_latent_without_direction_is_told_of_and_stays_finite(caplog):
    output = quantizer()(torch.zeros(1, 4, 2, 2))
    assert output.quantized.isfinite().all()
    assert "Some latents are zero" in caplog.text


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: LatentPerturbation(rate=1.5), r"rate must be in \[0, 1\], got 1.5"),
        (lambda: LatentPerturbation(proportion=-0.1), r"proportion must be in \[0, 1\], got -0.1"),
        (lambda: LatentPerturbation(strength=0), "strength must be at least 1, got 0"),
        (lambda: PerturbationSchedule(start=50, end=40), "end must be at least 50, got 40"),
        (
            lambda: neighbour_table(drawn(4, 2), 5),
            "strength must be from 1 to the 4 codes of the codebook, got 5",
        ),
        (lambda: neighbour_table(drawn(4, 2), 0), "got 0"),
        (
            lambda: quantizer()(drawn(1, 5, 2, 2)),
            "5 channels and the codes 4: give latents of the codes' size",
        ),
        (
            lambda: perturb_latents(
                quantizer()(drawn(1, 4, 2, 2)), quantizer(), LatentPerturbation(1, 1, 17)
            ),
            "the 16 codes of the codebook, got 17",
        ),
        (
            lambda: perturb_tokens(torch.tensor([[3, 9]]), neighbour_table(drawn(4, 2), 2), 0.5),
            "tokens go from 3 to 9, but the codebook has 4 codes: these are tokens of another tokenizer",
        ),
        (
            lambda: perturb_tokens(torch.tensor([[1]]), neighbour_table(drawn(4, 2), 2), 2.0),
            "rate must be in",
        ),
        (lambda: look_up(drawn(4, 2), torch.full((1, 1, 1), -1)), "from -1 to -1"),
    ],
)
def test_wrong_input_is_refused(act, words):
    with pytest.raises(UserError, match=words):
        act()
