from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_arrays, golden_json
from tokenry.compression.vision.diversity import (
    NEWLINE,
    coverage_radius,
    farthest_point_select,
    frame_budget,
    minmax_weight,
    sensitivity_diverse_select,
    token_budget,
    with_newlines,
)
from tokenry.core.errors import UserError

GOLDEN = golden_arrays("14-zoo-prune", "dev-zooprune.npz")
BUDGETS = golden_json("14-zoo-prune", "dev-budgets.json")
CASES = sorted({name.split("_")[0] for name in GOLDEN if name.startswith("c")})


def golden(name):
    return GOLDEN[name].clone()


def choices(kind):
    """Every golden choice of one kind: case, k, name."""
    return [
        (case, int(name.rsplit("_k", 1)[1]), name)
        for case in CASES
        for name in GOLDEN
        if name.startswith(f"{case}_{kind}_k")
    ]


@st.composite
def images(draw, duplicates=False):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**30)))
    tokens, dim = draw(st.integers(1, 20)), draw(st.integers(2, 6))
    features = torch.randn(tokens, dim, generator=generator, dtype=torch.float64)
    if duplicates:
        features = features[torch.randint(tokens, (tokens,), generator=generator)]
    sensitivity = torch.rand(tokens, generator=generator, dtype=torch.float64)
    return features, sensitivity, draw(st.integers(1, tokens))


def by_definition(features, sensitivity, k):
    """The distance matrix and the greedy loop as the equations have them."""
    z = torch.nn.functional.normalize(features, dim=-1)
    distance = 1 - z @ z.T
    weight = (sensitivity - sensitivity.min()) / (sensitivity.max() - sensitivity.min() + 1e-8)
    weight = weight if sensitivity.max() > sensitivity.min() else torch.ones_like(weight)
    chosen = [int(weight.argmax())]
    while len(chosen) < k:
        score = distance[chosen].min(0).values * weight
        score[chosen] = -torch.inf
        chosen.append(int(score.argmax()))
    return chosen


@pytest.mark.parametrize(("case", "k", "name"), choices("sads"))
def test_golden_sensitivity_aware_choice(case, k, name):
    features, sensitivity = golden(f"{case}_features"), golden(f"{case}_sensitivity")
    assert torch.equal(sensitivity_diverse_select(features, sensitivity, k), golden(name))


@pytest.mark.parametrize(("case", "k", "name"), choices("divprune"))
def test_golden_farthest_points(case, k, name):
    assert torch.equal(farthest_point_select(golden(f"{case}_features"), k), golden(name))


@pytest.mark.parametrize(("case", "k", "name"), choices("sads_constant_sens"))
def test_golden_choice_with_constant_sensitivity(case, k, name):
    features = golden(f"{case}_features")
    chosen = sensitivity_diverse_select(features, torch.ones(len(features), dtype=torch.float64), k)
    assert torch.equal(chosen, golden(name))


@pytest.mark.parametrize(("case", "k", "name"), choices("topk_sens"))
def test_golden_most_sensitive_tokens(case, k, name):
    weight = minmax_weight(golden(f"{case}_sensitivity"))
    assert torch.equal(weight.sort(descending=True, stable=True).indices[:k], golden(name))


