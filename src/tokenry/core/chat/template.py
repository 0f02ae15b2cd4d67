"""Chat templates: which one a training run uses, where the assistant speaks, and which tokens are content.

`training_template` chooses the template, `render` and `render_marked` render a conversation as text. `content_mask` separates
content from the template around it, for the sink-aware attention score: attention to `<|im_start|>user` says nothing about
the question.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tokenry.core.errors import UserError

OPEN_INSTRUCT = "open-instruct"

# A header line before each turn, every content stripped, EOS after an answer, nothing after the last turn.
# The text between the generation markers is learned: the answer, its EOS, and the line break before another turn.
OPEN_INSTRUCT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('the open-instruct template knows the roles system, user and assistant, not ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% set after = '' if loop.last and not add_generation_prompt else '\\n' %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'].strip() + eos_token + after }}{% endgeneration %}"
    "{% else %}{{ message['content'].strip() + after }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PLACEHOLDERS = {"system": "qzsystemzq", "user": "qzuserzq", "assistant": "qzassistantzq"}


class CannotRenderError(ValueError):
    """The template refuses a conversation; the message is the template's own."""


def training_template(
    tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None, with_tools: bool = False
) -> str:
    """Choose the chat template that renders conversations for training.

    Args:
        tokenizer: tokenizer whose own template is the default.
        chat_template: `open-instruct`, the path of a jinja file, or a template itself.
        with_tools: whether conversations have tools, for which some tokenizers have a separate template.

    Returns:
        A template that shows where the assistant speaks: by generation markers, or by never rewriting earlier turns.
        If the tokenizer's own template does neither and TRL has a training form of it, that form.

    Raises:
        UserError: no template, an unreadable one, or one that hides where the assistant speaks.
    """
    if chat_template is not None:
        template = _given_template(chat_template, tokenizer)
    elif tokenizer.chat_template:
        template = tokenizer.get_chat_template(tools=[] if with_tools else None)
    else:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template, which conversations need: choose an "
            f"instruct model, or pass --chat-template {OPEN_INSTRUCT} (or a jinja file)."
        )
    shows = _shows_turns(template, tokenizer)
    if shows and _keeps_reasoning(template, tokenizer):
        return template
    known = None if chat_template is not None else _training_form_known_to_trl(tokenizer)
    if known is None and not shows:
        raise UserError(
            "the chat template rewrites earlier turns (it may drop their reasoning), so the places where the assistant speaks cannot "
            "be told: pass --chat-template with a jinja file that has {% generation %} markers around them."
        )
    return known or template


def template_name(tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> str:
    """The name of `training_template`'s choice, for errors."""
    if chat_template is None:
        return f"the chat template of {tokenizer.name_or_path or 'this tokenizer'}"
    is_template = "{{" in chat_template or "{%" in chat_template
    return "the chat template that was passed" if is_template else f"the chat template {chat_template}"


def has_markers(template: str) -> bool:
    """Whether a template marks the assistant's words with `{% generation %}`."""
    return _MARKERS.search(template) is not None


def answer_start(before: str, prompted: str, through: str) -> int | None:
    """Find where an answer begins in a conversation that ends with it.

    Args:
        before: the conversation before the answer.
        prompted: the same with a generation prompt.
        through: the conversation with the answer.

    Returns:
        The place of its first character; None if the template rewrites earlier turns.
    """
    if through.startswith(prompted):
        return len(prompted)
    # A generation prompt may open something that the answer lacks (`<think>`): then only their common part is not learned.
    if not (through.startswith(before) and prompted.startswith(before)):
        return None
    added = zip(prompted[len(before) :], through[len(before) :], strict=False)
    return len(before) + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], added))


def render(
    messages: Sequence[Mapping[str, Any]],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool = False,
    **options: Any,
) -> str:
    """Render a conversation as text; `options` are further arguments of the template (`tools`, `enable_thinking`, …).

    Raises:
        CannotRenderError: the template refuses it.
    """
    return _render(messages, template, tokenizer, add_generation_prompt=add_generation_prompt, **options)[0]


def render_marked(
    messages: Sequence[Mapping[str, Any]],
    template: str,
    tokenizer: PreTrainedTokenizerBase,
    add_generation_prompt: bool = False,
    **options: Any,
) -> tuple[str, list[tuple[int, int]]]:
    """Render a conversation as text, with the character ranges inside the template's generation markers.

    Raises:
        CannotRenderError: the template refuses it.
    """
    return _render(
        messages,
        template,
        tokenizer,
        add_generation_prompt=add_generation_prompt,
        return_assistant_tokens_mask=True,
        **options,
    )


def require_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `UserError` unless the tokenizer can map tokens to characters."""
    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} cannot tell which characters a token stands for: load the fast tokenizer of this model "
            "(one with a tokenizer.json)."
        )


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer begins every text with its BOS token."""
    return tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]


def template_pieces(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], ...]:
    """Collect the token sequences that a chat template puts around contents, longest first, and single special tokens.

    A default system prompt of the template is among the pieces. Without a template: the special tokens.
    """
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    pieces: set[tuple[int, ...]] = {(token,) for token in special | set(tokenizer.all_special_ids)}
    pieces |= {piece for piece in _literal_pieces(tokenizer) if len(piece) > 1}
    return tuple(sorted(pieces, key=lambda piece: (-len(piece), piece)))


