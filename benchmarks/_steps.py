"""Forward and backward of one batch, done in several ways: tokenry's, TRL's, the released recipe's, Liger's, plain transformers'.

All of them start from the same model, batch and history, and set the gradients anew. Trainers are the real ones, given a real
data set: their collator makes the batch, their `compute_loss` the loss. In TRL 1.16 `loss_type="chunked_nll"` is another name of
"nll": both go through TRL's fused head, which on a CPU scores every position.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from _measure import Step
from _released_recipe import released_loss
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from tokenry.core.tensors.alignment import predicting_rows, segment_ids
from tokenry.core.tensors.attention import attention_mass, prompt_attention
from tokenry.core.tensors.losses import output_head
from tokenry.core.tensors.signals import Signals
from tokenry.finetuning import AllTokens, SSToken, TokenWeighing, TokenWeighingTrainer
from tokenry.models import load_model
from tokenry.models.embedded import EMBEDDED_TITLE

IGNORED = -100
# Without warm-up: from the first step on both signals are needed.
SSTOKEN = SSToken(warmup_fraction=0.0)


# For smoke runs.
TINY = (
    ("vocab_size", 64),
    ("hidden_size", 32),
    ("intermediate_size", 48),
    ("num_hidden_layers", 2),
    ("num_attention_heads", 4),
)


OURS = "ssToken"
# At most this much of the peer's (time, memory).
PEER_TARGETS = {
    "TRL nll": (0.80, 0.70),
    "TRL chunked_nll": (0.80, 0.70),
    "released recipe": (0.90, 0.70),
    "transformers labels=": (0.90, 0.95),
    "ssToken on Liger": (1.00, 1.00),
}


@dataclass(frozen=True)
class Shape:
    """A batch and the model it is for: `embedded`, or the options of a small Llama."""

    batch: int = 2
    seq: int = 512
    prompt_share: float = 0.5
    padded_share: float = 0.1
    model: str | tuple[tuple[str, int], ...] = "embedded"
    dtype: torch.dtype = torch.float32
    device: str = "cpu"


@dataclass
class Problem:
    """The model, and a batch whose last row is padded on the right; `history_nll` is made up, so that the ranking is not trivial."""

    model: PreTrainedModel
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    history_nll: Tensor

    @classmethod
    def of(cls, shape: Shape) -> "Problem":
        """Load the model and draw the batch, always the same."""
        model = load(shape)
        generator = torch.Generator().manual_seed(0)
        size = (shape.batch, shape.seq)
        input_ids = torch.randint(10, model.config.vocab_size, size, generator=generator)
        attention_mask = torch.ones(size, dtype=torch.long)
        if shape.batch > 1:
            attention_mask[-1, shape.seq - int(shape.padded_share * shape.seq) :] = 0
        labels = input_ids.masked_fill(attention_mask == 0, IGNORED)
        labels[:, : int(shape.prompt_share * shape.seq)] = IGNORED
        history_nll = 20 * torch.rand(size, generator=generator)
        batch = (tensor.to(shape.device) for tensor in (input_ids, attention_mask, labels, history_nll))
        return cls(model, *batch)

    @property
    def rows(self) -> Dataset:
        """The batch as the rows of a data set, padding left out."""
        lengths = self.attention_mask.sum(dim=1).tolist()
        return Dataset.from_list(
            [
                {
                    "input_ids": self.input_ids[row, :length].tolist(),
                    "labels": self.labels[row, :length].tolist(),
                }
                for row, length in enumerate(lengths)
            ]
        )


def load(shape: Shape) -> PreTrainedModel:
    """Load the model in memory of its own: a mapped file would count as memory of the first step."""
    if isinstance(shape.model, str):
        model = load_model(shape.model, dtype=shape.dtype)
    else:
        torch.manual_seed(0)
        with torch.device(shape.device):
            model = LlamaForCausalLM(LlamaConfig(**dict(shape.model))).to(shape.dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        model(torch.arange(10, 18, device=model.device)[None])
    return model.train()


def model_name(shape: Shape) -> str:
    """Name the model."""
    if isinstance(shape.model, str):
        return EMBEDDED_TITLE
    return f"Llama({', '.join(f'{name}={value}' for name, value in shape.model)})"


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer for trainers that ask for one; the data are tokens already."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")


def config(folder: str, batch: int, **options: object) -> SFTConfig:
    """Training arguments that change nothing of the step (unless asked): no mixed precision, no checkpointing, no truncation."""
    plain = {
        "max_length": None,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    quiet = {"disable_tqdm": True, "report_to": [], "save_strategy": "no", "use_cpu": True}
    return SFTConfig(output_dir=folder, per_device_train_batch_size=batch, **{**plain, **quiet, **options})


def with_trl(problem: Problem, loss_type: str) -> Step:
    """TRL's `SFTTrainer`: learn from every response token."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=problem.model,
            args=config(
                folder,
                len(problem.input_ids),
                use_cpu=problem.input_ids.device.type == "cpu",
                loss_type=loss_type,
            ),
            train_dataset=problem.rows,
            processing_class=tokenizer(),
        )
    return _step_of(trainer)


