"""The router of R2R, its losses, thresholds and rules: reference numbers, what holds for any input, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.decoding.r2r.features import LabelledTokens, TokenFeatures
from tokenry.decoding.r2r.router import TokenRouter
from tokenry.decoding.r2r.router_training import (
    RouterTrainingConfig,
    best_f1_threshold,
    choose_threshold,
    fit_router,
    focal_loss,
    preference_loss,
    recall_at,
    threshold_for_rate,
    weighted_bce,
)
from tokenry.decoding.r2r.rules import (
    ROUTING_RULES,
    DuoRollingRule,
    EntropyRule,
    LogURule,
    MomentumRule,
    RandomRule,
    RollingRule,
    SmallStep,
    entropy,
    log_u,
)
from tokenry.models.identity import ModelIdentity

SLUG = "05-r2r"
SMALL = {"top_k": 5, "widths": (16, 16)}
PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def scores():
    return golden_arrays(SLUG, "dev-scores.npz")


# --- reference numbers -------------------------------------------------------------------------------------------------


def test_the_router_is_the_reference():
    stored = golden_arrays(SLUG, "dev-router.npz")
    hidden_size, _, _, top_k, expansion, normalize, _ = stored["cfg"].tolist()
    weights = {name.removeprefix("W|"): value for name, value in stored.items() if name.startswith("W|")}
    embedding = weights["token_embeddings.weight"]
    widths = stored["hidden_dims"].tolist()
    router = TokenRouter(
        hidden_size, embedding, top_k, widths, expansion, normalize_input=bool(normalize)
    ).double()
    router.load_state_dict(weights)
    found = router.eval()(stored["hidden"], stored["token"], stored["topk_logits"])
    np.testing.assert_allclose(found.detach(), stored["out"], rtol=1e-9)
    step = SmallStep(stored["full_logits"], stored["token"], stored["hidden"])
    np.testing.assert_allclose(router.score(step), stored["prob"], rtol=1e-6)


def test_the_router_of_the_paper_has_56_million_weights():
    with torch.device("meta"):
        router = TokenRouter(1536, torch.empty(200, 1536))
    trained = sum(weight.numel() for weight in router.parameters() if weight.requires_grad)
    assert trained == 56_302_081


@pytest.mark.parametrize("recall", ["0.8", "0.9", "0.95", "0.99"])
def test_thresholds_are_the_reference(scores, recall):
    found = choose_threshold(scores["probs"], scores["labels"], float(recall))
    np.testing.assert_allclose(found, scores[f"thr_{recall}"], rtol=0, atol=1e-12)


def test_other_thresholds_and_the_recall_are_the_reference(scores):
    low = torch.full_like(scores["probs"], 0.005)
    np.testing.assert_allclose(choose_threshold(low, scores["labels"]), scores["thr_fail"], atol=1e-12)
    assert best_f1_threshold(scores["probs"], scores["labels"]) == pytest.approx(float(scores["thr_f1"]))
    masked = recall_at(scores["probs"], scores["labels_masked"], 0.5)
    assert masked == pytest.approx(float(scores["recall_masked_05"]), rel=1e-12)


def test_a_probability_on_the_grid_reaches_its_threshold():
    for value in np.linspace(0.01, 0.99, 100):
        assert choose_threshold(torch.tensor([value, value - 1e-9]), torch.tensor([1, 0])) == (value, True)
    for value in np.linspace(0.1, 0.9, 9):
        assert best_f1_threshold(torch.tensor([value, value - 1e-9]), torch.tensor([1, 0])) == value


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("focal_a1_g2", focal_loss()),
        ("focal_a075_g15", focal_loss(0.75, 1.5)),
        ("dpo", preference_loss()),
        ("dpo_b05_p03", preference_loss(0.5, 0.3)),
    ],
)
def test_losses_are_the_reference(scores, name, loss):
    found = loss(scores["loss_logits"], scores["labels"].double())
    np.testing.assert_allclose(found, scores[f"loss_{name}"], rtol=1e-9)


def test_the_weighted_loss_is_the_reference(scores):
    found = weighted_bce(scores["labels"])(scores["loss_logits"], scores["labels"].double())
    np.testing.assert_allclose(found, scores["loss_wbce"], rtol=1e-6)


def test_uncertainties_are_the_reference(scores):
    logits = scores["unc_logits"]
    aleatoric, epistemic = log_u(logits)
    np.testing.assert_allclose(entropy(logits), scores["entropy"], rtol=1e-9)
    np.testing.assert_allclose(aleatoric, scores["aleatoric"], rtol=1e-9)
    np.testing.assert_allclose(epistemic, scores["epistemic"], rtol=1e-9)
    np.testing.assert_allclose(1 / (aleatoric * epistemic), scores["reliability"], rtol=1e-9)


@pytest.mark.parametrize("name", ["immediate_al", "immediate_all", "entropy", "momentum", "rolling", "duo"])
def test_routes_are_the_reference(scores, name):
    aleatoric, epistemic, nats = scores["route_thresholds_al_ep_ent"].tolist()
    rule = {
        "immediate_al": LogURule(aleatoric),
        "immediate_all": LogURule(aleatoric, epistemic, nats),
        "entropy": EntropyRule(nats),
        "momentum": MomentumRule(aleatoric),
        "rolling": RollingRule(aleatoric),
        "duo": DuoRollingRule(aleatoric),
    }[name]
    decide, found = rule.begin(), []
    for logits in scores["unc_logits"]:
        found.append(int(decide(SmallStep(logits[None], logits.argmax()[None]), rule.threshold)))
    assert found == scores[f"route_{name}"].tolist()


# --- what holds for any input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROUTING_RULES)
def test_a_row_is_routed_alike_alone_and_in_a_batch(name):
    rule = ROUTING_RULES.make(name)
    steps = 3 * torch.rand(9, 5, 40, generator=torch.Generator().manual_seed(0)) + 0.1
    middle = rule.score(SmallStep(steps[0], steps[0].argmax(-1))).quantile(0.8)

    def routes(rows):
        decide = rule.begin()
        return torch.stack(
            [
                decide(SmallStep(logits[rows], logits[rows].argmax(-1), number=number), middle)
                for number, logits in enumerate(steps)
            ],
            1,
        )

    together = routes(slice(None))
    assert 0 < together.float().mean() < 1
    for row in range(5):
        assert torch.equal(routes(slice(row, row + 1))[0], together[row])


def test_a_random_rule_routes_its_share():
    at = [SmallStep(torch.zeros(2, 1), torch.tensor([5, 9]), number=number) for number in range(5000)]
    scores = torch.stack([RandomRule(seed=1).score(step) for step in at])
    assert torch.equal(scores[:, 0], scores[:, 1])
    assert 0 <= scores.min() < scores.max() < 1
    assert float((scores >= 0.9).float().mean()) == pytest.approx(0.1, abs=0.01)


@given(PROBABILITIES, st.floats(0, 1))
def test_a_threshold_for_a_rate_keeps_it(values, rate):
    scores = torch.tensor(values)
    threshold = threshold_for_rate(scores, rate)
    routed = scores.double() >= threshold
    assert int(routed.sum()) <= rate * len(scores) + 1e-6
    lower = scores.double() >= np.nextafter(float(scores[~routed].max()), -1) if (~routed).any() else routed
    assert (~routed).sum() == 0 or int(lower.sum()) > rate * len(scores) - 1e-6


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(-1, 1)), min_size=4, max_size=40), st.floats(0, 1))
def test_a_threshold_for_a_recall_is_the_first_that_routes_least(rows, recall):
    probabilities, labels = (
        torch.tensor(column) for column in zip(*[*rows, (0.3, 1), (0.2, 0)], strict=True)
    )
    known = labels >= 0
    best = (0.01, False, 2.0, 0.0)
    for threshold in np.linspace(0.01, 0.99, 100):
        routed = probabilities.double() >= threshold
        found = float(routed[labels == 1].double().mean())
        rate = float(routed[known].double().mean())
        if found >= recall and (not best[1] or rate < best[2] - 1e-12):
            best = (threshold, True, rate, found)
        elif not best[1] and found > best[3]:
            best = (threshold, False, 2.0, found)
    value, reached = choose_threshold(probabilities, labels, recall)
    assert reached == best[1]
    assert value == pytest.approx(best[0], abs=1e-9)


# --- training and files ------------------------------------------------------------------------------------------------


def features_of(rows=400, dim=8, seed=0):
    """Tokens whose first hidden value tells whether they are divergent."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, dim, generator=generator)
    top = torch.randn(rows, 5, generator=generator).sort(descending=True).values
    texts = torch.arange(rows) // 10
    tokens = torch.randint(64, (rows,), generator=generator)
    features = TokenFeatures(hidden, tokens, top, entropy(top), texts)
    return features, (hidden[:, 0] > 0.8).long()


