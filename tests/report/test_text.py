import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.report.text import harmless, label, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" the", "·the"),
        ("\n\n", "⏎\n⏎\n"),
        ("\r\n", "␍⏎\n"),
        ("\ta", "⇥a"),
        ("", "∅"),
        ("\x00", "␀"),
        ("\x1b[31m", "␛[31m"),
        ("\ud83d", "\ufffd"),
        ("\u202eabc", "⟨U+202E⟩abc"),
        ("\u00a0", "⟨U+00A0⟩"),
        ("\u200d", "⟨U+200D⟩"),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
        ("שלום", "שלום"),
    ],
)
def test_what_cannot_be_seen_is_shown_as_a_sign(text, shown):
    assert visible(text) == shown


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_visible_and_encodes(text):
    shown = visible(text)
    assert shown.strip()
    shown.encode("utf-8")
    assert harmless(shown) == shown


def test_names_read_as_words():
    assert [label(name) for name in ("nll", "history_nll", "prompt_attention")] == [
        "NLL",
        "history NLL",
        "prompt attention",
    ]
