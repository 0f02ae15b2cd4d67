"""Documents as blocks that an encoder reads: never across two documents, each between the tokens that begin and end a text.

BudgetLongformer (arXiv 2211.17135): blocks of at most 4,096 tokens; the short rest of a document is kept.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from tokenry.core.errors import require_at_least


def split_documents(
    tokenized_docs: Iterable[Sequence[int]], max_length: int, bos: int, eos: int
) -> list[dict[str, Any]]:
    """Cut documents into blocks of at most `max_length` tokens, `bos` and `eos` included; an empty document gives none.

    Returns:
        Of each block `doc`, the number of its document from 0, and `ids`.
    """
    require_at_least(3, max_length=max_length)
    size = max_length - 2
    return [
        {"doc": number, "ids": [bos, *document[start : start + size], eos]}
        for number, document in enumerate(tokenized_docs)
        for start in range(0, len(document), size)
    ]
