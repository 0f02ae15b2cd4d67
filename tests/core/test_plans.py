"""A plan is a verb's options, their help, their validation and the recorded settings."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

import pytest

from tokenry.core.errors import UserError
from tokenry.core.plans import (
    argument,
    as_typed,
    build_plan,
    embedded,
    option,
    plan_options,
    plan_settings,
    read_commas,
    read_values,
    summary,
    values_for,
)


@dataclass(frozen=True)
class Batches:
    """How data is cut.

    Attributes:
        batch_size: samples per batch,
            all of one length.
    """

    batch_size: int = 8

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {self.batch_size}.")


@dataclass(frozen=True)
class Plan:
    """Measure a model.

    On anything.

    Attributes:
        model: name of the model.
        formats: how numbers are written.
        mode: what is asked.
        keep_special: keep special tokens.
        output: a folder.
    """

    model: str = argument()
    formats: tuple[str, ...] = option(("plain",), flag="--format")
    mode: Literal["score", "generate"] = "score"
    keep_special: bool = False
    batches: Batches = Batches(batch_size=4)
    output: Path | None = None


def option_of(name):
    return next(option for option in plan_options(Plan) if option.name == name)


def test_every_field_is_an_option_in_order_and_configs_are_unfolded():
    flags = [option.flag for option in plan_options(Plan)]
    assert flags == ["MODEL", "--format", "--mode", "--keep-special", "--batch-size", "--output"]


def test_the_words_of_a_field_are_its_help():
    assert option_of("batch_size").help == "Samples per batch, all of one length."
    assert option_of("mode").help == "What is asked."
    assert summary(Plan) == "Measure a model.\n\nOn anything."


@dataclass(frozen=True)
class Loop:
    """A loop.

    Attributes:
        steps: number of steps.
        rate: learning rate.
    """

    steps: int = 10
    rate: float = 1.0
    batches: Batches = Batches()


@dataclass(frozen=True)
class Embedding:
    """Train.

    Attributes:
        rate: how often to look.
    """

    loop: Loop = embedded(Loop(rate=0.5), only=("batch_size", "steps"), prefix="loop: ")
    rate: int | None = None


def test_of_an_embedded_config_only_the_named_fields_are_options():
    options = plan_options(Embedding)
    assert [option.flag for option in options] == ["--batch-size", "--steps", "--rate"]
    assert [option.help for option in options][1:] == ["Loop: number of steps.", "How often to look."]


def test_a_field_that_is_no_option_keeps_its_value_whatever_else_has_its_name():
    plan = build_plan(Embedding, {"rate": 3, "steps": 5, "batch_size": 2})
    assert plan == Embedding(Loop(5, 0.5, Batches(2)), rate=3)
    assert plan_settings(plan) == {"batch_size": 2, "steps": 5, "rate": 3}


def test_an_unfolded_config_keeps_the_defaults_of_the_plan():
    assert option_of("batch_size").default == 4
    assert build_plan(Plan, {"model": "m"}).batches == Batches(4)


def test_a_field_without_default_is_required():
    assert option_of("model").required
    assert not option_of("mode").required


def test_values_land_in_the_config_they_belong_to():
    plan = build_plan(Plan, {"model": "m", "batch_size": 2, "formats": ("a", "b")})
    assert plan == Plan("m", ("a", "b"), batches=Batches(2))


def test_the_record_holds_every_option_but_the_output():
    plan = build_plan(Plan, {"model": "m", "output": Path("there")})
    assert plan_settings(plan) == {
        "model": "m",
        "formats": ["plain"],
        "mode": "score",
        "keep_special": False,
        "batch_size": 4,
    }


def test_a_config_takes_the_values_that_a_plan_has_by_its_names():
    @dataclass(frozen=True)
    class Flat:
        batch_size: int = 3
        other: int = 1

    assert values_for(Batches, Flat()) == {"batch_size": 3}


def test_a_refusal_names_the_option_as_it_is_typed():
    with pytest.raises(UserError, match=r"^--batch-size must be at least 1, got 0\.$"):
        build_plan(Plan, {"model": "m", "batch_size": 0})


@pytest.mark.parametrize(
    ("sentence", "typed"),
    [
        ("use keep_special=True to keep them.", "use --keep-special to keep them."),
        ("use keep_special=False.", "use --no-keep-special."),
        ("raise batch_size=4 or more", "raise --batch-size 4 or more"),
        ("mode must be one of score, generate", "--mode must be one of score, generate"),
        ("the mode must stay", "the mode must stay"),
        ("runs/batch_size.json is missing", "runs/batch_size.json is missing"),
        ("model_batch_size_2 is unknown", "model_batch_size_2 is unknown"),
    ],
)
def test_option_names_in_a_sentence_are_written_as_typed(sentence, typed):
    assert as_typed(sentence, Plan) == typed


@dataclass(frozen=True)
class Sizes:
    """Sizes.

    Attributes:
        sizes: what is measured.
        names: of what.
    """

    sizes: tuple[int, ...] = option((1, 2), metavar="512,1024", commas=True)
    names: tuple[str, ...] = option((), commas=True)


def test_values_may_be_typed_with_commas():
    sizes, names = plan_options(Sizes)
    assert (sizes.commas, option_of("formats").commas) == (True, False)
    assert read_commas(sizes, "3, 4") == (3, 4)
    assert read_commas(names, "") == ()
    assert read_values(Sizes, {"sizes": "3,4", "names": ["a", "b"]}, "c.yaml") == {
        "sizes": (3, 4),
        "names": ("a", "b"),
    }
    with pytest.raises(UserError, match="--names takes names separated by commas, such as 1,2, got 'a,'"):
        read_commas(names, "a,")
    with pytest.raises(
        UserError, match="--sizes takes whole numbers separated by commas, such as 512,1024, got '3,x'"
    ):
        read_commas(sizes, "3,x")


def test_a_settings_file_may_use_the_name_or_the_flag():
    values = read_values(Plan, {"format": ["a"], "batch-size": 3, "mode": "generate"}, "c.yaml")
    assert values == {"formats": ("a",), "batch_size": 3, "mode": "generate"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"modes": 1}, "c.yaml names the unknown option 'modes': known are"),
        ({"batch_size": "many"}, "batch_size in c.yaml cannot be 'many'"),
        ({"mode": "answer"}, "mode in c.yaml cannot be 'answer'"),
        (["mode"], "c.yaml must hold option: value, one per line, got list"),
    ],
)
def test_a_settings_file_that_does_not_fit_is_refused(content, words):
    with pytest.raises(UserError, match=words):
        read_values(Plan, content, "c.yaml")


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Options of several verbs.

    Attributes:
        steps: number of steps.
        seed: random seed.
    """

    steps: int
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class OfBoth(Counted):
    """Do it.

    Attributes:
        data: the data.
        seed: random seed of the order.
    """

    data: str = argument()
    seed: int = 7


def test_a_plan_stands_before_its_base_whose_words_and_defaults_it_may_change():
    assert [(option.name, option.default, option.help) for option in plan_options(OfBoth)] == [
        ("data", MISSING, "The data."),
        ("seed", 7, "Random seed of the order."),
        ("steps", MISSING, "Number of steps."),
    ]
    assert build_plan(OfBoth, {"data": "text", "steps": 3}) == OfBoth("text", steps=3)


def test_a_field_without_words_is_a_mistake_of_ours():
    @dataclass(frozen=True)
    class Silent:
        """Do it."""

        steps: int = 1

    with pytest.raises(TypeError, match=r"Silent\.steps has no documentation"):
        plan_options(Silent)


def test_two_options_of_one_name_are_a_mistake_of_ours():
    @dataclass(frozen=True)
    class Twice:
        """Do it.

        Attributes:
            batch_size: another one.
        """

        batch_size: int = 1
        batches: Batches = Batches()

    with pytest.raises(TypeError, match="several options named batch_size"):
        plan_options(Twice)
