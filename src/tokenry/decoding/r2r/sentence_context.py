"""The sentence in which two continuations part: stop tokens that end it, pieces of a text, and the context that both share.

    stop token      fewer than 5 characters, the last of them . 。 ! ！ ? ？ or a newline; no colon; no bracket or quote left open
    piece           a sentence of Punkt, cut again after each newline or pair of newlines; Chinese after 。！？；…
    common, latest  what stands before the piece that holds the token; this piece, the token marked as <<token>>

A branch is continued through two stop tokens and then cut by text, as Punkt sees an end of a sentence only if something follows it.

Source: R2R (arXiv 2505.21600), `generation_controller.py` and `convert_eos_tokens.py` of thu-nics/R2R.
"""

import re
from collections.abc import Collection, Sequence

from transformers import PreTrainedTokenizerBase

from tokenry.core.text.sentences import sentences

ENDS = ".。!！?？\n"
THINK = "<think>"
NO_SENTENCE = "EMPTY"
"""What a judge reads where the text ends before the sentence that was asked for."""

_PAIRS = dict(zip("([{<（【《〈\"'「『", ")]}>）】》〉\"'」』", strict=True))
_LONGEST = 4
_COLONS = (":", "：")
_LINES = re.compile(r"[^\n]*\n{1,2}|[^\n]+")
_CHINESE = re.compile("[一-鿿]")
_CHINESE_SENTENCE = re.compile("[^。！？；…]*[。！？；…]|[^。！？；…]+")


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, further: Sequence[str] = ()) -> list[int]:
    """Ids of the tokens of a vocabulary at which a sentence ends, in order.

    Args:
        tokenizer: tokenizer of both models.
        further: tokens that end a sentence whatever they look like, such as `<think>`.
    """
    texts = tokenizer.batch_decode([[token] for token in range(tokenizer.vocab_size)])
    found = {token for token, text in enumerate(texts) if is_stop_text(text)}
    return sorted(found | set(tokenizer.convert_tokens_to_ids(list(further))))


def is_stop_text(text: str) -> bool:
    """Whether a token with this text ends a sentence."""
    return 0 < len(text) <= _LONGEST and text[-1] in ENDS and is_valid_bracket_token(text)


def is_valid_bracket_token(text: str) -> bool:
    """Whether a token has no colon and leaves no bracket or quote open; a lone quote opens, so it is left open.

    Where something is opened, as many signs must close as open; where nothing is, any may close: `).` ends a sentence, `()).` does not.
    """
    if any(colon in text for colon in _COLONS):
        return False
    opening = [place for place, sign in enumerate(text) if sign in _PAIRS]
    closing = sum(sign in _PAIRS.values() for sign in text)
    closed = all(_PAIRS[text[place]] in text[place + 1 :] for place in opening)
    return closed and len(opening) in (0, closing)


def split_sentences(text: str) -> list[tuple[str, int, int]]:
    """Cut a text into pieces, each with the places of its first and last characters."""
    pieces = (
        piece for sentence in sentences(text) for part in _parts(sentence) for piece in _LINES.findall(part)
    )
    placed, start = [], 0
    for piece in pieces:
        first = text.index(piece, start)
        start = first + len(piece)
        placed.append((piece, first, start - 1))
    return placed


def _parts(sentence: str) -> list[str]:
    """The sentence itself, or the Chinese ones in it, without the white space and newlines around them, as released."""
    if not _CHINESE.search(sentence):
        return [sentence] if sentence.strip() else []
    bare = (part.strip() for part in _CHINESE_SENTENCE.findall(sentence))
    return [part for part in bare if part]


def sentence_context(
    context: str,
    token: str,
    continuation: str,
    is_next: bool = False,
    num_continuation: int = 1,
    previous_context: int = 0,
) -> tuple[str, str]:
    """Cut the sentence that holds a token out of a text, and what stands before it.

    Args:
        context: text before the token; only what follows its last `<think>` counts.
        token: text of the token, marked or not.
        continuation: text after the token.
        is_next: take the sentence after the token, as where the token ends a sentence and the one before it did so too.
        num_continuation: number of sentences, the one with the token included.
        previous_context: number of sentences before it that are compared too.

    Returns:
        The common context, and the sentences that are compared.
    """
    context = context.rpartition(THINK)[2]
    place = len(context) + token.startswith(" ") + (len(token) if is_next else 0)
    pieces = split_sentences(context + token + continuation)
    at = next((number for number, (_, first, last) in enumerate(pieces) if first <= place <= last), None)
    if at is None:
        return "", NO_SENTENCE
    start, end = max(0, at - previous_context), at + max(1, num_continuation)
    texts = [piece for piece, _, _ in pieces]
    return "".join(texts[:start]), "".join(texts[start:end])


def real_continuation(
    sequence: Sequence[int],
    index: int,
    stop_ids: Collection[int],
    end_id: int | None,
    max_new_tokens: int = 128,
    num_continuation: int | None = 1,
) -> list[int]:
    """What was written after the token at `index`, through a number of stop tokens.

    Args:
        sequence: prompt and answer.
        index: place of the token.
        stop_ids: tokens that end a sentence.
        end_id: token that ends an answer; it is no part of the continuation, and all of it where nothing follows.
        max_new_tokens: number of tokens after which it is cut off.
        num_continuation: number of stop tokens; None for the whole rest.
    """
    following = list(sequence[index + 1 : index + 1 + max_new_tokens])
    if num_continuation is not None:
        stops = [place for place, token in enumerate(following) if token in stop_ids]
        following = (
            following[: stops[num_continuation - 1] + 1] if len(stops) >= num_continuation else following
        )
    if not following:
        return [] if end_id is None else [end_id]
    return following[:-1] if following[-1] == end_id else following
