"""Every registered reduction, with the options of a sweep, keeps what all must keep."""

import pytest

from tests.compression.vision.check_reducer import check_reducer, reducer_at
from tokenry.compression.reducer import REDUCERS


@pytest.mark.parametrize("method", REDUCERS)
def test_a_reduction_keeps_what_all_must_keep(method):
    check_reducer(reducer_at(method, 0.7), drawn=method == "random", counted=method != "diffrate")
