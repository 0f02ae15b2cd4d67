"""The reference numbers of the premium measures and of the superword trainers."""

from tests.golden import golden_json


def golden(name: str):
    return golden_json("02-premiums", f"dev-{name}.json")
