"""The checks of a model before its first real forward, one gate for all commands.

    require_causal_lm        a causal language model whose logits are those that are computed here, causal in fact
    require_same_tokenizer   another model's ids mean the same
    require_readable         every id has an embedding, every sample has positions

Causal in fact: the logits before the last token of a short text stay as they are when that token is another one.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.generic import is_flash_attention_requested

from tokenry.core.errors import UserError
from tokenry.core.tensors.losses import causal_lm, check_output_head, short_text
from tokenry.core.tensors.modes import evaluation_mode

_OTHER_HEAD = re.compile(r"Classification|Reward|QuestionAnswering|MultipleChoice|Regression")
_OTHER_HEAD_WEIGHTS = re.compile(
    r"(score|classifier|classification_head|qa_outputs|reward_head|regression_head)\."
)
_LANGUAGE_MODEL_HEAD = re.compile(r"CausalLM|LMHead|DoubleHeads|ConditionalGeneration|MaskedLM")

# Where another last token sends others to other experts, earlier logits differ by rounding: never by so large a part.
_MORE_THAN_ROUNDING = 0.1
_ROUNDING = 1e-3


def require_causal_lm(model: nn.Module, name: str | None = None) -> None:
    """Refuse what is no causal language model, or one whose logits cannot be computed from its hidden states.

    Three forwards of six tokens; mode, random state and gradients of the model stay as they were. A model that cannot run yet
    (its weights are split between ranks, or its attention waits for a GPU) is looked at from outside only.

    Args:
        model: the model, wrapped or not (PEFT, DDP).
        name: the name in errors; by default the model's own.

    Raises:
        UserError: no output head, the head of a classifier or a reward model, an encoder-decoder, virtual tokens of prompt
            tuning, logits that are not finite or not those of its head, or tokens that see what comes after them.
    """
    inner = causal_lm(model)
    called = name or name_of(inner)
    require_language_model_head(inner.config, called)
    if getattr(inner.config, "is_encoder_decoder", False):
        raise UserError(
            f"{called} is an encoder-decoder ({type(inner).__name__}), which reads its prompt elsewhere than its answer: give a "
            "decoder-only model (AutoModelForCausalLM)."
        )
    if any(_has_virtual_tokens(module) for module in model.modules()):
        raise UserError(
            f"{called} has virtual tokens of prompt tuning before the text, so tokens cannot be told apart: use LoRA."
        )
    if not can_run(inner):
        return
    tokens = min(6, position_limit(inner))
    text = short_text(inner, int(tokens))
    with _untouched(inner, text.device):
        with _in_one_sentence(called):
            logits = inner(input_ids=text, use_cache=False).logits
        check_output_head(inner, text, logits)
        if text[0].unique().numel() == tokens > 1 and _sees_later_tokens(inner, text, logits[0]):
            raise UserError(
                f"{called} ({type(inner).__name__}) is not causal: what it says about a token changes with the tokens after it, so "
                "every loss would be that of a model that has seen the answer. Encoders and embedding models are such (is_decoder=False, "
                "is_causal=False, use_bidirectional_attention=True in the config): give a causal language model."
            )


def require_language_model_head(config: Any, name: str, unexpected: Iterable[str] = ()) -> None:
    """Refuse a checkpoint that was saved as a classifier or a reward model: its output head says nothing about tokens.

    Args:
        config: of the model, with the `architectures` that the checkpoint names.
        name: the name of the model in errors.
        unexpected: names of weights in the checkpoint for which the model has no place.
    """
    classes = getattr(config, "architectures", None) or []
    other = [written for written in classes if _OTHER_HEAD.search(written)]
    other += [weight for weight in unexpected if _OTHER_HEAD_WEIGHTS.match(weight)][: 0 if classes else 1]
    if other and not any(_LANGUAGE_MODEL_HEAD.search(written) for written in classes):
        raise UserError(
            f"{name} was saved with the head of a classifier or a reward model ({other[0]}), which says nothing about the next token: "
            "give the causal language model that it was made from."
        )


def require_readable(
    model: nn.Module,
    input_ids: Sequence[int] | Int[np.ndarray, "tokens"] | Int[Tensor, "tokens"],
    lengths: Sequence[int] | Int[np.ndarray, "samples"],
    what: str = "the data",
    name: str | None = None,
) -> None:
    """Refuse ids without a row in the embeddings, and samples longer than a model with a table of positions can read.

    Rotary and relative positions, ALiBi and recurrent models go on beyond the length they were trained for, so their
    `max_position_embeddings` refuses nothing.

    Args:
        model: a causal language model, wrapped or not.
        input_ids: all ids that it will read, prompts and padding too, in any order.
        lengths: positions that each sample takes: packed samples begin at position 0 again.
        what: the name of the data in errors.
        name: the name of the model in errors; by default its own.

    Raises:
        UserError: an id or a length that the model cannot read.
    """
    called = name or name_of(causal_lm(model))
    ids, rows = np.asarray(input_ids), embedding_rows(model)
    extremes = (int(ids.min()), int(ids.max())) if ids.size else ()
    wrong = next((number for number in extremes if not 0 <= number < rows), None)
    if wrong is not None:
        raise UserError(
            f"{what}: token id {wrong} is not among the {rows} rows of the embeddings of {called}: where tokens were added, call "
            "model.resize_token_embeddings(len(tokenizer)); else encode with the tokenizer of this model."
        )
    longest, limit = max(map(int, lengths), default=0), position_limit(model)
    if longest > limit:
        raise UserError(
            f"{what}: a sample takes {longest} positions and {called} has {limit}: cut the samples to at most {limit} (by max_length, or "
            "by a shorter window), or take a model with more positions."
        )


def require_same_tokenizer(ours: Any, theirs: Any, what: str = "the reference model") -> None:
    """Refuse another model whose tokenizer is not the one the data is encoded with: its ids would mean something else to it.

    The same vocabulary, added tokens and cutting of a text (normaliser, pre-tokeniser, merges) are asked for. Chat templates,
    the roles of special tokens, and what is put around a text may differ: the data is encoded once.

    Args:
        ours: the tokenizer (or processor) that encodes the data.
        theirs: that of the other model.
        what: the name of the other model in errors.

    Raises:
        UserError: the first thing in which they differ.
    """
    difference = _difference(_tokenizer(ours), _tokenizer(theirs))
    if difference:
        raise UserError(
            f"{what} has another tokenizer: {difference}. Its losses would be about other tokens: take a model of the same "
            "tokenizer (where only its folder lacks added tokens, save the tokenizer there)."
        )


def can_run(model: nn.Module) -> bool:
    """Whether the model can be tried out now: whole on this rank, and not flash attention that waits for its GPU or for autocast."""
    inner = causal_lm(model)
    parameter = next(inner.parameters())
    waits = parameter.device.type == "cpu" or parameter.dtype == torch.float32
    return has_whole_weights(model) and not (waits and is_flash_attention_requested(inner.config))


def has_whole_weights(model: nn.Module) -> bool:
    """Whether every parameter lies whole on this rank (not on the meta device, not partitioned by ZeRO-3)."""
    return all(p.device.type != "meta" and not hasattr(p, "ds_id") for p in model.parameters())


def embedding_rows(model: nn.Module) -> int:
    """The number of token ids that a model can read."""
    weight: Any = causal_lm(model).get_input_embeddings().weight  # an adapter has that of the layer under it
    return int(getattr(weight, "ds_shape", weight.shape)[0])  # ZeRO-3 leaves no shape but that


def position_limit(model: nn.Module) -> int | float:
    """The maximum number of positions that a model can read: the length of its position table; infinite where positions are computed.

    Read from the model itself, as a config says what a model was trained for, not where it ends.
    """
    models = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    inner = next(models, None) or causal_lm(model)  # a classifier has no output head
    config = inner.config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len")
    known = {name: getattr(config, name, None) for name in names}
    trained = next((value for value in known.values() if isinstance(value, int) and value > 0), None)
    if trained is None or any("inv_freq" in name for name, _ in inner.named_buffers()):
        return math.inf
    vocabulary = set(inner.get_input_embeddings().modules())
    limits = [
        # Rows before the first position: those of padding, or two that some classes leave free.
        min(trained, table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
        for table in inner.modules()
        if isinstance(table, nn.Embedding)
        and table not in vocabulary
        and 0 <= table.num_embeddings - trained <= 2
    ]
    tables = any(
        "pos" in name.rpartition(".")[2] and trained in table.shape for name, table in inner.named_buffers()
    )
    biases = known["max_seq_len"] == trained  # ALiBi that is laid out for this many positions
    return min([*limits, *([trained] if tables or biases else [])], default=math.inf)


def name_of(model: PreTrainedModel) -> str:
    """The name of a model in a sentence."""
    return str(getattr(model, "name_or_path", "")) or type(model).__name__


def _has_virtual_tokens(module: nn.Module) -> bool:
    adapters = getattr(module, "peft_config", None)
    known = adapters.values() if isinstance(adapters, dict) else ()
    return any(getattr(adapter, "is_prompt_learning", False) for adapter in known)


def _sees_later_tokens(inner: PreTrainedModel, text: Tensor, logits: Tensor) -> bool:
    """Whether logits before the last token change with it; small changes are looked into, as they may be rounding."""
    other = text.clone()
    other[0, -1] = text[0, -2]
    changed = inner(input_ids=other, use_cache=False).logits[0]
    change = (changed.float() - logits.float()).abs().amax(-1)
    before, last = float(change[:-1].max()), float(change[-1])
    if before == 0 < last or before > _MORE_THAN_ROUNDING * last:
        return before > 0
    leads_back = _gradient_leads_back(inner, text)
    return before > _ROUNDING * last if leads_back is None else leads_back


def _gradient_leads_back(inner: PreTrainedModel, text: Tensor) -> bool | None:
    """The same by gradients, which are exactly zero where nothing is seen; None where a kernel has no gradient."""
    embedded: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        embedded.append((inputs[0], output.detach().requires_grad_()))
        return embedded[-1][1]

    hook = inner.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = inner(input_ids=text, use_cache=False).logits[0, :-1]
            gradients = torch.autograd.grad(
                logits.float().square().sum(), [rows for _, rows in embedded], allow_unused=True
            )
    except RuntimeError:
        return None
    finally:
        hook.remove()
    # By the token, as some classes lay their input out the other way round.
    return any(
        gradient is not None and bool(gradient[ids == text[0, -1]].any())
        for (ids, _), gradient in zip(embedded, gradients, strict=True)
    )


@contextmanager
def _untouched(inner: PreTrainedModel, device: torch.device) -> Iterator[None]:
    """In evaluation mode without gradients; the model's modes and the random state are afterwards what they were."""
    others = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(others), evaluation_mode(inner), torch.no_grad():
        yield


@contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, UserError):
        raise
    except (
        AttributeError,
        ImportError,
        IndexError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{name} cannot read a short text as a causal language model ({lines[0] if lines else type(error).__name__})."
        ) from error


def _tokenizer(given: Any) -> PreTrainedTokenizerBase:
    """The tokenizer in a processor, or itself."""
    return getattr(given, "tokenizer", given)


def _difference(ours: Any, theirs: Any) -> str:
    """The first thing in which two tokenizers differ, in words; empty where they are the same.

    How a text is normalised and cut into words is compared on texts, not as settings: saved and loaded again, a tokenizer may have
    others that do the same.
    """
    backends = [getattr(tokenizer, "backend_tokenizer", None) for tokenizer in (ours, theirs)]
    written = [None if backend is None else backend.to_str() for backend in backends]
    if ours is theirs or (written[0] is not None and written[0] == written[1]):
        return ""
    vocabulary, other = ours.get_vocab(), theirs.get_vocab()
    if vocabulary != other:
        return _vocabulary_difference(vocabulary, other)
    if written[0] is not None and written[1] is not None:
        deciding = [_merges_and_scores(json.loads(text)["model"]) for text in written if text is not None]
        if deciding[0] != deciding[1]:
            return "it has the same tokens and cuts words into others of them (merges or scores)"
    added, theirs_added = _added(ours), _added(theirs)
    texts = [
        *_SAMPLES,
        *_texts_of(vocabulary.keys() - added.keys(), vocabulary),
        *(f"a {token} b{token}c" for token in added if added[token] != theirs_added.get(token)),
    ]
    for text in texts:
        ids, theirs_ids = (tokenizer.encode(text, add_special_tokens=False) for tokenizer in (ours, theirs))
        if ids != theirs_ids:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            return f"it cuts {shown!r} into other tokens"
    return ""


