"""The search of rates: the authors' differentiable forward, targets that are met, and a model that comes back as it was."""

import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.compression.vision.golden_diffrate import arrays, cases, golden_vit
from tests.tiny.encoders import LAYERS, images, tiny
from tests.tiny.models import vit_classifier
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.vision import rate_search, searched_rates
from tokenry.compression.vision.diffrate import DiffRate, Schedule, masked_softmax, vit_flops
from tokenry.compression.vision.rate_search import SearchInterrupted, search_rates
from tokenry.compression.vision.searched_rates import SearchedRates
from tokenry.core.errors import UserError

TRAINED = {"rtol": 1e-4, "atol": 1e-6}


def golden_rates():
    golden = arrays("dev-model.npz")
    image, patch, _, depth, _, _, granularity = golden["config"].tolist()
    rates = SearchedRates(depth, (image // patch) ** 2, granularity, bounded=False)
    for layer in range(depth):
        rates.prune[layer].double().logits.data = golden[f"arch_prune_{layer}"]
        rates.merge[layer].double().logits.data = golden[f"arch_merge_{layer}"]
    return rates


def classifier(labels=4, seed=0):
    """A ViT with another scale at each patch, so that counts matter."""
    return vit_classifier(seed, image_size=24, num_hidden_layers=4, num_labels=labels, initializer_range=0.3)


def batches(count=8, size=4, labels=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 1, 24, 24, generator=generator),
            torch.randint(labels, (size,), generator=generator),
        )
        for _ in range(count)
    ]


def share_of(model, schedule):
    with apply_token_reduction(model, DiffRate(schedule)) as reduction, torch.no_grad():
        model(batches(1, 1)[0][0])
    return reduction.flops / reduction.dense_flops


# --- golden numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.newer("transformers")
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_differentiable_forward_of_a_whole_model_is_the_released_one(kernel):
    model, golden = golden_vit()
    model.set_attn_implementation(kernel)
    model.requires_grad_(False)
    rates = golden_rates()
    _, patch, width, _, _, classes, _ = golden["config"].tolist()
    assert list(rates.schedule().prune_kept) == golden["learned_prune_kept"].tolist()
    assert list(rates.schedule().merge_kept) == golden["learned_merge_kept"].tolist()
    with apply_token_reduction(model, rates) as reduction:
        logits = model(golden["x"]).logits
    torch.testing.assert_close(logits, golden["train_logits"], **TRAINED)
    tokens = reduction._stream.boundaries[-1].tokens
    torch.testing.assert_close(tokens.alive, golden["train_mask"], **TRAINED)
    torch.testing.assert_close(tokens.size, golden["train_size"], **TRAINED)

    kept = [[proxy.kept() for proxy in proxies] for proxies in (rates.prune, rates.merge)]
    flops = vit_flops(*kept, width, patch, 16, classes)
    assert flops.item() == golden["train_flops"].item()
    loss = cross_entropy(logits, torch.tensor([0, 1])) + 5 * (flops / 1e9 - 0.8 * flops.detach() / 1e9) ** 2
    torch.testing.assert_close(loss, golden["train_loss"], **TRAINED)
    loss.backward()
    for kind, proxies in (("prune", rates.prune), ("merge", rates.merge)):
        for layer, proxy in enumerate(proxies):
            gradient = golden[f"train_grad_{kind}_{layer}"]
            torch.testing.assert_close(proxy.logits.grad, gradient, **TRAINED)


@pytest.mark.parametrize("case", cases("dev-merge.npz"))
def test_merging_in_place_gives_the_released_tokens_and_sizes(case):
    kept, class_token = case["config"].tolist()
    living = case["x"].shape[1]
    x, size = searched_rates._merge_in_place(case["x"], case["size"], living, kept, class_token)
    torch.testing.assert_close(x, case["x_train"])
    torch.testing.assert_close(size, case["size_train"])


