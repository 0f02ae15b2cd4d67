"""What every recipe must pass, at a size that a test can wait for.

`check_recipe("pitome", sizes, tmp_path)` runs it on `sizes` in the place of what its laptop scale runs; `check_verdicts` holds that each
claim can come out either way.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokenry.recipes import Reproduction, load_recipe

VERDICTS = {"shown", "not shown", "opposite", "too few"}


def check_recipe(
    slug: str, sizes: Any, folder: Path, progress: Callable[[str, float], None] = lambda what, share: None
) -> Reproduction:
    """Run a recipe on something small and check what it says meanwhile, claims, draws and saves."""
    told: list[float] = []
    result = replace(load_recipe(slug), scales={"laptop": sizes}).run(
        "laptop", folder, lambda what, share: told.append(share) or progress(what, share)
    )
    assert told == sorted(told)
    assert all(0 <= share <= 1 for share in told)
    assert (folder / result.plots[0]).stat().st_size > 5_000
    assert 1 <= len(result.claims) <= 6
    assert {claim.verdict for claim in result.claims} <= VERDICTS
    assert result.verdict == result.claims[0].verdict
    result.save(folder / "result.json")
    saved = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert saved["headline"] == result.claims[0].claim
    assert [claim["verdict"] for claim in saved["claims"]] == [claim.verdict for claim in result.claims]
    return result


def check_verdicts(
    judged: Callable[..., Sequence[str]], changes: Iterable[tuple[dict[str, Any], set[int]]]
) -> None:
    """Hold that verdicts follow the measurements, and that every claim is shown by some of them and by others is not.

    Args:
        judged: the verdicts of the claims, of measurements of which some are changed.
        changes: changed measurements (`{}`: none), and the numbers of the claims that are then not shown.
    """
    shown: set[int] = set()
    failed: set[int] = set()
    for changed, not_shown in changes:
        verdicts = judged(**changed)
        found = {number for number, verdict in enumerate(verdicts) if verdict != "shown"}
        assert found == not_shown, f"{changed}: {verdicts}"
        shown |= set(range(len(verdicts))) - found
        failed |= found
    assert shown == failed, "every claim can be shown and can fail"
