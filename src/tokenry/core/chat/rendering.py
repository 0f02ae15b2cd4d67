"""A sample as text: the text that a chat template renders, the characters that are learned, and what the template omits.

Turns are found by generation markers in the template, otherwise by rendering the conversation up to and including each turn and
checking that the whole begins with it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from tokenry.core.chat.omissions import omitted_parts
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
class Omission:
    """What a template omits, in words, and its message; `unmarked` if it is rendered but not marked as learned."""

    what: str
    message: int | None = None
    unmarked: bool = False


@dataclass(frozen=True)
class LearnedSpan:
    """Characters that are learned, and their weight."""

    start: int
    end: int
    weight: float = 1.0


@dataclass(frozen=True)
class RenderedSample:
    """A sample as text.

    Attributes:
        text: the whole text.
        learned: the characters that are learned.
        spans: the spans of the sample, in characters of the text.
        omitted: parts that are not in the text or, for the assistant's words, not in the learned characters.
        hides_reasoning: whether the template omits the reasoning of a turn that is only context.
    """

    text: str
    learned: tuple[LearnedSpan, ...]
    spans: tuple[Span, ...] = ()
    omitted: tuple[Omission, ...] = ()
    hides_reasoning: bool = False


class BeginsWithAssistantError(ValueError):
    """The conversation begins with the assistant, and the template cannot render that."""


def render_text(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> RenderedSample:
    """Render a prompt and its completion, or a text, between BOS and EOS (unless the text already contains them)."""
    bos = tokenizer.bos_token if adds_bos(tokenizer) else ""
    completion = str(sample.completion)
    prompt = str(sample.prompt)
    has_bos = bool(bos) and (prompt or completion).lstrip().startswith(bos)
    begin = ("" if has_bos else bos) + prompt
    end = tokenizer.eos_token or ""
    has_end = bool(end) and completion.rstrip().endswith(end)
    text = begin + completion + ("" if has_end else end)
    # Text without a prompt is learned from its beginning; BOS is the first token, which no model predicts.
    start = len(begin) if prompt else 0
    spans = tuple(Span(len(begin) + span.start, len(begin) + span.end, span.name) for span in sample.spans)
    return RenderedSample(text, (LearnedSpan(start, len(text)),), spans)


@dataclass(frozen=True)
class ConversationRenderer:
    """Renders conversations with one chat template.

    Args:
        tokenizer: tokenizer whose special tokens the text contains.
        chat_template: as for `training_template`.
        with_tools: whether the conversations have tools.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template: str | None = None
    with_tools: bool = False

    @property
    def name(self) -> str:
        """The template's name for errors."""
        return template_name(self.tokenizer, self.chat_template)

    @cached_property
    def template(self) -> str:
        """The template itself."""
        return training_template(self.tokenizer, self.chat_template, self.with_tools)

    def render(self, sample: Sample, number: int | str) -> RenderedSample:
        """Render a conversation.

        Args:
            sample: a sample with messages.
            number: its number or name, for errors.

        Raises:
            UserError: the template refuses it, or hides where the assistant speaks.
            BeginsWithAssistantError: it begins with the assistant, and the template cannot render that.
        """
        messages = [self._as_called(message) for message in sample.messages or ()]
        weights = _learned_turns(sample)
        conversation = _Conversation(
            messages, weights, sample.template_options, self.template, self.tokenizer, number
        )
        try:
            text, stretches = conversation.find()
            omitted = tuple(conversation.omissions(text, stretches))
        except CannotRenderError as error:
            if next(message["role"] for message in messages if message["role"] != "system") == "assistant":
                raise BeginsWithAssistantError from error
            raise UserError(f"sample {number} cannot be written with the chat template: {error}") from error
        spans: tuple[Span, ...] = ()
        last = max(place for place, message in enumerate(messages) if message["role"] == "assistant")
        if sample.spans and last in weights:
            start = next(start for place, start, _ in stretches if place == last)
            spans = _placed(sample.spans, messages[last].get("content", ""), text, start, number)
        return RenderedSample(
            text,
            tuple(LearnedSpan(start, end, weights[place]) for place, start, end in stretches),
            spans,
            tuple(omission for omission in omitted if omission != HIDDEN_REASONING),
            HIDDEN_REASONING in omitted,
        )

    def _as_called(self, message: Message) -> Message:
        """Convert the arguments of tool calls to the form that the template renders as data, not as a string inside a string."""
        if not self._arguments_form or not message.get("tool_calls"):
            return message
        return {
            **message,
            "tool_calls": [_with_arguments(call, self._arguments_form) for call in message["tool_calls"]],
        }

    @cached_property
    def _arguments_form(self) -> type | None:
        """`dict` or `str` if the template renders arguments correctly in that form only; None if it renders both."""
        rendered: dict[type, str | None] = {}
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
                rendered[form] = text
        return next(iter(rendered)) if len(rendered) == 1 else None