def with_tokenry(problem: Problem, weighing: TokenWeighing, **options: bool) -> Step:
    """The trainer of tokenry."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = TokenWeighingTrainer(
            model=problem.model,
            args=config(folder, len(problem.input_ids), use_cpu=problem.input_ids.device.type == "cpu"),
            train_dataset=problem.rows,
            processing_class=tokenizer(),
            weighing=weighing,
            history_cache=folder,
            **options,
        )
    if "history_nll" in trainer.store.columns:
        trainer.store.columns["history_nll"] = problem.history_nll[problem.attention_mask.bool()].cpu()
    return _step_of(trainer)


def _step_of(trainer: SFTTrainer) -> Step:
    batch = trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))

    def step() -> None:
        trainer.model.zero_grad(set_to_none=True)
        trainer.compute_loss(trainer.model, dict(batch)).backward()

    return step


def with_released_recipe(problem: Problem) -> Step:
    """The released recipe: ssToken as its authors released it."""
    model = problem.model

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model.set_attn_implementation("eager")
        loss = released_loss(
            model, problem.input_ids, problem.attention_mask, problem.labels, problem.history_nll
        )
        loss.backward()
        model.set_attn_implementation("sdpa")

    return step


def with_liger(problem: Problem) -> Step:
    """The score of ssToken on Liger's per-token cross-entropy: scored and learned in one pass over the response rows, gradient of all of them."""
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    model, labels = problem.model, problem.labels
    segments = segment_ids(problem.input_ids, problem.attention_mask)
    response = labels != IGNORED
    prompt = (segments >= 0) & ~response
    head = output_head(model).module

    def step() -> None:
        model.zero_grad(set_to_none=True)
        with attention_mass(model, -1, prompt[:, None]) as mass:
            hidden_states = model.base_model(
                input_ids=problem.input_ids, attention_mask=problem.attention_mask, use_cache=False
            ).last_hidden_state
        nll = LigerFusedLinearScaledCrossEntropyFunction.apply(
            predicting_rows(hidden_states, response), head.weight, labels[response]
        )
        signals = Signals(
            labels,
            segments,
            {
                "nll": torch.full(labels.shape, torch.nan).masked_scatter(response, nll.detach()),
                "history_nll": problem.history_nll,
                "prompt_attention": prompt_attention(mass.by_layer, response),
            },
        )
        weights = SSTOKEN.weigh(signals)[response]
        ((nll * weights).sum() / weights.sum()).backward()

    return step


def with_labels(problem: Problem) -> Step:
    """Plain transformers: `model(labels=...)`, logits of every position."""

    def step() -> None:
        problem.model.zero_grad(set_to_none=True)
        problem.model(
            input_ids=problem.input_ids,
            attention_mask=problem.attention_mask,
            labels=problem.labels,
            use_cache=False,
        ).loss.backward()

    return step


SELECTING: dict[str, Callable[[Problem], Step]] = {
    "ssToken": partial(with_tokenry, weighing=SSTOKEN),
    "released recipe": with_released_recipe,
}
if find_spec("liger_kernel"):  # the extra `bench`
    SELECTING["ssToken on Liger"] = with_liger
LEARNING_ALL: dict[str, Callable[[Problem], Step]] = {
    "TRL nll": partial(with_trl, loss_type="nll"),
    "TRL chunked_nll": partial(with_trl, loss_type="chunked_nll"),
    "transformers labels=": with_labels,
    # Recorded, or the step would be TRL's: nothing is weighed.
    "tokenry all tokens": partial(with_tokenry, weighing=AllTokens(), record_signals=True),
}
VARIANTS = SELECTING | LEARNING_ALL


def prepare(name: str, shape: Shape) -> Step:
    """Load a model and set one variant up on it."""
    return VARIANTS[name](Problem.of(shape))


def gradient_norm(model: PreTrainedModel) -> float:
    """Norm of the gradients of all parameters."""
    return float(torch.nn.utils.get_total_norm([p.grad.float() for p in model.parameters()]))
