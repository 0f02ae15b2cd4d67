"""Two reasoning models that answer mathematical problems, for R2R at the scale of its paper; needs GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from datasets import load_dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.io.progress import Progress
from tokenry.core.tensors.generation import Continuation, continue_prompts, greedy_config
from tokenry.core.tensors.step_loop import Decoder, TokenByToken
from tokenry.core.text.answers import equal_answers, final_answer
from tokenry.decoding import (
    JudgeVerifier,
    RoutedDecoding,
    RouterTrainingConfig,
    TokenRouter,
    fit_router,
    label_responses,
    write_responses,
)
from tokenry.decoding.r2r import LabelledTokens, RouterReport, RoutingRule
from tokenry.decoding.r2r.labelling import THINK, THINK_END
from tokenry.models import LocalText, load_model, load_tokenizer, preferred_device

INSTRUCTION = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."


class ExamProblem(NamedTuple):
    """A prompt, and the right answer where it is known."""

    prompt_ids: Sequence[int]
    answer: str = ""


@dataclass(frozen=True)
class ReasoningPair:
    """What answers what.

    Attributes:
        small: the small model, with the tokenizer of the large one.
        judge: model that judges whether a token changes the meaning of its sentence.
        queries: conversations whose first turns are answered and labelled.
        exams: data sets with columns `problem` and `answer`, and their splits.
        batch_size: number of texts at once.
        max_new_tokens: maximum number of tokens of an answer.
    """

    small: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    large: str = "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
    judge: str = "Qwen/Qwen2.5-72B-Instruct"
    queries: str = "bespokelabs/Bespoke-Stratos-17k"
    exams: tuple[tuple[str, str], ...] = (("HuggingFaceH4/aime_2024", "train"), ("math-ai/aime25", "test"))
    batch_size: int = 8
    max_new_tokens: int = 32_768

    def prepared(self, seed: int, progress: Progress) -> "ReasoningRouting":
        """Load both models; nothing is trained."""
        models = {}
        for place, name in enumerate((self.small, self.large)):
            progress(f"loading {name}", place / 2)
            models[name] = load_model(name, torch.bfloat16).to(preferred_device()).eval()
        tokenizers = load_tokenizer(self.small), load_tokenizer(self.large)
        return ReasoningRouting(self, models[self.small], models[self.large], tokenizers)


@dataclass(frozen=True)
class ReasoningRouting:
    """Two loaded models with all that a recipe of routing does with them."""

    pair: ReasoningPair
    small: PreTrainedModel
    large: PreTrainedModel
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]

    def problems(self, numbers: Sequence[int], seed: int) -> list[list[ExamProblem]]:
        """Queries to label and, after them, to set thresholds with, in a random order; problems of the exams to measure."""
        labelled, calibrated, measured = numbers
        rows = load_dataset(self.pair.queries, split="train").shuffle(seed=seed)
        asked = [row["conversations"][0]["value"] for row in rows.take(labelled + calibrated)]
        queries = [self._problem(query) for query in asked]
        exams = [row for name, split in self.pair.exams for row in load_dataset(name, split=split)]
        exam = [self._problem(row["problem"], str(row["answer"])) for row in exams[:measured]]
        return [queries[:labelled], queries[labelled:], exam]

    def labelled(self, problems: Sequence[ExamProblem]) -> LabelledTokens:
        """The tokens of the large model's answers, divergent where a judge finds that the small model's own changes what is meant."""
        tokenizer, batch_size = self.tokenizers[1], self.pair.batch_size
        prompts = [problem.prompt_ids for problem in problems]
        responses = write_responses(self.large, tokenizer, prompts, self.pair.max_new_tokens, batch_size)
        judge = load_model(self.pair.judge, torch.bfloat16, device_map="auto").eval()
        verifier = JudgeVerifier(
            LocalText(judge, load_tokenizer(self.pair.judge), name=self.pair.judge),
            tokenizer,
            (THINK, THINK_END),
        )
        answers = list(responses.values())
        return label_responses(self.small, self.large, tokenizer, answers, verifier, batch_size=batch_size)[0]

    def router(
        self, tokens: LabelledTokens, labels: Tensor, epochs: int, seed: int
    ) -> tuple[TokenRouter, RouterReport]:
        """A router of the paper's size that learns one kind of labels of the tokens, and how its training went."""
        torch.manual_seed(seed)
        router = TokenRouter.from_small_model(self.small)
        return fit_router(router, tokens.features, labels, RouterTrainingConfig(epochs=epochs, seed=seed))

    def decoding(
        self, rule: RoutingRule, threshold: float | None = None, rate: float | None = None
    ) -> RoutedDecoding:
        """Both models together, by a rule with a threshold or a rate; only their embeddings are padded differently."""
        return RoutedDecoding(
            self.small, self.large, rule, threshold=threshold, rate=rate, tokenizers=self.tokenizers
        )

    def answers(
        self, model: PreTrainedModel, problems: Sequence[ExamProblem], decoder: Decoder | None = None
    ) -> list[Continuation]:
        """Greedy answers."""
        config = greedy_config(model, self.tokenizers[0], self.pair.max_new_tokens)
        prompts = [problem.prompt_ids for problem in problems]
        return continue_prompts(model, prompts, config, self.pair.batch_size, decoder or TokenByToken())

    def is_right(self, problem: ExamProblem, answer: Continuation) -> bool:
        """Whether the final answer is the problem's."""
        text = self.tokenizers[0].decode(list(answer.token_ids), skip_special_tokens=True)
        return equal_answers(final_answer(text), problem.answer)

    def _problem(self, text: str, answer: str = "") -> ExamProblem:
        message = {"role": "user", "content": text if "\\boxed" in text else text + INSTRUCTION}
        ids = self.tokenizers[0].apply_chat_template([message], add_generation_prompt=True, return_dict=True)
        return ExamProblem(ids["input_ids"], answer)
