"""A sample as text: what a chat template writes of it, which characters are learned, and what the template leaves out.

Turns are found by generation markers in the template, else by writing the conversation up to and including each turn and
checking that the whole begins with it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokenry.core.chat.coverage import left_out
from tokenry.core.chat.rows import Message, Sample, Span
from tokenry.core.chat.template import (
    CannotRenderError,
    adds_bos,
    answer_start,
    has_markers,
    render,
    render_marked,
    template_name,
    training_template,
)
from tokenry.core.errors import UserError


@dataclass(frozen=True)
class Loss:
    """What a template leaves out, in words, and the message that it belongs to; `unmarked` where it is only not learned."""

    what: str
    message: int | None = None
    unmarked: bool = False


@dataclass(frozen=True)
class Stretch:
    """Characters that are learned, and with what weight."""

    start: int
    end: int
    weight: float = 1.0


@dataclass(frozen=True)
class Written:
    """A sample as text.

    Attributes:
        text: all of it.
        learned: the characters that are learned.
        spans: the spans of the sample, in characters of the text.
        lost: what does not stand in the text, or, of the assistant's words, in what is learned.
        hides_reasoning: whether the template leaves out the reasoning of a turn that is given.
    """

    text: str
    learned: tuple[Stretch, ...]
    spans: tuple[Span, ...] = ()
    lost: tuple[Loss, ...] = ()
    hides_reasoning: bool = False


class BeginsWithAssistantError(ValueError):
    """The conversation begins with the assistant, and the template cannot write that."""


def write_text(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> Written:
    """Write a prompt and its completion, or a text: between BOS and EOS, which a text that was rendered already has."""
    bos = tokenizer.bos_token if adds_bos(tokenizer) else ""
    completion = str(sample.completion)
    prompt = str(sample.prompt)
    has_bos = bool(bos) and (prompt or completion).lstrip().startswith(bos)
    begin = ("" if has_bos else bos) + prompt
    end = tokenizer.eos_token or ""
    has_end = bool(end) and completion.rstrip().endswith(end)
    text = begin + completion + ("" if has_end else end)
    # Text without a prompt is learned from its beginning, BOS included: it is the first token, which no model predicts.
    start = len(begin) if prompt else 0
    spans = tuple(Span(len(begin) + span.start, len(begin) + span.end, span.name) for span in sample.spans)
    return Written(text, (Stretch(start, len(text)),), spans)


@dataclass(frozen=True)
class ConversationWriter:
    """Writes conversations with one chat template.

    Args:
        tokenizer: its special tokens are those of the text.
        chat_template: as for `training_template`.
        with_tools: whether the conversations have tools.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template: str | None = None
    with_tools: bool = False

    @property
    def name(self) -> str:
        """The template as the user knows it."""
        return template_name(self.tokenizer, self.chat_template)

    @cached_property
    def template(self) -> str:
        """The template itself."""
        return training_template(self.tokenizer, self.chat_template, self.with_tools)

    def write(self, sample: Sample, number: int | str) -> Written:
        """Write a conversation.

        Args:
            sample: with messages.
            number: its number or name, for errors.

        Raises:
            UserError: the template refuses it, or hides where the assistant speaks.
            BeginsWithAssistantError: it begins with the assistant, and the template cannot write that.
        """
        messages = [self._as_called(message) for message in sample.messages or ()]
        weights = _learned_turns(sample)
        conversation = _Conversation(
            messages, weights, sample.template_options, self.template, self.tokenizer, number
        )
        try:
            text, stretches = conversation.find()
            lost = tuple(conversation.losses(text, stretches))
        except CannotRenderError as error:
            if next(message["role"] for message in messages if message["role"] != "system") == "assistant":
                raise BeginsWithAssistantError from error
            raise UserError(f"sample {number} cannot be written with the chat template: {error}") from error
        spans: tuple[Span, ...] = ()
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        if sample.spans and last in weights:
            start = next(start for place, start, _ in stretches if place == last)
            spans = _placed(sample.spans, messages[last].get("content", ""), text, start, number)
        return Written(
            text,
            tuple(Stretch(start, end, weights[place]) for place, start, end in stretches),
            spans,
            tuple(loss for loss in lost if loss != HIDDEN),
            HIDDEN in lost,
        )

    def _as_called(self, message: Message) -> Message:
        """Give the arguments of tool calls in the form that the template writes as data, not as a text within a text."""
        if not self._arguments_form or not message.get("tool_calls"):
            return message
        return {
            **message,
            "tool_calls": [_with_arguments(call, self._arguments_form) for call in message["tool_calls"]],
        }

    @cached_property
    def _arguments_form(self) -> type | None:
        """`dict` or `str` where the template does well with arguments in that form only; None where both will do."""
        written: dict[type, str | None] = {}
        for form, arguments in ((dict, {"qzkeyzq": "qzvaluezq"}), (str, '{"qzkeyzq": "qzvaluezq"}')):
            call = {
                "type": "function",
                "id": "qzidzq123",
                "function": {"name": "qznamezq", "arguments": arguments},
            }
            messages: list[Message] = [
                {"role": "user", "content": "qzuserzq"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
            try:
                text = render(messages, self.template, self.tokenizer)
            except CannotRenderError:
                continue
            if "qzvaluezq" in text and '\\"qzkeyzq' not in text:
                written[form] = text
        return next(iter(written)) if len(written) == 1 else None


def _with_arguments(call: Mapping[str, Any], form: type) -> dict[str, Any]:
    function = call.get("function")
    holder = dict(function if isinstance(function, Mapping) else call)
    arguments = holder.get("arguments")
    if form is dict and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except json.JSONDecodeError:  # learned as it is: a model may have to learn what comes of it
            parsed = arguments
        holder["arguments"] = parsed if isinstance(parsed, dict) else arguments
    if form is str and isinstance(arguments, Mapping):
        holder["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": holder} if isinstance(function, Mapping) else holder


def _learned_turns(sample: Sample) -> dict[int, float]:
    """The places of the assistant turns that are learned, with their weights; a weight of 0 is a turn that is given."""
    first = len(sample.prompt)
    weights = {}
    for place, message in enumerate(sample.completion):
        weight = sample.turn_weights[place] if sample.turn_weights else None
        weight = 1.0 if weight is None else weight
        if isinstance(message, Mapping) and message["role"] == "assistant" and weight > 0:
            weights[first + place] = weight
    return weights


_Found = list[tuple[int, int, int]]
"""Stretches of learned characters: the place of the turn, start and end."""

HIDDEN = Loss("the reasoning of a turn that is given")


@dataclass(frozen=True)
class _Conversation:
    messages: Sequence[Message]
    weights: Mapping[int, float]
    options: Mapping[str, Any]
    template: str
    tokenizer: PreTrainedTokenizerBase
    number: int | str

    def find(self) -> tuple[str, _Found]:
        """Write the conversation, and find what the assistant says in the turns that have a weight."""
        places = sorted(self.weights)
        if not places:
            return self._render(len(self.messages)), []
        return self._find_marked(places) if has_markers(self.template) else self._find_written(places)

    def _find_written(self, places: list[int]) -> tuple[str, _Found]:
        if places[0] == 0:
            raise BeginsWithAssistantError
        text = self._render(len(self.messages))
        found = []
        for place in places:
            through, prompted = self._render(place + 1), self._render(place, prompted=True)
            start: int | None = len(prompted)
            if not through.startswith(prompted):
                start = answer_start(self._render(place), prompted, through)
            if start is None or not text.startswith(through):
                raise UserError(
                    f"sample {self.number}: the chat template writes message {place + 1} otherwise when more follows, so the place "
                    "where the assistant speaks cannot be told: pass --chat-template with a jinja file that has "
                    "{% generation %} markers."
                )
            found.append((place, start, len(through)))
        return text, found

    def _find_marked(self, places: list[int]) -> tuple[str, _Found]:
        """Do the same with a template that marks what the assistant says; a turn may be marked in several pieces."""
        text, marks = render_marked(self.messages, self.template, self.tokenizer, **self.options)
        last = self._marks_before(places[-1])
        if last >= len(marks):
            raise UserError(
                f"sample {self.number}: the chat template marks no part of message {places[-1] + 1} with {{% generation %}}, so "
                "there is nothing to learn: correct the template."
            )
        said = [place for place, message in enumerate(self.messages) if message["role"] == "assistant"]
        if said[-len(places) :] == places and len(set(self.weights.values())) == 1:
            # Every turn from the first on is learned alike: it is enough to know where the first and the last begin.
            first = self._marks_before(places[0])
            return text, [
                (places[0] if number < last else places[-1], *mark)
                for number, mark in enumerate(marks)
                if number >= first
            ]
        edges = [(place, self._marks_before(place), self._marks_before(place + 1)) for place in places]
        return text, [(place, *mark) for place, begin, end in edges for mark in marks[begin:end]]

    def _marks_before(self, place: int) -> int:
        earlier = self.messages[:place]
        if not any(message["role"] == "assistant" for message in earlier):
            return 0
        return len(
            render_marked(earlier, self.template, self.tokenizer, add_generation_prompt=True, **self.options)[
                1
            ]
        )

    def _render(self, length: int, prompted: bool = False, without: str = "") -> str:
        return render(
            self.messages[:length],
            self.template,
            self.tokenizer,
            add_generation_prompt=prompted,
            **{name: value for name, value in self.options.items() if name != without},
        )

    def losses(self, text: str, found: _Found) -> Iterator[Loss]:
        """What of the conversation does not stand in the text, or of a learned turn not in what is learned of it."""
        for name in ("tools", "documents"):
            if name in self.options and self._render(len(self.messages), without=name) == text:
                yield Loss(f"the column {name}")
        given = [place for place in range(len(self.messages)) if place not in self.weights]
        edges = [0, *(edge for _, start, end in found for edge in (start, end)), len(text)]
        outside = "\0".join(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))
        for number, what in left_out([self.messages[place] for place in given], outside, in_order=False):
            place = given[number]
            role = self.messages[place]["role"]
            yield HIDDEN if what == "reasoning" else Loss(f"{_OF_TURN[what]} of the {role}", place + 1)
        for places, said in self._learned(text, found):
            for place, what in left_out([self.messages[place] for place in places], said, in_order=True):
                message = self.messages[places[place]]
                unmarked = (0, what) not in left_out([message], text, in_order=False)
                yield Loss(f"{_OF_TURN[what]} of the assistant", places[place] + 1, unmarked)

    def _learned(self, text: str, found: _Found) -> Iterator[tuple[list[int], str]]:
        """What is learned, turn by turn; all at once where markers do not say to which turn they belong."""
        if has_markers(self.template):
            yield sorted(self.weights), "\0".join(text[start:end] for _, start, end in found)
        else:
            yield from (([place], text[start:end]) for place, start, end in found)


_OF_TURN = {"reasoning": "the reasoning", "content": "the content", "tool calls": "the tool calls"}


def _placed(
    spans: Sequence[Span], content: str, text: str, start: int, number: int | str
) -> tuple[Span, ...]:
    """Move spans from the answer's content to the text, of which the template may have stripped the white space."""
    bare = content.strip()
    found = text.find(bare, start)
    if found < 0:
        raise UserError(
            f"sample {number}: the chat template changes the answer, so its spans cannot be placed: remove them, or pass another "
            "--chat-template."
        )
    before = len(content) - len(content.lstrip())
    offset = found - before
    whole = text.startswith(content, max(offset, 0))
    low, high = (0, len(content)) if whole else (before, before + len(bare))
    placed = []
    for span in spans:
        begin, end = (offset + min(max(edge, low), high) for edge in (span.start, span.end))
        if begin < end or span.start == span.end:
            placed.append(Span(begin, end, span.name))
    return tuple(placed)