def content_mask(
    input_ids: Int[Tensor, "batch seq"], pieces: tuple[tuple[int, ...], ...]
) -> Bool[Tensor, "batch seq"]:
    """Mark the tokens that are content: not part of any piece of the template.

    Args:
        input_ids: token ids, padded or packed in any way.
        pieces: from `template_pieces`.
    """
    single = torch.tensor([piece[0] for piece in pieces if len(piece) == 1], device=input_ids.device)
    template = torch.isin(input_ids, single)
    length = input_ids.shape[1]
    for piece in pieces:
        if not 1 < len(piece) <= length:
            continue
        windows = input_ids.unfold(1, len(piece), 1)
        begins = (windows == input_ids.new_tensor(piece)).all(-1)
        # A token is covered when the piece begins at it or up to `len(piece) - 1` tokens before it.
        reach = len(piece) - 1
        padded = functional.pad(begins.float(), (reach, reach))
        template |= functional.max_pool1d(padded, len(piece), stride=1).bool()
    return ~template


def _given_template(chat_template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if chat_template == OPEN_INSTRUCT:
        # Conversations are tokenised without special tokens, so the template itself begins with BOS if texts do.
        return ("{{ bos_token }}" if adds_bos(tokenizer) else "") + OPEN_INSTRUCT_TEMPLATE
    if "{{" in chat_template or "{%" in chat_template:
        return chat_template
    path = Path(chat_template).expanduser()
    if not path.is_file():
        raise UserError(
            f"the chat template {chat_template} is neither a file nor {OPEN_INSTRUCT}: give the path of a jinja file."
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"the chat template {chat_template} is not a text file in UTF-8.") from error


def _render(
    messages: Sequence[Mapping[str, Any]], template: str, tokenizer: PreTrainedTokenizerBase, **options: Any
) -> tuple[str, list[tuple[int, int]]]:
    try:
        texts, marked = render_jinja_template(
            [[dict(message) for message in messages]],
            chat_template=template,
            **{**tokenizer.special_tokens_map, **options},
        )
    except Exception as error:  # a template is a program: it fails in any way a program can
        raise CannotRenderError(" ".join(str(error).split()) or type(error).__name__) from error
    return texts[0], marked[0] if marked else []


def _shows_turns(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a template marks the assistant's words, or renders every prefix as in the whole; tried on two turns."""
    asked, said = ({"role": role, "content": _PLACEHOLDERS[role]} for role in ("user", "assistant"))
    conversation = [asked, said, asked, said]
    try:
        whole = render(conversation, template, tokenizer)
        first = render(conversation[:2], template, tokenizer)
        starts = [
            answer_start(
                render(conversation[:length], template, tokenizer),
                render(conversation[:length], template, tokenizer, add_generation_prompt=True),
                whole,
            )
            for length in (1, 3)
        ]
    except CannotRenderError as error:
        raise UserError(f"the chat template cannot write a conversation: {error}") from error
    if any(whole.count(message["content"]) != 2 for message in (asked, said)):
        raise UserError(
            "the chat template does not write the contents of the messages (it may be one for images): pass another --chat-template."
        )
    return has_markers(template) or (whole.startswith(first) and None not in starts)


def _keeps_reasoning(template: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a template renders the reasoning of every answer whose content holds it in `<think>`."""
    asked = {"role": "user", "content": _PLACEHOLDERS["user"]}
    said = {
        "role": "assistant",
        "content": f"<think>\n{_PLACEHOLDERS['system']}\n</think>\n\n{_PLACEHOLDERS['assistant']}",
    }
    try:
        return render([asked, said, asked, said], template, tokenizer).count(_PLACEHOLDERS["system"]) == 2
    except CannotRenderError:
        return False


def _training_form_known_to_trl(tokenizer: PreTrainedTokenizerBase) -> str | None:
    try:
        from trl.chat_template_utils import get_training_chat_template

        return get_training_chat_template(tokenizer)
    except (ImportError, ValueError):  # another version of TRL, or a template it does not know
        return None


def _literal_pieces(tokenizer: PreTrainedTokenizerBase) -> set[tuple[int, ...]]:
    """Render conversations of placeholders and keep the tokens that the template put between them."""
    if not tokenizer.chat_template:
        return set()
    require_fast(tokenizer)
    template = tokenizer.get_chat_template()
    system, user, assistant = (
        {"role": role, "content": placeholder} for role, placeholder in _PLACEHOLDERS.items()
    )
    pieces: set[tuple[int, ...]] = set()
    for conversation in ([user, assistant, user], [system, user, assistant, user, assistant]):
        for length in range(1, len(conversation) + 1):
            for prompted in (False, True):
                try:
                    text = render(conversation[:length], template, tokenizer, prompted)
                except CannotRenderError:  # no system turn, or no answer to an answer, in this template
                    continue
                pieces |= _pieces_of_text(text, tokenizer)
    return pieces


def _pieces_of_text(text: str, tokenizer: PreTrainedTokenizerBase) -> set[tuple[int, ...]]:
    # Tokenised as a whole: a piece on its own may be cut differently.
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
    contents = [match.span() for match in re.finditer("|".join(_PLACEHOLDERS.values()), text)]
    edges = [0, *(edge for content in contents for edge in content), len(text)]
    pieces = set()
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        inside = [
            (token, text[start:stop]) for token, (start, stop) in tokens if begin <= start < stop <= end
        ]
        # White space at an edge may join a content that ends in punctuation, so pieces are also kept without it.
        bare = [number for number, (_, piece) in enumerate(inside) if not piece.isspace()]
        if bare:
            firsts, lasts = {0, bare[0]}, {len(inside), bare[-1] + 1}
            pieces |= {tuple(token for token, _ in inside[first:last]) for first in firsts for last in lasts}
    return pieces