def a_router(**settings):
    torch.manual_seed(0)
    return TokenRouter(8, torch.randn(64, 8), **{**SMALL, **settings})


def test_a_router_learns_and_its_threshold_keeps_recall_or_rate():
    features, labels = features_of()
    config = RouterTrainingConfig(learning_rate=3e-3, batch_size=64, epochs=12, validation=0.3)
    router, report = fit_router(a_router(), features, labels, config)
    assert report.losses[report.best_epoch - 1] == min(report.losses) < report.losses[0]
    assert report.reached
    assert report.recall >= 0.95
    assert report.rate < 0.5
    assert router.threshold == report.threshold
    assert not router.training
    again, _ = fit_router(a_router(), features, labels, config)
    assert torch.equal(again.score(features.step()), router.score(features.step()))
    _, by_rate = fit_router(
        a_router(), features, labels, RouterTrainingConfig(epochs=1, validation=0.3, rate=0.1)
    )
    assert by_rate.rate <= 0.1


def test_training_stops_where_nothing_is_gained():
    features, labels = features_of(200)
    config = RouterTrainingConfig(learning_rate=1.0, epochs=30, patience=2, validation=0.3)
    _, report = fit_router(a_router(), features, labels, config)
    assert report.epochs == report.best_epoch + 2 < 30