_SHOWN = 60
# Letter case, spaces, line ends, digits, contractions, marks that can be composed, compatibility forms, signs without a width, scripts.
_SAMPLES = (
    "The quick brown Fox, it jumps over 1234567 lazy dogs! It's HE'S we'll; don't.",
    " a leading space,  two  spaces\tand a tab \n\n  lines\r\nend ",
    "naïve cafe\u0301 Ångström \u212b stra\u00dfe \u0130stanbul \ufb01ne \uff12\uff13 x\u00b2 \u2167 \u2026",
    "no\u00a0break zero\u200bwidth soft\u00adhyphen \ufeffmark \u201cquotes\u201d \u2014 dash",
    "snake_case CamelCase https://example.org/a?b=1&c=2 user@example.org <tag/> {x: [1, 2.50]}",
    "def f(x):\n\treturn x**2 + 0.5  # why\n    if x != -1e-3: pass\n",
    "Быстрая лиса, Ёлка. Η γρήγορη αλεπού. 敏捷的狐狸跳过了狗。速い狐が犬を飛び越える。 빠른 여우",
    "चतुर लोमड़ी ثَعْلَب سريعـــ ١٢٣ สุนัขจิ้งจอก שועל מהיר 🦊 👩\u200d🚀 🇫🇷",
)


