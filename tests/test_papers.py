import re

import pytest

from tests.made_up_paper import listed, with_recipe
from tokenry.core.errors import UserError
from tokenry.papers import catalogue, paper


def test_the_catalogue_holds_forty_papers_in_order():
    assert [entry.number for entry in catalogue()] == list(range(1, 41))


def test_no_slug_and_no_arxiv_number_is_given_twice():
    assert len({entry.slug for entry in catalogue()}) == 40
    assert len({entry.arxiv for entry in catalogue()}) == 40


def test_every_entry_is_well_formed():
    for entry in catalogue():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.slug), entry
        assert re.fullmatch(r"\d{4}\.\d{5}", entry.arxiv), entry
        modules = entry.module.split(", ") if entry.module else []
        assert all(re.fullmatch(r"tokenry(\.[a-z]+)+", module) for module in modules), entry
        assert modules or not entry.available, entry
        assert entry.title


def test_a_paper_is_available_exactly_when_its_recipe_exists(tmp_path):
    def available():
        return {entry.slug for entry in catalogue() if entry.available}

    with listed():
        before = available()
        with with_recipe(tmp_path, "reproduce = None\n"):
            assert available() == before | {"made-up"}
        assert available() == before


def test_a_misspelt_slug_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no paper has the slug 'sstokn': did you mean sstoken\?"):
        paper("sstokn")
