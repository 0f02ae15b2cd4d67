"""What a small model knows at each token of given texts, from one forward of each, and what is kept of it in a file.

    features of row i    last hidden state, chosen token, largest logits, entropy: all about token i + 1
    labelled tokens      the features with one label each, which a router is trained on

Source: R2R (arXiv 2505.21600), steps 1 and 4 of the data pipeline.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.core.tensors.generation import right_padded
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, output_head
from tokenry.core.tensors.row_statistics import row_statistics
from tokenry.decoding.r2r.labels import INSTRUCTION, require_labels, token_types
from tokenry.decoding.r2r.rules import SmallStep
from tokenry.decoding.r2r.tensor_files import read_tensors, save_tensors
from tokenry.models.identity import ModelIdentity

KIND = "file of labelled tokens"


@dataclass(frozen=True)
class Response:
    """A prompt, and what the large model wrote after it.

    Attributes:
        prompt_ids: tokens of the prompt.
        token_ids: tokens of the answer, the one that ended it included.
    """

    prompt_ids: Sequence[int]
    token_ids: Sequence[int]

    @property
    def ids(self) -> list[int]:
        """Prompt and answer."""
        return [*self.prompt_ids, *self.token_ids]


class ResponseRows:
    """The tokens of responses, one after another: ids, types, and the number of the response.

    Args:
        think_end: id of `</think>`, if the model has one.
    """

    def __init__(self, responses: Sequence[Response], think_end: int | None = None) -> None:
        lengths = torch.tensor([len(response.ids) for response in responses])
        self.ids = torch.tensor([token for response in responses for token in response.ids])
        types = [token_types(response.ids, len(response.prompt_ids), think_end) for response in responses]
        self.types = torch.cat(types) if types else self.ids.long()
        self.texts = torch.arange(len(responses)).repeat_interleave(lengths)
        self.starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


@dataclass(frozen=True)
class TokenFeatures:
    """What a small model knows at rows of texts.

    Attributes:
        hidden: last hidden states, after the final norm.
        tokens: most probable next tokens.
        top_logits: largest logits, the largest first.
        entropy: of the predicted distributions, in nats.
        texts: number of the text of each row.
    """

    hidden: Float[Tensor, "rows dim"]
    tokens: Int[Tensor, "rows"]
    top_logits: Float[Tensor, "rows k"]
    entropy: Float[Tensor, "rows"]
    texts: Int[Tensor, "rows"]

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, chosen: Bool[Tensor, "all"] | Int[Tensor, "some"]) -> "TokenFeatures":
        """Some of the rows."""
        return TokenFeatures(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def to(self, device: torch.device) -> "TokenFeatures":
        """The same on a device."""
        return TokenFeatures(*(getattr(self, field.name).to(device) for field in fields(self)))

    def step(self) -> SmallStep:
        """All rows as one step of decoding, for a rule to score."""
        return SmallStep(self.top_logits, self.tokens, self.hidden, entropy=self.entropy)


@torch.no_grad()
def read_features(
    model: nn.Module,
    responses: Sequence[Response],
    top_k: int = 100,
    batch_size: int = 8,
    progress: Callable[[float], None] = lambda share: None,
) -> TokenFeatures:
    """Read responses with a small model, and keep the features of every row that is no instruction.

    Args:
        model: the small model.
        responses: what the large model wrote.
        top_k: number of logits that are kept.
        batch_size: responses per forward.
        progress: function that is told the share that is done.
    """
    head, body, parts = output_head(model), backbone(model), []
    device = next(model.parameters()).device
    with evaluation_mode(model):
        for start in range(0, len(responses), batch_size):
            batch = responses[start : start + batch_size]
            ids, real = right_padded([response.ids for response in batch], device=device)
            hidden = body(input_ids=ids, attention_mask=real.long(), use_cache=False).last_hidden_state
            seen = ResponseRows(batch).types > INSTRUCTION
            rows = hidden[real][seen.to(device)]
            found = row_statistics(rows, None, head, ("top", "entropy"), top_k=top_k)
            assert found.top_ids is not None
            assert found.top_logits is not None
            assert found.entropy is not None
            texts = (start + ResponseRows(batch).texts)[seen]
            columns = rows.float(), found.top_ids[:, 0], found.top_logits, found.entropy
            parts.append((*(column.cpu() for column in columns), texts))
            progress(min(1.0, (start + batch_size) / len(responses)))
    return TokenFeatures(*map(torch.cat, zip(*parts, strict=True)))


@dataclass(frozen=True)
class LabelledTokens:
    """Features with one label each, and which models they are of.

    Attributes:
        features: what the small model knows.
        divergent: 1 where its token changes what the text comes to, 0 where it does not, -1 where that is unknown.
        mismatch: whether the large model wrote another token.
        small: the small model.
        large: the large model.
        about: what else is to be known, such as the verifier.
    """

    features: TokenFeatures
    divergent: Int[Tensor, "rows"]
    mismatch: Bool[Tensor, "rows"]
    small: ModelIdentity
    large: ModelIdentity
    about: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write one file of safetensors."""
        columns = {field.name: getattr(self.features, field.name) for field in fields(self.features)}
        columns |= {"divergent": self.divergent, "mismatch": self.mismatch}
        about = {"small": asdict(self.small), "large": asdict(self.large), "about": dict(self.about)}
        save_tensors(path, KIND, columns, about)

    @classmethod
    def load(cls, path: Path) -> "LabelledTokens":
        """Read a file.

        Raises:
            UserError: it is no file of labelled tokens, or a damaged one.
        """
        columns, about = read_tensors(path, KIND, "tokenry route label")
        features = TokenFeatures(*(columns[field.name] for field in fields(TokenFeatures)))
        require_labels(columns["divergent"])
        return cls(
            features,
            columns["divergent"],
            columns["mismatch"],
            ModelIdentity(**about["small"]),
            ModelIdentity(**about["large"]),
            about["about"],
        )
