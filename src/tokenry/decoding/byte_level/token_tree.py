"""The next-token log-probabilities of many contexts that share beginnings, in one forward pass.

Contexts are nodes of a tree of tokens. Those that are new go through the model together, as one sequence in which each token attends to its
ancestors only, at the position that is its depth; what was computed for a node is kept and serves every context that goes on from it.

A model that cannot do this (`tokenry.core.tensors.tree_attention` asks it) gets each context as a row of its own, without a cache.

Source: tree attention as in SpecInfer (arXiv 2305.09781), section 4.2.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tokenry.core.errors import UserError
from tokenry.core.tensors.gate import position_limit, require_causal_lm
from tokenry.core.tensors.modes import evaluation_mode
from tokenry.core.tensors.output_head import backbone, causal_lm, output_head
from tokenry.core.tensors.tree_attention import TreeAttention, attends_as_told

# 16 million entries of the attention mask (64 MB in float32) in one forward pass; more are computed piece by piece.
_MASK_ELEMENTS = 1 << 24
_ROW_TOKENS = 1 << 14
# What is kept beyond twice what is needed is dropped: copying it at every step would cost more than computing it again.
_SPARE_TOKENS = 256


class Context:
    """A sequence of tokens, known by its last one and the context before that; lives as long as somebody holds it."""

    __slots__ = ("__weakref__", "_children", "depth", "parent", "token")

    def __init__(self, parent: "Context | None" = None, token: int = -1) -> None:
        self.parent, self.token = parent, token
        self.depth: int = 0 if parent is None else parent.depth + 1
        self._children: WeakValueDictionary[int, Context] = WeakValueDictionary()

    def then(self, *tokens: int) -> "Context":
        """The context with more tokens; the same object for the same tokens."""
        context = self
        for token in tokens:
            child = context._children.get(token)
            if child is None:
                child = context._children[token] = Context(context, token)
            context = child
        return context

    def path(self) -> "list[Context]":
        """All contexts with at least one token that this one goes through, the shortest first."""
        context, found = self, []
        while context.parent is not None:
            found.append(context)
            context = context.parent
        return found[::-1]

    def ids(self) -> tuple[int, ...]:
        """Its tokens."""
        return tuple(context.token for context in self.path())


Ahead = Callable[[], Sequence[Context]] | None


@runtime_checkable
class NextTokenModel(Protocol):
    """What is asked of a language model."""

    def hold(self, contexts: Sequence[Context], ahead: Ahead = None) -> None:
        """Compute the contexts that are not known yet, in as few forward passes as possible.

        Args:
            contexts: those that are needed.
            ahead: tells contexts that may be needed soon; they come along where a forward pass is made anyway.
        """
        ...

    def log_probs(self, contexts: Sequence[Context]) -> Float[Tensor, "contexts vocabulary"]:
        """Log-probabilities of the next token in nats, of contexts that are held or not."""
        ...


class CalledModel:
    """Any function from token sequences to log-probabilities of the next token (float64 is kept)."""

    def __init__(self, function: Callable[[list[tuple[int, ...]]], Tensor]) -> None:
        self._function = function

    def hold(self, contexts: Sequence[Context], ahead: Ahead = None) -> None:
        """A function keeps nothing."""

    def log_probs(self, contexts: Sequence[Context]) -> Float[Tensor, "contexts vocabulary"]:
        """Call it once."""
        return self._function([context.ids() for context in contexts])


class TokenTree:
    """A causal language model of transformers, with all contexts of one use in one tree.

    Args:
        model: in any precision, on any device; its weights must not change while the tree is used.

    Attributes:
        is_tree: whether contexts share their beginnings; else each is a row of its own.

    Raises:
        UserError: the model is no causal language model, or makes its logits in an unknown way.
    """

    def __init__(self, model: nn.Module) -> None:
        require_causal_lm(model)
        self._model, self._head = causal_lm(model), output_head(model)
        self._device = next(self._model.parameters()).device
        self._longest = position_limit(model)
        self.is_tree = attends_as_told(model)
        self._forget()

    def hold(self, contexts: Sequence[Context], ahead: Ahead = None) -> None:
        """Compute these contexts and all they go through where they are not known yet: one forward pass, unless it is too large.

        Args:
            contexts: those that are needed.
            ahead: tells contexts that may be needed soon: a few tokens more hardly lengthen a forward pass. Rows of their own would.

        Raises:
            UserError: a context is empty, or longer than the model allows.
        """
        depths = {context.depth for context in contexts}
        if 0 in depths:
            raise UserError(
                "the model needs a token before the text and the tokenizer has neither a bos nor an eos token: give context_ids."
            )
        deepest = max(depths, default=0)
        if deepest > self._longest:
            raise UserError(
                f"a context of {deepest} tokens is longer than the {self._longest} that the model allows: shorten the text."
            )
        new = self._unknown(contexts)
        if not new:
            return
        if ahead is not None and self.is_tree:
            contexts = [*contexts, *(context for context in ahead() if context.depth <= self._longest)]
            new = self._unknown(contexts)
        needed = len({ancestor for context in contexts for ancestor in context.path()})
        if self._known + len(new) > 2 * needed + _SPARE_TOKENS:
            self._forget()
            new = self._unknown(contexts)
        with evaluation_mode(self._model), torch.no_grad():
            (self._run_tree if self.is_tree else self._run_rows)(new)

    def log_probs(self, contexts: Sequence[Context]) -> Float[Tensor, "contexts vocabulary"]:
        """Log-probabilities of the next token in nats; float32, or float64 for a model in float64."""
        self.hold(contexts)
        with torch.no_grad():
            hidden = torch.stack([self._hidden[context] for context in contexts])
            return self._head.logits(hidden).log_softmax(-1).cpu()

    def _forget(self) -> None:
        self._tree = TreeAttention(self._model) if self.is_tree else None
        self._slots: WeakKeyDictionary[Context, int] = WeakKeyDictionary()
        self._hidden: WeakKeyDictionary[Context, Tensor] = WeakKeyDictionary()

    @property
    def _known(self) -> int:
        return self._tree.tokens if self._tree is not None else 0

    def _unknown(self, contexts: Sequence[Context]) -> list[Context]:
        """The contexts that are not known yet, parents before children."""
        new: dict[Context, None] = {}
        for context in contexts:
            chain = []
            at: Context | None = context
            while at is not None and at.depth and at not in self._hidden and at not in new:
                chain.append(at)
                at = at.parent
            new.update(dict.fromkeys(reversed(chain)))
        return list(new)

    def _run_tree(self, new: list[Context]) -> None:
        assert self._tree is not None
        while new:
            # As many as keep their mask, new × (known + new), within _MASK_ELEMENTS.
            known = self._known
            room = max(1, int(math.sqrt(known**2 / 4 + _MASK_ELEMENTS) - known / 2))
            part, new = new[:room], new[room:]
            ids, positions = (
                torch.tensor([column], device=self._device)
                for column in ([context.token for context in part], [context.depth - 1 for context in part])
            )
            hidden = self._tree.read(ids, positions, self._ancestors(part))[0]
            for row, context in enumerate(part):
                self._hidden[context], self._slots[context] = hidden[row], known + row

    def _ancestors(self, part: Sequence[Context]) -> Bool[Tensor, "1 new all"] | None:
        """What each context goes through; None where that is everything before it."""
        known, rows = self._known, {context: row for row, context in enumerate(part)}
        sees = torch.zeros(len(part), known + len(part), dtype=torch.bool)
        for context, row in rows.items():
            if context.parent in rows:
                sees[row] = sees[rows[context.parent]]
            elif context.parent is not None and context.parent.depth:
                sees[row, [self._slots[ancestor] for ancestor in context.parent.path()]] = True
            sees[row, known + row] = True
        is_chain = bool((sees.sum(1) == known + 1 + torch.arange(len(part))).all())
        return None if is_chain else sees[None]

    def _run_rows(self, new: Sequence[Context]) -> None:
        parents = {context.parent for context in new}
        ends = sorted(
            (context for context in new if context not in parents), key=lambda context: -context.depth
        )
        while ends:
            room = max(1, _ROW_TOKENS // ends[0].depth)
            paths, ends = [context.path() for context in ends[:room]], ends[room:]
            ids = [torch.tensor([context.token for context in path]) for path in paths]
            pad = nn.utils.rnn.pad_sequence
            input_ids = pad(ids, batch_first=True).to(self._device)
            attention_mask = pad([torch.ones_like(row) for row in ids], batch_first=True).to(self._device)
            arguments = {"attention_mask": attention_mask, "use_cache": False}
            hidden = backbone(self._model)(input_ids=input_ids, **arguments).last_hidden_state
            for row, path in enumerate(paths):
                self._hidden.update({context: hidden[row, place] for place, context in enumerate(path)})
