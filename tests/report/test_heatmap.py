import pytest

from tokenry.core.errors import UserError
from tokenry.core.records import Example
from tokenry.report import terminal_heatmap
from tokenry.report.heatmap import map_view, signal_scales, token_state

from .conftest import token


def scale_of(*values: float):
    (scale,) = signal_scales([Example(title="", tokens=[token("a", 1.0, s=value) for value in values])])
    return scale


def test_a_token_is_kept_lowered_dropped_or_not_chosen_at_all(example):
    assert [token_state(each) for each in example.tokens] == ["prompt", "kept", "dropped", "lowered"]
    assert token_state(token("a", 1.0).model_copy(update={"weight": None})) == "open"
    assert token_state(token("a", 2.5)) == "kept"


def test_a_signal_of_one_sign_runs_from_its_lowest_to_its_highest():
    scale = scale_of(1.0, 2.0, 3.0)
    assert not scale.signed
    assert scale.level(-9.0) == 0.0
    assert scale.level(2.0) == pytest.approx(0.5)
    assert scale.level(99.0) == 1.0


def test_a_signal_of_both_signs_is_drawn_around_zero():
    scale = scale_of(-4.0, 2.0)
    assert scale.signed
    assert scale.level(0.0) == 0.0
    assert scale.level(-99.0) == -1.0
    assert scale.level(1.0) == -scale.level(-1.0)


def test_one_outlier_does_not_bleach_the_rest():
    scale = scale_of(*([0.0, 1.0] * 100), 1000.0)
    assert scale.level(1.0) == 1.0


def test_a_constant_signal_has_a_scale():
    assert scale_of(0.7, 0.7).level(0.7) == 0.0


def test_all_examples_of_a_page_share_one_scale(example):
    louder = Example(title="", tokens=[token("a", 1.0, nll=400.0)] * 100)
    alone, together = signal_scales([example])[0], signal_scales([example, louder])[0]
    assert alone.level(4.75) == 1.0
    assert together.level(4.75) < 0.1


def test_the_summary_counts_what_was_kept(example):
    assert map_view(example, []).summary == "4 tokens, 1 of 3 kept (33%)"


def test_the_terminal_marks_kept_and_dropped_without_colour(example):
    heatmap = terminal_heatmap(example, "progress")
    assert heatmap.plain == "Add:⏎\n·seven·eight·nine"
    prompt, kept, dropped, lowered = (str(span.style) for span in heatmap.spans)
    assert prompt == "dim"
    assert kept.startswith("bold underline black on rgb(")
    assert dropped.startswith("strike black on rgb(")
    assert lowered.startswith("underline black on rgb(")


def test_the_terminal_never_gets_an_escape_sequence_from_data():
    heatmap = terminal_heatmap(Example(title="", tokens=[token("\x1b[2J[red]x", 1.0, nll=1.0)]), "nll")
    assert heatmap.plain == "␛[2J[red]x"


def test_an_unknown_signal_is_refused_with_the_known_ones(example):
    with pytest.raises(UserError, match="'nl' is not known for this example: choose one of nll, history_nll"):
        terminal_heatmap(example, "nl")
