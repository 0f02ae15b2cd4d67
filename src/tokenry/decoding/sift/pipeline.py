"""SIFT: a model notes what a question states and asks, and answers from the note alone and from both; equal answers are accepted.

    S = SG(Q)                                the sticker: numbered conditions and a question
    P_S = LLM(S), P_QS = LLM(Q, S)           equal answers: accepted, and the answer is that of P_QS       stage 1
    S = FO(Q, S), predictions anew           the sticker corrected against the question                    stage 2
    S = FO(Q, IG(P_QS)), predictions anew    the sticker behind the reasoning, corrected                   stage 3
    P_Q = LLM(Q)                             the question alone                                            stage 0

    calls = 3 + P(unequal after 1) * 3 + P(unequal after 2) * 4 + P(unequal at the end)

All questions that wait for the same thing are asked together, so a stage is one batch and only what is unequal goes on; plain answers come
last. Questions are told apart by their place, so one may stand among them several times.

Source: SIFT: Grounding LLM Reasoning in Contexts via Stickers (arXiv 2502.14922); zhijie-group/SIFT at 5b28463. There the answer that is
counted is that of P_S, and two missing answers are equal (`math_v2_answer`, `math_v2_equal`); here they are not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress, in_turn
from tokenry.core.text.answers import equal_answers, final_answer
from tokenry.decoding.sift.config import SIFTConfig
from tokenry.decoding.sift.prompts import DEFAULT_PROMPTS, ROLES, SIFTPrompts
from tokenry.decoding.sift.question import PLAIN, QuestionCourse
from tokenry.decoding.sift.results import AnswerReading, Equivalent, Extract, SIFTCall, SIFTResult
from tokenry.decoding.sift.writer import Ask, Backend, Writer
from tokenry.models.text_model import Sampling

MAX_NEW_TOKENS = 1024
ONCE = Sampling(MAX_NEW_TOKENS, log_probs=False)
"""Greedy, as SIFT writes."""
VOTED = Sampling(MAX_NEW_TOKENS, temperature=0.6, top_p=0.9, log_probs=False)
"""How texts are sampled that are voted on."""


class SIFT:
    """The pipeline around one model.

    Args:
        backend: text model (`LocalText`, `Endpoint`), or a function from texts to as many texts.
        config: how far a question goes; by default through all stages.
        prompts: what is asked in each role.
        sampling: how texts are written; greedy by default.
        extract: finds the answer in a text; None where there is none.
        equivalent: whether two answers are the same. `equal_answers` compares numbers by value, and a missing answer equals none.

    Raises:
        UserError: consistency without sampling.
    """

    def __init__(
        self,
        backend: Backend,
        config: SIFTConfig | None = None,
        *,
        prompts: SIFTPrompts = DEFAULT_PROMPTS,
        sampling: Sampling = ONCE,
        extract: Extract = final_answer,
        equivalent: Equivalent = equal_answers,
    ) -> None:
        self.backend, self.config, self.prompts, self.sampling = (
            backend,
            config or SIFTConfig(),
            prompts,
            sampling,
        )
        self.reading = AnswerReading(extract, equivalent)
        if self.config.consistency != "none" and not sampling.temperature:
            raise UserError(
                f"consistency={self.config.consistency!r} votes on samples, and at temperature 0 they are all the same: raise the temperature "
                "(0.6 with top_p 0.9 in the paper)."
            )

    def run(self, queries: Sequence[str], progress: Progress = lambda what, share: None) -> list[SIFTResult]:
        """Answer questions, in their order.

        A text that could not be written ends the stages of its question, which is then answered plainly.

        Raises:
            UserError: an empty question, one too long for the model, a backend that returns another number of texts, or nothing can be
                written at all.
        """
        _require_queries(queries)
        writer = Writer(self.backend, self.config.max_calls, self.config.max_tokens)
        if self.config.consistency != "sift":
            return self._run(queries, self.sampling, writer, progress)
        seed, runs = self.sampling.seed, []
        for number, stage in in_turn(range(self.config.samples), progress):
            sampling = replace(self.sampling, seed=None if seed is None else seed + number)
            runs.append(self._run(queries, sampling, writer, stage))
        return [self._voted(results) for results in zip(*runs, strict=True)]

    def _run(
        self, queries: Sequence[str], sampling: Sampling, writer: Writer, progress: Progress
    ) -> list[SIFTResult]:
        programs = [
            QuestionCourse(number, query, self.config, self.prompts, self.reading).follow()
            for number, query in enumerate(queries)
        ]
        waiting = {number: next(program) for number, program in enumerate(programs)}
        results: dict[int, SIFTResult] = {}
        config, turns = self.config, 0
        most = (
            3
            + 2 * config.repeats[0] * (config.max_stage > 1)
            + 3 * config.repeats[1] * (config.max_stage > 2)
        )
        while waiting:
            turn = min(request.turn for request in waiting.values())
            requests = {number: request for number, request in waiting.items() if request.turn == turn}
            asks = [ask for request in requests.values() for ask in request.asks]
            samples = next(iter(requests.values())).samples
            progress(f"stage {turn.stage % PLAIN}: {ROLES[asks[0].role]}", turns / most)
            turns += 1
            texts = iter(writer.write(asks, replace(sampling, samples=samples)))
            for number, request in requests.items():
                written = [text for _ in request.asks for text in next(texts)]
                try:
                    waiting[number] = programs[number].send(written)
                except StopIteration as finished:
                    results[number] = finished.value
                    del waiting[number]
        return [results[number] for number in range(len(queries))]

    def _voted(self, results: Sequence[SIFTResult]) -> SIFTResult:
        """Of several runs with one question, the first with the answer of most; with the calls of all."""
        voted = self.reading.majority([result.text for result in results])
        first = next(result for result in results if result.text == voted.text)
        return replace(first, calls=tuple(call for result in results for call in result.calls))


def self_consistency(
    backend: Backend,
    queries: Sequence[str],
    samples: int | Sequence[int],
    *,
    prompts: SIFTPrompts = DEFAULT_PROMPTS,
    sampling: Sampling = VOTED,
    extract: Extract = final_answer,
    equivalent: Equivalent = equal_answers,
) -> list[SIFTResult]:
    """Answer questions plainly several times and vote: what as many calls do without stickers.

    Args:
        backend: as for `SIFT`, like all that follows but `samples`.
        samples: number of answers, to all questions or to each: `[len(result.calls) for result in sift.run(queries)]`.
        prompts: what is asked.
        sampling: how answers are written.
        extract: finds the answer in a text.
        equivalent: whether two answers are the same.
    """
    _require_queries(queries)
    counts = [samples] * len(queries) if isinstance(samples, int) else list(samples)
    if len(counts) != len(queries) or min(counts, default=1) < 1:
        raise UserError(
            f"samples must be a number of at least 1, or one for each of the {len(queries)} questions, got {samples}."
        )
    asks = [Ask(number, "P_Q", prompts.prompt("P_Q", query)) for number, query in enumerate(queries)]
    writer, reading = Writer(backend), AnswerReading(extract, equivalent)

    def voted() -> Iterator[tuple[int, SIFTResult]]:
        for count in sorted(set(counts)):
            group = [ask for ask in asks if counts[ask.question] == count]
            written = writer.write(group, replace(sampling, samples=count))
            for ask, texts in zip(group, written, strict=True):
                there = [text for text in texts if not text.failure]
                failure = next((text.failure for text in texts if text.failure), "")
                calls = tuple(
                    SIFTCall("P_Q", 0, text.prompt_tokens, text.completion_tokens) for text in there
                )
                answered = reading.majority([text.text for text in there or texts])
                yield ask.question, SIFTResult(*answered, 0, (), (), calls, failure)

    results = dict(voted())
    return [results[number] for number in range(len(queries))]


def _require_queries(queries: Sequence[str]) -> None:
    for number, query in enumerate(queries):
        if not query.strip():
            raise UserError(f"question {number} is empty: leave it out.")
