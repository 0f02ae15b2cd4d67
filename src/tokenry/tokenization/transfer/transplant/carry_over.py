"""What carries over from the old tokenizer: special tokens and their roles, the chat template, and the ids that end a text."""

from transformers import AddedToken, PreTrainedModel, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from tokenry.tokenization.special_roles import TEXT_ROLES
from tokenry.tokenization.transfer.model_rows import set_special_ids
from tokenry.tokenization.transfer.transplant.vocabulary_match import VocabularyMatch


def add_special_tokens(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> None:
    """Add the old special tokens that the new tokenizer lacks, and give it their roles where it has none."""
    known = new.get_vocab()
    missing = [token for token in _special_tokens(old) if token.content not in known]
    new.add_tokens(missing, special_tokens=True)
    for role in TEXT_ROLES:
        if getattr(new, role) is None and getattr(old, role) is not None:
            setattr(new, role, getattr(old, role))


def carry_over(
    model: PreTrainedModel,
    old: PreTrainedTokenizerBase,
    new: PreTrainedTokenizerBase,
    matched: VocabularyMatch,
) -> tuple[str, ...]:
    """Let config, generation config and chat template follow; returns what the user should know."""
    new_ids: dict[int, int] = {}
    for new_id, old_id in enumerate(matched.shared.tolist()):
        new_ids.setdefault(old_id, new_id)
    generation = model.generation_config
    old_stops = None if generation is None else generation.eos_token_id
    set_special_ids(model, new)
    if generation is not None:
        generation.eos_token_id = _stops(old_stops, generation.eos_token_id, new_ids)
    if new.model_max_length > VERY_LARGE_INTEGER / 2:
        new.model_max_length = old.model_max_length
    if new.chat_template is not None or old.chat_template is None:
        return ()
    new.chat_template = old.chat_template
    known = new.get_vocab()
    written = [token.content for token in _special_tokens(old) if token.content in str(old.chat_template)]
    return tuple(
        f"the chat template writes {name}, which the new tokenizer cuts into pieces: carry_special_tokens=True adds it."
        for name in written
        if name not in known
    )


def _special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[AddedToken]:
    return [token for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]


def _stops(old: int | list[int] | None, eos: int | None, new_ids: dict[int, int]) -> int | list[int] | None:
    """The ids that end a text: those of the old tokens that still exist, and the new tokenizer's own."""
    if not isinstance(old, list):
        return eos
    kept = [new_ids[old_id] for old_id in old if old_id in new_ids]
    return list(dict.fromkeys(([] if eos is None else [eos]) + kept))
