"""p(answer) of anything that writes text, endpoints included, for the attribution methods that only read probabilities.

p = exp(mean log-probability of its tokens)   where the model writes the answer, 0 where it writes something else

attribute(AnswerProbability(Endpoint(...), tokenizer, "Oslo"), ids, method="reagent:stop=ranking", vocabulary=words)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tokenry.core.errors import UserError
from tokenry.models.text_model import Sampling, TextModel, require_generated


@dataclass(frozen=True)
class AnswerProbability:
    """A `Probability` that asks a text model, which writes greedily.

    Attributes:
        model: the text model; it must give the log-probabilities of its tokens.
        tokenizer: writes contexts as text; it need not be that of the model.
        answer: the beginning of what the model should write, white space around it aside.
        chat: whether each context is what the user says in a conversation; otherwise the model continues it.
    """

    model: TextModel
    tokenizer: PreTrainedTokenizerBase
    answer: str
    chat: bool = False

    def __post_init__(self) -> None:
        if not self.answer.strip():
            raise UserError("the answer is empty: give the text that the model should write.")

    def __call__(self, contexts: Int[Tensor, "probes seq"]) -> Float[Tensor, "probes"]:
        """The probability of the answer after each context."""
        length = len(self.tokenizer(self.answer, add_special_tokens=False)["input_ids"])
        texts = self.tokenizer.batch_decode(contexts, skip_special_tokens=True)
        prompts = [user_turn(text) for text in texts] if self.chat else texts
        written = self.model.generate(prompts, Sampling(max_new_tokens=length))
        require_generated(written)
        probabilities = []
        for text in written:
            if text.log_probs is None:
                raise UserError(
                    f"{self.model.name} gives no log-probabilities, so p(answer) is not known: use a model or a server that does."
                )
            is_answer = text.text.strip().startswith(self.answer.strip())
            probabilities.append(torch.tensor(text.log_probs).mean().exp() if is_answer else torch.zeros(()))
        return torch.stack(probabilities)


def user_turn(text: str) -> list[dict[str, str]]:
    """The conversation that begins with this text."""
    return [{"role": "user", "content": text}]