# --- the masked forward is the reduced one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["vit classification", "deit"])
def test_hiding_tokens_gives_what_removing_them_gives(family):
    model = tiny(family)
    special = 2 if family == "deit" else 1
    rates = SearchedRates(LAYERS, 16, granularity=1, special_tokens=special)
    rates.start_at(Schedule([99, 15, 9], [99, 12, 6]))
    schedule = rates.schedule()
    assert schedule.merge_kept[1] < schedule.prune_kept[1] < 16
    with apply_token_reduction(model, DiffRate(schedule, size_clamp="min1")), torch.no_grad():
        removed = model(images()).logits
    with apply_token_reduction(model, rates) as reduction:
        hidden = model(images()).logits
    # The epsilon of masked attention lets a millionth through.
    torch.testing.assert_close(hidden.detach(), removed, rtol=1e-3, atol=1e-4)
    assert reduction.token_counts == (16 + special,) * (LAYERS + 1)
    alive = reduction._stream.boundaries[-1].tokens.alive
    assert int(alive[0].sum().detach()) == min(schedule.merge_kept[-1], schedule.prune_kept[-1])


def test_accuracy_is_felt_by_all_counts_between_the_first_layer_and_the_last():
    """The first has no choice; what dies in the last no class token looks at any more (FLOPs feel it)."""
    model = tiny("vit classification")
    rates = SearchedRates(LAYERS, 16, granularity=1)
    with apply_token_reduction(model, rates):
        cross_entropy(model(images()).logits, torch.tensor([0, 1])).backward()
    gradients = [proxy.logits.grad for proxy in rates.prune]
    assert [gradient is not None and bool(gradient.any()) for gradient in gradients] == [False, True, False]


@pytest.mark.parametrize("kind", ["prune", "merge"])
def test_the_counts_of_pruning_and_of_merging_feel_accuracy(kind):
    model = tiny("vit classification")
    rates = SearchedRates(LAYERS, 16, granularity=1)
    rates.start_at(
        Schedule([17, 12, 9], [17, 17, 17]) if kind == "prune" else Schedule([17, 17, 17], [17, 10, 9])
    )
    with apply_token_reduction(model, rates):
        cross_entropy(model(images()).logits, torch.tensor([0, 1])).backward()
    assert bool(getattr(rates, kind)[1].logits.grad.any())


def test_a_bounded_gradient_of_attention_is_the_change_that_a_token_makes():
    """Where the derivative is a thousand times what bringing the token back could do."""
    logits = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    logits[..., 3] = 10.0
    value = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    dead = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)

    def answer(policy, **options):
        return masked_softmax(logits, policy, eps=0.0, **options)[0, 0, 0] @ value

    change = float(answer(torch.ones_like(dead)) - answer(dead).detach())
    gradient = {
        bounded: float(torch.autograd.grad(answer(dead, bounded=bounded), dead)[0][0, 3])
        for bounded in (False, True)
    }
    assert gradient[True] == pytest.approx(change)
    assert change < 1 < 1000 * change < gradient[False]
    assert answer(dead, bounded=True).equal(answer(dead))


# --- the search ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("init", "share"), [("uniform", 0.8), ("uniform", 0.5), ("zeros", 0.8)])
def test_the_target_is_met(init, share):
    model = classifier()
    schedule = search_rates(
        model, batches(10), target_share=share, granularity=1, lr=0.1, min_lr=0.01, epochs=6, init=init
    )
    assert share_of(model, schedule) == pytest.approx(share, rel=0.015)
    assert schedule.prune_kept[0] == schedule.merge_kept[0] == 37


