"""The roles of special tokens, read off their names: a tokenizer that was trained with them needs no further settings.

bos, eos, pad, unk, sep, cls, mask    by the usual names; a single special token without such a name ends a text
"""

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TEXT_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
"""The roles that a causal language model needs."""

ROLES = (*TEXT_ROLES, "sep_token", "cls_token", "mask_token")

_NAMES = {
    "bos_token": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|bos|>", "[BOS]"),
    "eos_token": ("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "[EOS]"),
    "pad_token": ("<pad>", "[PAD]", "<|padding|>", "<|pad|>"),
    "unk_token": ("<unk>", "[UNK]", "<|unk|>"),
    "sep_token": ("[SEP]",),
    "cls_token": ("[CLS]",),
    "mask_token": ("<mask>", "[MASK]"),
}


def named_roles(tokenizer: Tokenizer) -> dict[str, str]:
    """The role of each special token whose name tells it."""
    special = [
        token.content
        for _, token in sorted(tokenizer.get_added_tokens_decoder().items())
        if token.special and token.content
    ]
    found = {
        role: next(name for name in names if name in special)
        for role, names in _NAMES.items()
        if not set(names).isdisjoint(special)
    }
    if len(special) == 1 and not found:
        found["eos_token"] = special[0]
    return found


def as_fast(tokenizer: PreTrainedTokenizerBase | Tokenizer) -> PreTrainedTokenizerBase:
    """Wrap a `tokenizers.Tokenizer` for transformers, with the roles that its special tokens name; a tokenizer of transformers is returned."""
    if not isinstance(tokenizer, Tokenizer):
        return tokenizer
    copied = Tokenizer.from_str(tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=copied, **named_roles(copied))


def take_roles(new: PreTrainedTokenizerBase, old: PreTrainedTokenizerBase) -> None:
    """Give special tokens of a new tokenizer the roles that they have in an old one, where the new one has none in that role."""
    special = {token.content for token in new.added_tokens_decoder.values() if token.special}
    for role in TEXT_ROLES:
        if getattr(new, role) is None and getattr(old, role) in special:
            setattr(new, role, getattr(old, role))
