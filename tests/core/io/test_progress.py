"""Progress of the parts of a job."""

import pytest

from tokenry.core.io.progress import in_turn


def test_items_have_equal_parts_of_the_job_one_after_the_other():
    told = []
    for item, progress in in_turn("ab", lambda what, share: told.append((what, share)), 0.2, 0.8):
        progress(item, 0.0)
        progress(item, 1.0)
    assert [what for what, _ in told] == ["a", "a", "b", "b"]
    assert [share for _, share in told] == pytest.approx([0.2, 0.5, 0.5, 0.8])


def test_nothing_to_do_is_nothing_told():
    assert not list(in_turn((), lambda what, share: pytest.fail(what)))