def test_gflops_are_of_the_whole_model_and_shares_of_its_layers():
    model = classifier()
    # 4 layers of width 16 (MLP 32) at 37 tokens, patch embedding of 37 times 4 x 4 pixels, head of 4 classes.
    layers = 4 * (4 * 37 * 16**2 + 2 * 37**2 * 16 + 2 * 37 * 16 * 32)
    rest = 37 * 16 * 16 + 16 * 4
    steps = []
    options = {"granularity": 1, "epochs": 1, "progress": steps.append, "lr": 0.0, "min_lr": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_share = search_rates(model, batches(1), target_share=0.7, **options)
        by_gflops = search_rates(model, batches(1), target_gflops=(0.7 * layers + rest) / 1e9, **options)
    assert by_share == by_gflops
    assert [step.target_gflops for step in steps] == pytest.approx([(0.7 * layers + rest) / 1e9] * 2)
    assert steps[0].gflops * 1e9 == pytest.approx(share_of(model, by_share) * layers + rest)


def test_patches_that_say_nothing_go_first():
    """Only 4 patches in the middle carry the class; counts fall where that is known, and accuracy stays."""
    model, generator = classifier(labels=2), torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    x = 0.1 * torch.randn(64, 1, 24, 24, generator=generator)
    x[:, :, 8:16, 8:16] += (2.0 * labels - 1)[:, None, None, None]
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        cross_entropy(model(x).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    data = DataLoader(TensorDataset(x, labels), batch_size=16)
    schedule = search_rates(model, data, target_share=0.5, granularity=1, lr=0.1, min_lr=0.01, epochs=10)
    with apply_token_reduction(model, DiffRate(schedule)), torch.no_grad():
        assert (model(x).logits.argmax(1) == labels).float().mean() == 1


@pytest.mark.newer("transformers")
def test_the_model_comes_back_as_it_was():
    model = classifier().train()
    model.classifier.requires_grad_(False)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    layer, kernel = type(model.vit.layers[0]), model.config._attn_implementation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search_rates(model, batches(2), target_share=0.7, granularity=1, epochs=1)
    assert model.training
    assert all(module.training for module in model.modules())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    assert (type(model.vit.layers[0]), model.config._attn_implementation) == (layer, kernel)


def test_it_comes_back_after_a_failure_too():
    model = classifier().train()
    broken = [(torch.full((2, 1, 24, 24), torch.nan), torch.tensor([0, 1]))]
    with pytest.raises(UserError, match="the loss of step 0 is nan: check the images for nan"):
        search_rates(model, broken, target_share=0.7, granularity=1)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    apply_token_reduction(model, DiffRate(Schedule([9] * 4, [9] * 4))).remove()


def test_every_step_is_told():
    steps = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search_rates(
            classifier(), batches(3), target_share=0.7, granularity=1, epochs=2, progress=steps.append
        )
    assert [(step.step, step.steps) for step in steps] == [(number, 6) for number in range(1, 7)]
    assert steps[0].lr == 1e-2
    assert steps[3].lr == pytest.approx(5.5e-3)
    assert all(step.loss > 0 and step.gflops > 0 for step in steps)


def test_an_interrupt_stops_with_what_was_learned_and_it_can_go_on():
    model = classifier()

    def stop(step):
        if step.step == 5:
            raise KeyboardInterrupt

    options = {"target_share": 0.6, "granularity": 1, "epochs": 4, "lr": 0.1, "min_lr": 0.01}
    with pytest.raises(SearchInterrupted, match=r"stopped after 5 of 24 steps.*Schedule\(") as stopped:
        search_rates(model, batches(6), progress=stop, **options)
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert not hasattr(model.vit.layers[0], "_tokenry_owner")
    finished = search_rates(model, batches(6), init=stopped.value.schedule, **options)
    assert share_of(model, finished) == pytest.approx(0.6, rel=0.015)


@pytest.mark.newer("transformers")
def test_a_target_that_is_missed_is_told():
    with pytest.warns(UserWarning, match="off the FLOPs target: search for more epochs"):
        search_rates(classifier(), batches(1), target_share=0.9, granularity=1, epochs=1, init="zeros")


def test_the_official_unit_hardly_feels_a_small_model():
    """What the share is for: in GFLOPs squared, the FLOPs of a tiny model weigh nothing."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for unit in ("share", "gflops"):
            found[unit] = search_rates(
                classifier(),
                batches(10),
                target_share=0.9,
                granularity=1,
                lr=0.1,
                min_lr=0.01,
                epochs=2,
                init="zeros",
                flops_unit=unit,
            )
    distance = {unit: abs(share_of(classifier(), schedule) - 0.9) for unit, schedule in found.items()}
    assert distance["share"] < distance["gflops"] / 2


def test_labels_may_be_probabilities_and_batches_may_have_names():
    soft = [{"pixel_values": x, "labels": torch.nn.functional.one_hot(y, 4).float()} for x, y in batches(2)]
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in (batches(2), soft):
            search_rates(
                classifier(), data, target_share=0.7, granularity=1, epochs=1, progress=results.append
            )
    assert results[0].loss == pytest.approx(results[2].loss)


def test_gradients_are_those_of_a_checkpointed_model():
    rates, gradients = SearchedRates(4, 36, granularity=1), []
    rates.start_at(Schedule([37, 30, 22, 15], [37, 27, 18, 12]))
    (x, y), *_ = batches(1)
    for checkpointing in (False, True):
        model = classifier()
        if checkpointing:
            model.train()
            model.gradient_checkpointing_enable()
        with apply_token_reduction(model, rates):
            cross_entropy(model(x).logits, y).backward()
        gradients.append([proxy.logits.grad.clone() for proxy in rates.prune[1:3]])
        for proxy in rates.proxies:
            proxy.logits.grad = None
    torch.testing.assert_close(*gradients)


# --- bad input -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give either target_gflops or target_share"),
        ({"target_gflops": 1.0, "target_share": 0.5}, "give either target_gflops or target_share"),
        ({"target_gflops": 0.0}, "target_gflops must be above 0, got 0.0"),
        ({"target_gflops": -2.9}, "target_gflops must be above 0, got -2.9"),
        ({"target_gflops": float("nan")}, "target_gflops must be above 0, got nan"),
        (
            {"target_gflops": 2.9},
            r"target_gflops=2.9 is out of reach: this model takes 0.000\d+ GFLOPs dense",
        ),
        ({"target_share": 0.05}, "target_share=0.05 is out of reach"),
        ({"target_share": 0.5, "granularity": 37}, "target_share=0.5 is out of reach.*granularity"),
        ({"target_share": 1.1}, r"target_share must be in \(0, 1\], got 1.1"),
        ({"target_share": 0.5, "granularity": 0}, "granularity must be at least 1, got 0"),
        ({"target_share": 0.5, "epochs": 0}, "epochs must be at least 1, got 0"),
        ({"target_share": 0.5, "lr": 1e-4}, "lr must be finite and at least min_lr"),
        ({"target_share": 0.5, "init": Schedule([9], [9])}, "the schedule has 1 layers"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        search_rates(classifier(), batches(1), **options)


def test_an_unknown_start_is_refused():
    # Below the annotations, which the test run would check first.
    with pytest.raises(UserError, match='init must be "uniform", "zeros" or a Schedule, got \'ones\''):
        rate_search._check(None, 0.5, 3, 0.1, 0.0, "ones")


@pytest.mark.newer("transformers")
def test_a_model_without_class_token_is_refused():
    with pytest.raises(UserError, match="SiglipVisionModel has no class token"):
        search_rates(tiny("siglip"), batches(1), target_share=0.5)


def test_a_loader_without_batches_is_refused():
    with pytest.raises(UserError, match="the loader gives no batch"):
        search_rates(classifier(), [], target_share=0.5)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"pixel_values": torch.zeros(1, 1, 24, 24)}, "or be a pair of them, but it has only pixel_values"),
        ([torch.zeros(1, 1, 24, 24)], "a batch must hold pixel_values and labels.*it has 1 tensors"),
    ],
)
def test_a_batch_without_labels_is_refused(batch, words):
    with pytest.raises(UserError, match=words):
        search_rates(classifier(), [batch], target_share=0.5)
