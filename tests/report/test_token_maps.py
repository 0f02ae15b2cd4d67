"""Token heat-maps: scales, what became of every token, and how a terminal shows both."""

import io

import pytest
from rich.console import Console

from tokenry.core.errors import UserError
from tokenry.report.blocks import Heatmap, Token
from tokenry.report.terminal import terminal_blocks
from tokenry.report.token_maps import map_view, signal_scales, terminal_heatmap, token_state

TOKENS = [
    Token("Add:\n", "prompt", {"nll": 1.5}),
    Token(" seven", "kept", {"nll": 0.25, "history_nll": 2.125, "progress": 1.875}, 1.0),
    Token(" eight", "dropped", {"nll": 3.5, "history_nll": 3.25, "progress": -0.25}, 0.0),
    Token(" nine", "lowered", {"nll": 4.75, "history_nll": 5.5, "progress": 0.75}, 0.1),
]


def scale_of(*values: float):
    (scale,) = signal_scales([[Token("a", "kept", {"s": value}) for value in values]])
    return scale


def test_a_token_is_kept_lowered_dropped_or_not_chosen_at_all():
    fates = [(False, None), (True, 1.0), (True, 2.5), (True, 0.0), (True, 0.1), (True, None)]
    assert [token_state(*fate) for fate in fates] == ["prompt", "kept", "kept", "dropped", "lowered", "open"]


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


def test_all_examples_of_a_page_share_one_scale():
    louder = [Token("a", "kept", {"nll": 400.0})] * 100
    alone, together = signal_scales([TOKENS])[0], signal_scales([TOKENS, louder])[0]
    assert alone.level(4.75) == 1.0
    assert together.level(4.75) < 0.1


def test_the_summary_counts_what_was_kept():
    assert map_view("", TOKENS, []).summary == "4 tokens, 1 of 3 kept (33%)"


def test_the_terminal_marks_kept_and_dropped_without_colour():
    heatmap = terminal_heatmap(TOKENS, "progress")
    assert heatmap.plain == "Add:⏎\n·seven·eight·nine"
    prompt, kept, dropped, lowered = (str(span.style) for span in heatmap.spans)
    assert prompt == "dim"
    assert kept.startswith("bold underline black on rgb(")
    assert dropped.startswith("strike black on rgb(")
    assert lowered.startswith("underline black on rgb(")


def test_the_terminal_never_gets_an_escape_sequence_from_data():
    heatmap = terminal_heatmap([Token("\x1b[2J[red]x", "kept", {"nll": 1.0}, 1.0)], "nll")
    assert heatmap.plain == "␛[2J[red]x"


def test_an_unknown_signal_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'nl' is not known for this example: choose one of nll, history_nll"):
        terminal_heatmap(TOKENS, "nl")


def test_without_colours_every_token_stands_with_its_numbers():
    console = Console(file=io.StringIO(), width=80)
    for renderable in terminal_blocks([Heatmap("one", [("full", TOKENS)])], 80, coloured=False):
        console.print(renderable)
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["·eight", "dropped", "3.500", "3.250", "−0.250"] in lines
    assert ["Add:⏎", "prompt", "1.500", "–", "–"] in lines
