"""Names of models in results."""


def model_title(name: str) -> str:
    """The name of a model; the embedded one has a name of its own."""
    if name != "embedded":
        return name
    from tokenry.models.embedded import EMBEDDED_TITLE

    return EMBEDDED_TITLE
