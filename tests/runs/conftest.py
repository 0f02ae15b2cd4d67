from tests.recipes.conftest import tokenizer  # noqa: F401
