"""Sentences of a text, cut by NLTK's Punkt without training: nothing is downloaded, and any language with marks at its ends is cut.

"".join(sentences(text)) == text
"""

from functools import cache
from itertools import pairwise

from nltk.tokenize.punkt import PunktSentenceTokenizer


def sentences(text: str) -> list[str]:
    """Cut a text into sentences; the white space after a sentence stands at its end, that before the first one at its beginning."""
    starts = [start for start, _ in _punkt().span_tokenize(text)]
    if not starts:
        return [text] if text else []
    cuts = [0, *starts[1:], len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


@cache
def _punkt() -> PunktSentenceTokenizer:
    return PunktSentenceTokenizer()
