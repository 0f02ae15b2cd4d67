"""English prose that neither a tokenizer nor the embedded model was made for: a story in the public domain."""

import importlib.util
import re
from pathlib import Path

from tokenry.core.errors import UserError

_STORY = "in_the_year_2889.txt"


def read_story() -> list[str]:
    """The paragraphs of "In the Year 2889" (Michel and Jules Verne, 1889), from the package reasoning-gym."""
    spec = importlib.util.find_spec("reasoning_gym")
    path = Path(spec.origin).parent / "data" / _STORY if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"the prose of this recipe ({_STORY}) is not installed: pip install 'tokenry[demo]'.")
    text = path.read_text(encoding="utf-8")
    story = text[text.index("Little though they seem") : text.index("End of Project Gutenberg")]
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", story)]