def _texts_of(tokens: Iterable[str], ids: dict[str, int], most: int = 64) -> list[str]:
    """Texts of tokens from all over a vocabulary: a small one knows nothing of any other text."""
    tokens = sorted(tokens, key=ids.__getitem__)
    some = tokens[:: max(1, len(tokens) // most)]
    plain = " ".join(some)
    return [plain, plain.upper(), plain.lower(), "  ".join(some), ",".join(some), "".join(some)]


def _merges_and_scores(model: dict[str, Any]) -> tuple[Any, ...]:
    """The kind of a vocabulary and what decides between its tokens, beside the ids."""
    scores = model["vocab"] if isinstance(model.get("vocab"), list) else None
    return model.get("type"), model.get("merges"), scores


def _vocabulary_difference(ours: dict[str, int], theirs: dict[str, int]) -> str:
    missing, further = (
        sorted(a.keys() - b.keys(), key=a.__getitem__) for a, b in ((ours, theirs), (theirs, ours))
    )
    if missing:
        return f"it lacks {_counted(missing)}"
    if further:
        return f"it has {_counted(further)} more"
    moved = min((token for token in ours if ours[token] != theirs[token]), key=ours.__getitem__)
    return f"the token {moved!r} has id {theirs[moved]} there and {ours[moved]} here"


def _counted(tokens: Sequence[str]) -> str:
    return f"the token {tokens[0]!r}" if len(tokens) == 1 else f"{len(tokens)} tokens ({tokens[0]!r}, …)"


def _added(tokenizer: Any) -> dict[str, tuple[bool, ...]]:
    return {
        token.content: (token.lstrip, token.rstrip, token.normalized, token.single_word)
        for token in getattr(tokenizer, "added_tokens_decoder", {}).values()
    }
