"""For the tests of verbs that read conversations: a tiny chat model with its data."""

from tests.desk import desk

__all__ = ["desk"]
