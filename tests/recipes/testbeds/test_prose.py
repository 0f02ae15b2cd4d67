"""The story that comes with reasoning-gym."""

import importlib.util

import pytest

from tokenry.core.errors import UserError
from tokenry.recipes.testbeds.prose import read_story


@pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed"
)
def test_the_story_is_there_in_paragraphs_without_the_words_of_its_publisher():
    paragraphs = read_story()
    assert paragraphs[0].startswith("Little though they seem")
    assert len(paragraphs) > 50
    assert all(paragraph == " ".join(paragraph.split()) for paragraph in paragraphs)
    assert not any("Gutenberg" in paragraph for paragraph in paragraphs)


def test_without_its_package_there_is_no_story(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"\(in_the_year_2889\.txt\) is not installed: pip install"):
        read_story()
