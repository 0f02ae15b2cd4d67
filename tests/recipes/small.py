"""A recipe at a size that a test can wait for."""

from dataclasses import replace

from tokenry.recipes import load_recipe


def run_small(slug, sizes, folder, progress=lambda what, share: None):
    """Run a recipe on something small in the place of what its laptop scale runs; check what all recipes must keep."""
    told = []
    result = replace(load_recipe(slug), scales={"laptop": sizes}).run(
        "laptop", folder, lambda what, share: told.append(share) or progress(what, share)
    )
    assert told == sorted(told)
    assert all(0 <= share <= 1 for share in told)
    assert (folder / result.plots[0]).stat().st_size > 5_000
    assert 1 <= len(result.claims) <= 6
    result.save(folder / "result.json")
    return result
