"""Two FLAN-T5 models that answer MNLI, for cascades at the scale of their paper; needs a GPU."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import load_dataset

from tokenry.core.io.progress import Progress
from tokenry.core.tensors.generation import right_padded
from tokenry.decoding import Examples, pad_logprobs, prompt_embeddings
from tokenry.decoding.cascades import array
from tokenry.models import LocalText, Sampling, load_model, load_tokenizer, preferred_device
from tokenry.recipes.testbeds.character_pair import AnsweredProblems

LABELS = ("yes", "it is not possible to tell", "no")
"""The answers to entailment, neutral and contradiction, of different lengths: length is not difficulty here."""
QUESTION = (
    "Premise: {premise}\n\nHypothesis: {hypothesis}\n\nDoes the premise entail the hypothesis?\n\n"
    "OPTIONS:\n" + "\n".join(f"- {label}" for label in LABELS)
)
"""A template that FLAN was trained with."""


@dataclass(frozen=True)
class InstructedPair:
    """What answers what.

    Attributes:
        small: the small model, an encoder-decoder as the large one.
        data: pairs of sentences with columns `premise`, `hypothesis` and `label`.
        batch_size: number of prompts that are answered at once.
        max_new_tokens: maximum number of tokens of an answer.
    """

    small: str = "google/flan-t5-base"
    large: str = "google/flan-t5-large"
    data: str = "nyu-mll/multi_nli"
    batch_size: int = 64
    max_new_tokens: int = 16

    def answered(self, number: int, seed: int, progress: Progress) -> AnsweredProblems:
        """Load both models, and let them answer as many questions in a random order."""
        rows = load_dataset(self.data, split="validation_matched").shuffle(seed=seed)
        rows = [row for row in rows.take(number) if row["label"] in range(len(LABELS))]
        prompts = [QUESTION.format(**row) for row in rows]
        texts, written = [], []
        for place, name in enumerate((self.small, self.large)):
            progress(f"{name} answers", 0.45 * place)
            model = load_model(name, torch.float32, encoder_decoder=True).to(preferred_device()).eval()
            texts.append(LocalText(model, load_tokenizer(name), batch_size=self.batch_size, name=name))
            written.append(texts[-1].generate(prompts, Sampling(self.max_new_tokens)))
        labels = [LABELS[row["label"]] for row in rows]
        q_small, q_large = (
            np.array([answer.text.strip().lower() == label for answer, label in zip(answers, labels, strict=True)], dtype=float)
            for answers in written
        )  # fmt: skip
        progress("embeddings", 0.9)
        embeddings = [
            _embedded(texts, prompts[start : start + self.batch_size])
            for start in range(0, len(prompts), self.batch_size)
        ]
        logprobs, mask = pad_logprobs([answer.log_probs or () for answer in written[0]])
        examples = Examples(logprobs, mask, q_small, q_large, array(torch.cat(embeddings)))
        return AnsweredProblems(examples, ["MNLI"] * len(rows))


def _embedded(texts: list[LocalText], prompts: list[str]) -> torch.Tensor:
    small, large = (text.model for text in texts)
    ids, real = right_padded(texts[0].tokenizer(prompts)["input_ids"], device=next(small.parameters()).device)
    return prompt_embeddings(small, large, ids, real.long()).cpu()
