from dataclasses import replace

import pytest
import torch
from transformers import ViTForImageClassification

from tests.compression.vision.tiny_vlms import make_inputs, make_model
from tokenry.papers import catalogue
from tokenry.recipes import zoo_prune
from tokenry.recipes.toys.digits_reader import DigitsReader, ReaderSetting, train_reader, visual_tokens
from tokenry.recipes.toys.digits_vit import DigitsViTSetting, vit_config
from tokenry.recipes.zoo_prune import (
    DIVPRUNE,
    LEAST,
    RANDOM,
    RECIPE,
    SENSITIVE,
    ZOO,
    Measured,
    ask,
    measure_prefill,
    measure_reader,
)

pytestmark = pytest.mark.filterwarnings("ignore:the projector's sensitivity goes against relevance")


@pytest.fixture(scope="module")
def measured():
    """A reader that was not trained, on noise: 8 objects of 2 views, 9 tokens."""
    torch.manual_seed(0)
    reader = DigitsReader(12).eval().requires_grad_(False)
    tokens, labels = torch.randn(16, 9, 12), torch.randint(10, (16,))
    found = measure_reader(reader, tokens, labels, views=2, budgets=(2, 4))
    return replace(found, pictures={"image": torch.rand(12, 12), **found.pictures})


def claim(measured, words):
    """The verdict of the first claim with these words."""
    claims = (
        *zoo_prune._estimate_claims(measured.estimates),
        *zoo_prune._selection_claims(measured.choices),
        *zoo_prune._accuracy_claims(measured),
    )
    return next(each for each in claims if words in each.claim)


def with_right(measured, method, k, right):
    """The same measurement with other answers of one method."""
    choice = replace(measured.choices[method][k], right=right)
    by_k = {**measured.choices[method], k: choice}
    return replace(measured, choices={**measured.choices, method: by_k})


def test_the_recipe_is_that_of_the_catalogue():
    paper = next(paper for paper in catalogue() if paper.slug == RECIPE.slug)
    assert paper.title == RECIPE.title
    assert paper.available


def test_every_method_is_measured_object_by_object(measured):
    assert set(measured.choices) == {RANDOM, DIVPRUNE, SENSITIVE, ZOO, LEAST}
    for by_k in measured.choices.values():
        assert set(by_k) == {2, 4}
        for choice in by_k.values():
            assert choice.right.shape == choice.sensitivity.shape == choice.spacing.shape == (8,)
    assert measured.relevance.shape == measured.unpruned.shape == (8,)


def test_parents_are_extremes_of_what_they_ask_for(measured):
    for k in (2, 4):
        choices = {name: by_k[k] for name, by_k in measured.choices.items()}
        highest = choices[SENSITIVE].sensitivity
        assert all((highest >= choice.sensitivity - 1e-6).all() for choice in choices.values())
        assert all(
            (choices[LEAST].sensitivity <= choice.sensitivity + 1e-6).all() for choice in choices.values()
        )


def test_verdicts_follow_the_measurement(measured):
    better = with_right(measured, ZOO, 2, torch.full((8,), 90.0))
    for right, expected in ((10.0, "shown"), (90.0, "not shown"), (95.0, "not shown")):
        compared = with_right(better, DIVPRUNE, 2, torch.full((8,), right))
        assert claim(compared, "from 2 tokens, ZOO-Prune is more accurate than DivPrune").verdict == expected


def test_the_premise_is_shown_only_by_a_positive_correlation(measured):
    for sign, expected in ((1, "shown"), (-1, "not shown")):
        relevance = sign * (0.3 + 0.01 * torch.randn(8, generator=torch.Generator().manual_seed(0)))
        assert claim(replace(measured, relevance=relevance), "the premise").verdict == expected