def _with_arguments(call: Mapping[str, Any], form: type) -> dict[str, Any]:
    function = call.get("function")
    holder = dict(function if isinstance(function, Mapping) else call)
    arguments = holder.get("arguments")
    if form is dict and isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except (
            json.JSONDecodeError
        ):  # malformed arguments are learned as they are: what follows them may matter
            parsed = arguments
        holder["arguments"] = parsed if isinstance(parsed, dict) else arguments
    if form is str and isinstance(arguments, Mapping):
        holder["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": holder} if isinstance(function, Mapping) else holder


def _learned_turns(sample: Sample) -> dict[int, float]:
    """The weights of the learned assistant turns by place; a turn of weight 0 is only context."""
    first = len(sample.prompt)
    weights = {}
    for place, message in enumerate(sample.completion):
        weight = sample.turn_weights[place] if sample.turn_weights else None
        weight = 1.0 if weight is None else weight
        if isinstance(message, Mapping) and message["role"] == "assistant" and weight > 0:
            weights[first + place] = weight
    return weights


_Found = list[tuple[int, int, int]]
"""Learned characters: place of the turn, start and end."""

HIDDEN_REASONING = Omission("the reasoning of a turn that is only context")


@dataclass(frozen=True)
class _Conversation:
    messages: Sequence[Message]
    weights: Mapping[int, float]
    options: Mapping[str, Any]
    template: str
    tokenizer: PreTrainedTokenizerBase
    number: int | str

    def find(self) -> tuple[str, _Found]:
        """Render the conversation, and find the assistant's words in the turns that have a weight."""
        places = sorted(self.weights)
        if not places:
            return self._render(len(self.messages)), []
        return self._find_marked(places) if has_markers(self.template) else self._find_unmarked(places)

    def _find_unmarked(self, places: list[int]) -> tuple[str, _Found]:
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
        """`find` with a template that marks the assistant's words; a turn may be marked in several pieces."""
        text, marks = render_marked(self.messages, self.template, self.tokenizer, **self.options)
        last = self._marks_before(places[-1])
        if last >= len(marks):
            raise UserError(
                f"sample {self.number}: the chat template marks no part of message {places[-1] + 1} with {{% generation %}}, so "
                "there is nothing to learn: correct the template."
            )
        said = [place for place, message in enumerate(self.messages) if message["role"] == "assistant"]
        if said[-len(places) :] == places and len(set(self.weights.values())) == 1:
            # All turns from the first on have the same weight: only the first and the last must be located.
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

    def omissions(self, text: str, found: _Found) -> Iterator[Omission]:
        """The parts of the conversation that are missing from the text, and of learned turns from the learned characters."""
        for name in ("tools", "documents"):
            if name in self.options and self._render(len(self.messages), without=name) == text:
                yield Omission(f"the column {name}")
        given = [place for place in range(len(self.messages)) if place not in self.weights]
        edges = [0, *(edge for _, start, end in found for edge in (start, end)), len(text)]
        outside = "\0".join(text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))
        for number, what in omitted_parts([self.messages[place] for place in given], outside, in_order=False):
            place = given[number]
            role = self.messages[place]["role"]
            yield (
                HIDDEN_REASONING
                if what == "reasoning"
                else Omission(f"{_OF_TURN[what]} of the {role}", place + 1)
            )
        for places, said in self._learned(text, found):
            for place, what in omitted_parts([self.messages[place] for place in places], said, in_order=True):
                message = self.messages[places[place]]
                unmarked = (0, what) not in omitted_parts([message], text, in_order=False)
                yield Omission(f"{_OF_TURN[what]} of the assistant", places[place] + 1, unmarked)

    def _learned(self, text: str, found: _Found) -> Iterator[tuple[list[int], str]]:
        """The learned characters by turn; all at once with markers, which do not belong to turns."""
        if has_markers(self.template):
            yield sorted(self.weights), "\0".join(text[start:end] for _, start, end in found)
        else:
            yield from (([place], text[start:end]) for place, start, end in found)


_OF_TURN = {"reasoning": "the reasoning", "content": "the content", "tool calls": "the tool calls"}


def _placed(
    spans: Sequence[Span], content: str, text: str, start: int, number: int | str
) -> tuple[Span, ...]:
    """Move spans from the answer's content to the text, where the template may have stripped white space."""
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