@pytest.mark.parametrize("case", CASES)
def test_golden_weights(case):
    weight = minmax_weight(golden(f"{case}_sensitivity"))
    torch.testing.assert_close(weight, golden(f"{case}_weight"), rtol=1e-6, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_golden_distances_are_those_of_the_choice(case):
    """The coverage radius of a single kept token is the highest entry of its row of the distance matrix."""
    features, distance = golden(f"{case}_features"), golden(f"{case}_distance")
    radii = [coverage_radius(features, torch.tensor([token])) for token in range(len(features))]
    torch.testing.assert_close(torch.stack(radii), distance.amax(1), rtol=1e-6, atol=1e-12)


def test_golden_frames():
    features, sensitivity = golden("mf0_features"), golden("mf0_sensitivity")
    frames, k = golden("mf0_frame"), int(GOLDEN["mf0_k"])
    selected = sensitivity_diverse_select(features, sensitivity, k, frames)
    assert torch.equal(selected, golden("mf0_selected"))
    assert torch.equal(with_newlines(selected, frames), golden("mf0_kept"))


@pytest.mark.parametrize("budget", BUDGETS["budgets_single"])
def test_golden_budgets(budget):
    assert token_budget(budget["num_tokens"], budget["ratio"]) == budget["kept"]


@pytest.mark.parametrize("budget", BUDGETS["budgets_anyres"])
def test_golden_budgets_of_frames(budget):
    assert (
        frame_budget(budget["num_frames"], budget["tokens_per_frame"], budget["ratio"]) == budget["per_frame"]
    )
    assert (
        token_budget(budget["num_frames"] * budget["tokens_per_frame"], budget["ratio"]) == budget["target"]
    )


@settings(max_examples=50, deadline=None)
@given(images())
def test_the_running_minimum_chooses_what_the_distance_matrix_would(image):
    features, sensitivity, k = image
    assert sensitivity_diverse_select(features, sensitivity, k).tolist() == by_definition(*image)


@settings(max_examples=25, deadline=None)
@given(images(), st.integers(0, 2**30))
def test_permuting_the_tokens_permutes_the_choice(image, seed):
    features, sensitivity, k = image
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    chosen = sensitivity_diverse_select(features[order], sensitivity[order], k)
    assert torch.equal(order[chosen], sensitivity_diverse_select(features, sensitivity, k))


@settings(max_examples=25, deadline=None)
@given(images(duplicates=True))
def test_no_token_is_chosen_twice(image):
    features, sensitivity, k = image
    for chosen in (sensitivity_diverse_select(features, sensitivity, k), farthest_point_select(features, k)):
        assert chosen.unique().numel() == k


@settings(max_examples=25, deadline=None)
@given(images(), st.floats(1e-30, 1e30))
def test_the_length_of_features_does_not_matter(image, scale):
    features, sensitivity, k = image
    assert torch.equal(
        sensitivity_diverse_select(features, sensitivity, k),
        sensitivity_diverse_select((features * scale), sensitivity, k),
    )


@settings(max_examples=25, deadline=None)
@given(images())
def test_choosing_more_goes_on_from_choosing_fewer(image):
    features, sensitivity, k = image
    for few, all_of_them in (
        (
            sensitivity_diverse_select(features, sensitivity, k),
            by_definition(features, sensitivity, len(features)),
        ),
        (farthest_point_select(features, k), farthest_point_select(features, len(features)).tolist()),
    ):
        assert few.tolist() == all_of_them[:k]


@settings(max_examples=25, deadline=None)
@given(images())
def test_keeping_more_never_covers_worse(image):
    features, sensitivity, _ = image
    order = sensitivity_diverse_select(features, sensitivity, len(features))
    radii = [float(coverage_radius(features, order[:k])) for k in range(1, len(features) + 1)]
    assert all(wide >= narrow - 1e-12 for wide, narrow in pairwise(radii))
    assert radii[-1] == 0


def test_a_batch_is_its_images_one_by_one():
    generator = torch.Generator().manual_seed(0)
    features, sensitivity = torch.randn(3, 30, 8, generator=generator), torch.rand(3, 30, generator=generator)
    together = sensitivity_diverse_select(features, sensitivity, 7), farthest_point_select(features, 7)
    for number in range(3):
        assert torch.equal(
            together[0][number], sensitivity_diverse_select(features[number], sensitivity[number], 7)
        )
        assert torch.equal(together[1][number], farthest_point_select(features[number], 7))
    radii = coverage_radius(features, together[1])
    torch.testing.assert_close(radii[2], coverage_radius(features[2], together[1][2]))


def test_the_layout_in_memory_does_not_matter():
    features = torch.randn(8, 12, 5).permute(2, 1, 0)
    sensitivity = torch.rand(12, 5).T
    assert torch.equal(
        sensitivity_diverse_select(features, sensitivity, 6),
        sensitivity_diverse_select(features.contiguous(), sensitivity.contiguous(), 6),
    )
    assert torch.equal(farthest_point_select(features, 6), farthest_point_select(features.contiguous(), 6))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 16, generator=generator).to(dtype)
    assert torch.equal(farthest_point_select(features, 9), farthest_point_select(features.float(), 9))
    assert coverage_radius(features, torch.tensor([0])).dtype == torch.float32
    assert minmax_weight(torch.rand(4).to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("dim", [1, 7, 1024])
def test_identical_tokens_are_taken_by_index(dim):
    features = torch.randn(dim, generator=torch.Generator().manual_seed(dim)).expand(67, dim).contiguous()
    for batch in (features, features[None]):
        same = torch.ones(batch.shape[:-1])
        assert sensitivity_diverse_select(batch, same, 67).flatten().tolist() == list(range(67))
        assert farthest_point_select(batch, 67).flatten().tolist() == list(range(67))


def test_twins_are_as_far_from_the_others_the_lower_index_is_taken_first():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, 1024, generator=generator).repeat_interleave(2, dim=0)
    chosen = sensitivity_diverse_select(features, torch.ones(100), 50)
    assert (chosen % 2 == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**30))
