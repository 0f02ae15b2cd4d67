"""Two ranks give the same credit and end with the same weights as one process, also where a group is split between them."""

import pytest
import torch

from tests.alignment.two_ranks import CREDITS, PREFERENCES, run
from tests.fresh_process import run_ranks

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two-ranks")
    ended = run_ranks("tests.alignment.two_ranks", str(folder), folder=folder)
    (folder / "log.txt").write_text("".join(rank.stdout + rank.stderr for rank in ended))
    return folder


def ended(folder, name):
    """What each rank ended with."""
    files = [folder / f"{name}-{rank}.pt" for rank in range(2)]
    assert all(file.exists() for file in files), (folder / "log.txt").read_text()[-3000:]
    return [torch.load(file) for file in files]


@pytest.mark.parametrize("name", PREFERENCES)
def test_two_ranks_learn_preferences_as_one_process_does(two_ranks, name, tmp_path):
    expected = run(name, tmp_path)
    assert expected["margins"].std() > 0, "something is learned"
    for found in ended(two_ranks, name):
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            torch.testing.assert_close(
                found[key],
                values,
                rtol=0,
                atol=1e-4 if key == "margins" else 1e-6,
                msg=lambda words, key=key: f"{key}: {words}",
            )


@pytest.mark.parametrize("name", CREDITS)
def test_two_ranks_give_the_credit_of_one_process(two_ranks, name, tmp_path):
    first, second = ended(two_ranks, name)
    expected = run(name, tmp_path)
    assert expected["generation.ids"].shape[0] == 12
    assert first["generation.ids"].shape[0] == 6, "a group of four is split"
    for key, values in expected.items():
        if key.startswith("generation."):
            width = [part[key].shape[1:] for part in (first, second)]
            padded = [
                torch.nn.functional.pad(part[key], (0, values.shape[1] - size[0])) if size else part[key]
                for part, size in zip((first, second), width, strict=True)
            ]
            torch.testing.assert_close(
                torch.cat(padded), values, msg=lambda words, key=key: f"{key}: {words}"
            )
        else:
            for part in (first, second):
                torch.testing.assert_close(
                    part[key], values, rtol=0, atol=1e-5, msg=lambda words, key=key: f"{key}: {words}"
                )
