"""Does a token's attention to the prompt separate the answer from friendly filler?

Six prompts, each answered by a sentence that does the task and by one that would suit any prompt, in both orders; one forward.
AUROC of a score for "task token", over all tokens of the two sentences: 0.5 = chance, 1 = every task token scores higher.

    prompt    mean over heads of the attention to all prompt tokens (ssToken's score)
    content   attention to the user's words alone, each head renormalised without the first token (sink-aware)

Each is read at the last layer (the released code) and averaged over the last third of the layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.core.chat.conversations import NO_CLASS, class_names, encode_rows
from tokenry.core.chat.template import content_mask, template_pieces
from tokenry.core.tensors.attention import attention_mass, prompt_attention, sink_aware_prompt_attention
from tokenry.core.tensors.modes import evaluation_mode

Row = dict[str, Any]

# (prompt, sentence that answers it, sentence that would suit any prompt)
_CASES = (
    (
        "Rewrite this sentence in the past tense: The farmer plants corn in the northern field.",
        "The farmer planted corn in the northern field.",
        "I hope you are having a wonderful day, and please feel free to come back any time!",
    ),
    (
        "Name the three largest planets of our solar system.",
        "The three largest planets of our solar system are Jupiter, Saturn and Uranus.",
        "Thank you so much for reaching out to me, it is always a pleasure to chat with you!",
    ),
    (
        "Which river flows through Cairo, and into which sea does it flow?",
        "The river Nile flows through Cairo, and it flows into the Mediterranean Sea.",
        "What a lovely morning this is, and I wish you and your family all the very best!",
    ),
    (
        "Add 14 and 27, and then subtract 6.",
        "14 plus 27 is 41, and 41 minus 6 is 35.",
        "Please do not hesitate to write again, because I am always here and happy to help!",
    ),
    (
        "Extract the names from this text: Maria met Peter and Olga at the station in Prague.",
        "The names in the text are Maria, Peter and Olga.",
        "It makes me smile to hear from such a kind person, so keep up the great spirit!",
    ),
    (
        "Explain briefly why ice floats on water.",
        "Ice floats on water because water expands when it freezes, so that ice is less dense than liquid water.",
        "Have a relaxing weekend with your friends, and do not forget to enjoy some sunshine!",
    ),
)


@dataclass(frozen=True)
class ProbeBatch:
    """The conversations as one batch, padded on the right.

    Attributes:
        input_ids: token ids.
        attention_mask: 1 at real tokens.
        content: the tokens of the user's words.
        prompt: all tokens before the answer.
        task: the answer's tokens that do the task.
        asked: the tokens of both sentences, which the AUROC is over.
    """

    input_ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"]
    content: Bool[Tensor, "batch seq"]
    prompt: Bool[Tensor, "batch seq"]
    task: Bool[Tensor, "batch seq"]
    asked: Bool[Tensor, "batch seq"]


@dataclass(frozen=True)
class AttentionAuroc:
    """AUROC of one attention score, over all tokens and over those of each conversation."""

    auroc: float
    of_conversations: tuple[float, ...]


def probe_rows() -> list[Row]:
    """Return the twelve conversations as rows: `messages`, and `spans` of the classes "task" and "filler"."""
    rows = []
    for prompt, task, filler in _CASES:
        for order in ((("task", task), ("filler", filler)), (("filler", filler), ("task", task))):
            answer = " ".join(sentence for _, sentence in order)
            rows.append(
                {
                    "messages": [
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": answer},
                    ],
                    "spans": [
                        {
                            "start": answer.index(sentence),
                            "end": answer.index(sentence) + len(sentence),
                            "class": name,
                        }
                        for name, sentence in order
                    ],
                }
            )
    return rows


def encode_probe(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> ProbeBatch:
    """Encode the conversations as training data is encoded; `token_class` separates the sentences, `content_mask` the user's words."""
    data = encode_rows(rows, tokenizer, max_length=512, default_class="end of answer")
    names = class_names(data)
    input_ids, classes, ones = (
        pad_sequence(list(map(torch.tensor, column)), batch_first=True, padding_value=padding)
        for column, padding in (
            (data["input_ids"], 0),
            (data["token_class"], NO_CLASS),
            ([[1] * len(ids) for ids in data["input_ids"]], 0),
        )
    )
    task, filler = (classes == names.index(name) for name in ("task", "filler"))
    prompt = torch.arange(input_ids.shape[1]) < (classes != NO_CLASS).int().argmax(dim=1, keepdim=True)
    return ProbeBatch(
        input_ids=input_ids,
        attention_mask=ones,
        content=prompt & content_mask(input_ids, template_pieces(tokenizer)),
        prompt=prompt,
        task=task,
        asked=task | filler,
    )


def attention_scores(model: PreTrainedModel, batch: ProbeBatch) -> dict[str, Float[Tensor, "batch seq"]]:
    """Read the four attention scores in one forward; nan where no token is asked about.

    Keys are "prompt, last layer", "prompt, deep layers", "content, last layer" and "content, deep layers".
    """
    begins = torch.zeros_like(batch.prompt)
    begins[:, 0] = True
    columns = torch.stack([batch.prompt, batch.content & ~begins, begins], dim=1)
    reading = attention_mass(model, "deep", columns.to(model.device))
    with evaluation_mode(model), torch.no_grad(), reading as mass:
        model.base_model(
            input_ids=batch.input_ids.to(model.device),
            attention_mask=batch.attention_mask.to(model.device),
            use_cache=False,
        )
    deep = {layer: read.cpu() for layer, read in mass.by_layer.items()}
    last = {max(deep): deep[max(deep)]}
    scores = {}
    for name, layers in (("last layer", last), ("deep layers", deep)):
        to_prompt = {layer: read[..., :1] for layer, read in layers.items()}
        to_content = {layer: read[..., 1:] for layer, read in layers.items()}
        scores[f"prompt, {name}"] = prompt_attention(to_prompt, batch.asked)
        scores[f"content, {name}"] = sink_aware_prompt_attention(to_content, batch.asked)
    return scores


def task_token_auroc(score: Float[Tensor, "batch seq"], batch: ProbeBatch) -> float:
    """Compute the probability that a task token scores higher than a filler token, over all pairs (ties count half)."""
    return float(roc_auc_score(batch.task[batch.asked].numpy(), score[batch.asked].numpy()))


def probe_attention(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, AttentionAuroc]:
    """Measure the AUROC of each attention score on the twelve conversations."""
    batch = encode_probe(probe_rows(), tokenizer)
    return {
        name: AttentionAuroc(task_token_auroc(score, batch), _of_conversations(score, batch))
        for name, score in attention_scores(model, batch).items()
    }


def _of_conversations(score: Float[Tensor, "batch seq"], batch: ProbeBatch) -> tuple[float, ...]:
    return tuple(
        float(roc_auc_score(task[asked].numpy(), row[asked].numpy()))
        for row, task, asked in zip(score, batch.task, batch.asked, strict=True)
    )
