"""Independent jobs, in this process and side by side."""

import pytest

from tokenry.core.io.jobs import over


@pytest.mark.parametrize("processes", [1, 2])
def test_what_jobs_find_comes_in_their_order(processes):
    told = []
    found = over(
        [3, 1, 2], range, lambda job: (job,), str, lambda *said: told.append(said), processes=processes
    )
    assert list(found) == [0, 1, 2, 0, 0, 1]
    assert told == [("3", 1 / 3), ("1", 2 / 3), ("2", 1.0)]


def test_the_error_of_a_job_is_that_of_all():
    with pytest.raises(TypeError, match="integer"):
        list(over(["a"], range, lambda job: (job,), str, lambda *said: None, processes=2))