def test_a_file_belongs_to_one_small_model(tmp_path):
    small = tiny.llama()
    router = TokenRouter.from_small_model(small, **SMALL, threshold=0.3).eval()
    identity = ModelIdentity("small", "weights", "tokenizer")
    router.save(tmp_path / "router.safetensors", identity, {"rate": 0.1})
    loaded = TokenRouter.load(tmp_path / "router.safetensors", small, identity)
    step = SmallStep(torch.randn(3, 64), torch.tensor([1, 2, 3]), torch.randn(3, 32))
    assert torch.equal(loaded.score(step), router.score(step))
    assert loaded.threshold == 0.3
    for other, words in (
        (
            ModelIdentity("b", "others", "tokenizer"),
            "b has other weights than small, for which the router was fitted",
        ),
        (
            ModelIdentity("b", "weights", "other"),
            "the tokenizer of the small model b is not the one for which the router",
        ),
    ):
        with pytest.raises(UserError, match=words):
            TokenRouter.load(tmp_path / "router.safetensors", small, other)
    with pytest.raises(
        UserError, match=r"cannot be read .*: `tokenry route train` writes a router of tokens"
    ):
        TokenRouter.load(tmp_path / "none.safetensors", small, identity)


def test_labelled_tokens_come_back_from_their_file(tmp_path):
    features, labels = features_of(20)
    identity = ModelIdentity("small", "weights", "tokenizer")
    labelled = LabelledTokens(
        features, labels, labels > 0, identity, ModelIdentity("large"), {"verifier": "gap"}
    )
    labelled.save(tmp_path / "labels.safetensors")
    loaded = LabelledTokens.load(tmp_path / "labels.safetensors")
    assert torch.equal(loaded.features.hidden, features.hidden)
    assert torch.equal(loaded.divergent, labels)
    assert (loaded.small, loaded.large, loaded.about) == (
        identity,
        ModelIdentity("large"),
        {"verifier": "gap"},
    )
    a_router().save(tmp_path / "router.safetensors", identity)
    with pytest.raises(UserError, match="holds no file of labelled tokens: `tokenry route label` writes one"):
        LabelledTokens.load(tmp_path / "router.safetensors")
    with pytest.raises(UserError, match="holds no router of tokens: `tokenry route train` writes one"):
        TokenRouter.load(tmp_path / "labels.safetensors", tiny.llama(), identity)


# --- bad input ---------------------------------------------------------------------------------------------------------


def broken(labels=None, **columns):
    features, own = features_of(100)
    features = TokenFeatures(**{**vars(features), **columns})
    return features, own if labels is None else labels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": torch.zeros(100).long()}, "0 labels are 1 .divergent. and 100 are 0"),
        ({"labels": torch.ones(100).long()}, "100 labels are 1 .divergent. and 0 are 0"),
        (
            {"labels": torch.full((100,), 3)},
            "a label is 1 .divergent., 0 .not divergent. or -1 .unknown., got 3",
        ),
        (
            {"labels": torch.ones(99).long()},
            "features of 99 and 100 tokens: give one of each, and one label, per token",
        ),
        ({"hidden": torch.full((100, 8), float("nan"))}, "values in hidden that are not finite"),
        ({"texts": torch.zeros(100).long()}, "of the tokens learned from, 0 are divergent and 0 are not"),
    ],
)
def test_what_a_router_cannot_learn_from_is_refused(change, words):
    with pytest.raises(UserError, match=words):
        fit_router(a_router(), *broken(**change))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: a_router(top_k=65), "top_k is 65, and the vocabulary has 64 tokens"),
        (lambda: RouterTrainingConfig(recall=1.5), r"recall must be in \[0, 1\], got 1.5"),
        (lambda: RouterTrainingConfig(epochs=0), "epochs must be at least 1, got 0"),
        (lambda: RouterTrainingConfig(learning_rate=0.0), "must be above 0, got 0.0"),
        (lambda: EntropyRule(-1), "threshold must be at least 0, got -1"),
        (lambda: RandomRule(1.5), r"threshold must be in \[0, 1\], got 1.5"),
        (lambda: log_u(torch.zeros(2, 9)), "log-u reads the 10 largest logits, and there are 9"),
        (lambda: ROUTING_RULES.make("entrpy"), "there is no routing rule 'entrpy'"),
        (lambda: threshold_for_rate(torch.zeros(3), 1.1), r"rate must be in \[0, 1\], got 1.1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
