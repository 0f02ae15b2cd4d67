from dataclasses import replace

import pytest
import torch
from transformers import ViTForImageClassification

from tests.recipes.check_recipe import check_recipe
from tests.tiny.vlms import make_inputs, make_model
from tokenry.recipes.testbeds.digits_reader import DigitsReader, ReaderSetting, train_reader, visual_tokens
from tokenry.recipes.testbeds.digits_vit import DigitsViTSetting, vit_config
from tokenry.recipes.testbeds.llava_pope import ask
from tokenry.recipes.testbeds.reader_trial import measure_reader
from tokenry.recipes.testbeds.token_choices import (
    DIVPRUNE,
    LEAST,
    RANDOM,
    SENSITIVE,
    ZOO,
    ChoiceTrial,
    combined,
)
from tokenry.recipes.zoo_prune import judge

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
    return next(each for each in judge(measured) if words in each.claim)


def with_right(measured, method, k, right):
    """The same measurement with other answers of one method."""
    choice = replace(measured.choices[method][k], right=right)
    by_k = {**measured.choices[method], k: choice}
    return replace(measured, choices={**measured.choices, method: by_k})


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


def test_sads_lies_between_its_parents(measured):
    for k in (2, 4):
        choices = {name: by_k[k] for name, by_k in measured.choices.items()}
        assert choices[ZOO].sensitivity.mean() > choices[DIVPRUNE].sensitivity.mean()
        assert choices[ZOO].spacing.mean() > choices[SENSITIVE].spacing.mean()


def test_more_directions_estimate_better(measured):
    means = [float(values.mean()) for _, values in sorted(measured.estimates.items())]
    assert means == sorted(means)


def test_zoo_prune_must_be_more_accurate_at_every_budget(measured):
    scatter = torch.arange(8.0)

    def outcome(*of_control):
        compared = measured
        for k, control in zip((2, 4), of_control, strict=True):
            compared = with_right(compared, ZOO, k, 90.0 + scatter)
            compared = with_right(compared, DIVPRUNE, k, control + 2 * scatter)
        return next(iter(judge(compared))).verdict

    assert outcome(10.0, 10.0) == "shown"
    assert outcome(10.0, 95.0) == outcome(87.0, 87.0) == "not shown"
    assert outcome(95.0, 95.0) == "opposite"


def test_the_premise_is_shown_only_by_a_positive_correlation(measured):
    for sign, expected in ((1, "shown"), (-1, "opposite")):
        relevance = sign * (0.3 + 0.01 * torch.randn(8, generator=torch.Generator().manual_seed(0)))
        assert claim(replace(measured, relevance=relevance), "the premise").verdict == expected


def test_an_estimate_must_be_good_enough(measured):
    scatter = 0.001 * torch.arange(8.0)
    for centre, expected in ((0.96, "shown"), (0.947, "not shown"), (0.9, "not shown")):
        given = replace(measured, estimates={1: 0.5 + scatter, 64: centre + scatter})
        assert claim(given, "rank the tokens").verdict == expected


def test_the_recipe_judges_every_claim_and_draws(measured, tmp_path):
    reproduction = check_recipe("zoo-prune", lambda progress: measured, tmp_path)
    assert len(reproduction.claims) == 4
    assert "DivPrune" in reproduction.headline.claim


def test_seeds_are_averaged_and_questions_put_in_a_row(measured):
    mean = combined([measured, measured], lambda values: torch.stack(values).mean(0))
    row = combined([measured, measured], torch.cat)
    torch.testing.assert_close(mean.choices[ZOO][2].right, measured.choices[ZOO][2].right)
    assert row.relevance.shape == (16,)
    assert isinstance(row, ChoiceTrial)


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
