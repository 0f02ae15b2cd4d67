"""A chat model that answers GSM8K, for SIFT at the scale of its paper; needs a GPU."""

from collections.abc import Callable
from dataclasses import dataclass

from datasets import load_dataset

from tokenry.decoding import SIFTPrompts
from tokenry.models import LocalText, load_model, load_tokenizer, preferred_device
from tokenry.recipes.testbeds.fact_reader import Exam


@dataclass(frozen=True)
class WordProblems:
    """What answers what.

    Attributes:
        model: the chat model.
        data: problems with columns `question` and `answer`, which ends in `#### NUMBER`.
        batch_size: number of texts that are written at once.
        max_new_tokens: maximum number of tokens of a text.
    """

    model: str = "meta-llama/Llama-3.2-3B-Instruct"
    data: str = "openai/gsm8k"
    batch_size: int = 64
    max_new_tokens: int = 1024

    def prepared(self, problems: int, seed: int, progress: Callable[[float], None]) -> Exam:
        """Load the model and its problems; nothing is trained, so the seed and the progress say nothing."""
        model = load_model(self.model).to(preferred_device()).eval()
        text = LocalText(model, load_tokenizer(self.model), batch_size=self.batch_size, share_prefix=True)
        rows = load_dataset(self.data, "main", split=f"test[:{problems}]")
        answers = [answer.rpartition("#### ")[2] for answer in rows["answer"]]
        return Exam(text, list(rows["question"]), answers, SIFTPrompts(), self.max_new_tokens)