def test_an_estimate_is_good_enough_and_rises(measured):
    good = replace(measured, estimates={1: torch.full((8,), 0.5), 64: torch.full((8,), 0.97)})
    assert claim(good, "rank the tokens").verdict == claim(good, "the better").verdict == "shown"
    poor = replace(measured, estimates={1: torch.full((8,), 0.96), 64: torch.full((8,), 0.94)})
    assert claim(poor, "rank the tokens").verdict == claim(poor, "the better").verdict == "not shown"


def test_prefill_claims_follow_the_clock():
    slow = {"ratio_of_tokens": 6.0, "language_model_faster": 4.7, "faster": 2.2}
    fast = {"ratio_of_tokens": 6.0, "language_model_faster": 4.9, "faster": 2.4}
    assert {each.verdict for each in zoo_prune._prefill_claims(slow)} == {"not shown"}
    assert {each.verdict for each in zoo_prune._prefill_claims(fast)} == {"shown"}


def test_prefill_is_timed():
    prefill = measure_prefill(visual=16, kept=4, text=4, width=32)
    assert prefill["ratio_of_tokens"] == 20 / 8
    assert prefill["language_model_faster"] > 0


def test_the_recipe_judges_every_claim_and_draws(measured, tmp_path, monkeypatch):
    monkeypatch.setitem(zoo_prune._TESTBEDS, "laptop", lambda progress: measured)
    monkeypatch.setattr(
        zoo_prune, "measure_prefill", lambda: measure_prefill(visual=16, kept=4, text=4, width=32)
    )
    told = []
    reproduction = RECIPE.run("laptop", tmp_path, lambda what, share: told.append(share))
    assert len(reproduction.claims) == 2 + 2 + 2 * 2 + 1 + 2
    assert (tmp_path / reproduction.plots[0]).stat().st_size > 10_000
    reproduction.save(tmp_path / "result.json")
    assert all(0 <= share <= 1 for share in told)


def test_seeds_are_averaged_and_questions_put_in_a_row(measured):
    mean = zoo_prune._combined([measured, measured], lambda values: torch.stack(values).mean(0))
    row = zoo_prune._combined([measured, measured], torch.cat)
    torch.testing.assert_close(mean.choices[ZOO][2].right, measured.choices[ZOO][2].right)
    assert row.relevance.shape == (16,)
    assert isinstance(row, Measured)


class Processor:
    """Decodes every token to the same word."""

    def decode(self, tokens, skip_special_tokens):
        return " Yes."


def test_a_question_is_asked_with_every_method_and_budget():
    model = make_model("llava")
    inputs = make_inputs(model, "llava", images_per_row=(1,))
    asked = ask(model, Processor(), inputs, "yes", (2, 4), seed=0)
    assert asked.unpruned.tolist() == [100.0]
    assert ask(model, Processor(), inputs, "no", (2,), seed=0).choices[ZOO][2].right.tolist() == [0.0]
    assert {k for by_k in asked.choices.values() for k in by_k} == {2, 4}
    assert not model._forward_pre_hooks


def test_a_reader_learns_and_reads_any_number_of_tokens():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (256,), generator=generator)
    tokens = torch.randn(256, 5, 12, generator=generator)
    tokens[:, 2, 0] += 6.0 * labels
    setting = ReaderSetting(epochs=4, batch_size=32)
    reader = train_reader(tokens, labels, setting)
    again = train_reader(tokens, labels, setting)
    assert torch.equal(reader.query, again.query)
    assert (reader(tokens).argmax(-1) == labels).float().mean() > 0.9
    assert reader.read(reader.projector(tokens[:, 2:3])).shape == (256, 10)
    assert not any(weight.requires_grad for weight in reader.parameters())


def test_visual_tokens_are_those_after_the_second_block():

    torch.manual_seed(0)
    model = ViTForImageClassification(vit_config(DigitsViTSetting())).eval()
    images = torch.randn(3, 1, 24, 24)
    expected = model(pixel_values=images, output_hidden_states=True).hidden_states[2][:, 1:]
    torch.testing.assert_close(visual_tokens(model, images), expected)