def test_what_is_equal_but_for_rounding_is_taken_by_index(seed):
    """Twins of another length have the same direction, up to the last bit."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(20, 64, generator=generator)
    twins = torch.stack((features, features * (1 + torch.rand(20, 1, generator=generator))), dim=1).flatten(
        0, 1
    )
    for chosen in (sensitivity_diverse_select(twins, torch.ones(40), 20), farthest_point_select(twins, 20)):
        assert chosen.tolist() == (chosen // 2 * 2).tolist()


def test_one_token_is_chosen_and_covers_itself():
    one = torch.zeros(1, 4)
    assert sensitivity_diverse_select(one, torch.zeros(1), 1).tolist() == [0]
    assert farthest_point_select(one, 1).tolist() == [0]
    assert coverage_radius(one, torch.tensor([0])) == 0


def test_a_token_without_length_is_at_distance_one():
    features = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert farthest_point_select(features, 3).tolist() == [2, 0, 1]
    assert sensitivity_diverse_select(features, torch.tensor([1.0, 2.0, 3.0]), 3).tolist() == [2, 1, 0]
    assert coverage_radius(features, torch.tensor([0, 1])) == 1


def test_the_least_sensitive_token_comes_last():
    features = torch.eye(6)
    sensitivity = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    assert sensitivity_diverse_select(features, sensitivity, 6).tolist()[-1] == 1


def test_a_frame_with_too_few_tokens_keeps_them_all():
    frames = torch.tensor([0, 0, 0, NEWLINE, 2, 2, 2, 2, 2])
    chosen = farthest_point_select(torch.randn(9, 4), 4, frames)
    assert sorted(chosen[:3].tolist()) == [0, 1, 2]
    assert len(chosen) == 7
    assert with_newlines(chosen, frames).tolist()[:4] == [0, 1, 2, 3]


def test_frames_do_not_see_each_other():
    generator = torch.Generator().manual_seed(0)
    features, sensitivity = torch.randn(20, 4, generator=generator), torch.rand(20, generator=generator)
    frames = torch.arange(20) % 2
    chosen = sensitivity_diverse_select(features, sensitivity, 3, frames)
    odd = sensitivity_diverse_select(features[1::2], sensitivity[1::2] * 10, 3)
    assert torch.equal(chosen[3:], 2 * odd + 1)


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_is_between_one_and_the_number_of_tokens(k):
    for select in (
        lambda features: sensitivity_diverse_select(features, torch.ones(5), k),
        lambda features: farthest_point_select(features, k),
    ):
        with pytest.raises(UserError, match=f"k must be from 1 to the number of visual tokens, 5, got {k}"):
            select(torch.randn(5, 3))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_features_and_sensitivities_are_finite(broken):
    features, sensitivity = torch.randn(5, 3), torch.ones(5)
    features[1, 1] = broken
    with pytest.raises(UserError, match="features must be finite, got 1 of 15 values that are not"):
        farthest_point_select(features, 2)
    with pytest.raises(UserError, match="features must be finite"):
        sensitivity_diverse_select(features, sensitivity, 2)
    sensitivity[0] = broken
    with pytest.raises(UserError, match="sensitivity must be finite, got 1 of 5 values"):
        sensitivity_diverse_select(torch.randn(5, 3), sensitivity, 2)


@pytest.mark.parametrize("shape", [(5,), (1, 1, 5, 3)])
def test_features_have_two_or_three_axes(shape):
    with pytest.raises(
        UserError, match=r"features must be \(tokens, dim\) or \(batch, tokens, dim\), got shape"
    ):
        farthest_point_select(torch.randn(shape), 1)


def test_every_token_has_a_sensitivity():
    with pytest.raises(UserError, match=r"one value per token, \(5,\), got \(4,\)"):
        sensitivity_diverse_select(torch.randn(5, 3), torch.ones(4), 2)


def test_groups_are_of_one_image():
    with pytest.raises(UserError, match="groups are the frames of one image"):
        farthest_point_select(torch.randn(2, 5, 3), 1, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01])
def test_a_ratio_is_a_fraction(ratio):
    with pytest.raises(UserError, match=r"ratio must be in \(0, 1\]"):
        token_budget(576, ratio)


def test_a_ratio_that_keeps_nothing_is_refused():
    with pytest.raises(UserError, match=r"ratio 0.001 keeps none of 576 visual tokens: use at least 0.0017"):
        token_budget(576, 0.001)
    with pytest.raises(UserError, match=r"none of the 4 tokens of a frame \(5 frames\): use at least 0.25"):
        frame_budget(5, 4, 0.2)
