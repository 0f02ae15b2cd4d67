"""What the verbs that write with a drafter share: model, drafter and prompts, and what was written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.files import read_json
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.cascade.run import read_prompts

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from tokenry.decoding import Drafter


@dataclass(frozen=True)
class PromptedDrafter:
    """A drafter on its model, and prompts.

    Attributes:
        prompts: as they were given: texts or conversations.
    """

    name: str
    drafter: "Drafter"
    tokenizer: "PreTrainedTokenizerBase"
    prompts: Sequence[Any]
    prompt_ids: Sequence[list[int]]

    def config(self, max_new_tokens: int) -> "GenerationConfig":
        """Greedy decoding; raises `UserError` where the model has no room for a prompt and its text."""
        from tokenry.core.tensors.generation import greedy_config, require_answers

        require_answers(self.drafter.model, self.prompt_ids, max_new_tokens)
        return greedy_config(self.drafter.model, self.tokenizer, max_new_tokens)

    def batches(self, batch_size: int) -> Iterator[tuple[Any, Any]]:
        """Prompts in their order, padded on the left, with their attention masks."""
        from tokenry.core.tensors.generation import left_padded

        device = self.drafter.model.device
        for start in range(0, len(self.prompt_ids), batch_size):
            ids, mask = left_padded(self.prompt_ids[start : start + batch_size], 0)
            yield ids.to(device), mask.to(device)


def load_prompted(folder: Path, prompts: Path, model: str | None, hardware: Hardware) -> PromptedDrafter:
    """Load a drafter, its base model and prompts."""
    from tokenry.decoding import Drafter
    from tokenry.decoding.multi_token.drafter import SETTINGS_FILE
    from tokenry.models import load_tokenizer

    folder = folder / "drafter" if (folder / "drafter" / SETTINGS_FILE).is_file() else folder
    if not (folder / SETTINGS_FILE).is_file():
        raise UserError(f"{folder} holds no drafter ({SETTINGS_FILE}): train one with tokenry draft train.")
    given = read_prompts(prompts)
    name = model or read_json(folder / SETTINGS_FILE)["base"]["name"]
    tokenizer = load_tokenizer(name)
    ids = [_encoded(tokenizer, prompt, number) for number, prompt in enumerate(given, start=1)]
    return PromptedDrafter(name, Drafter.load(folder, hardware.load(name).eval()), tokenizer, given, ids)


def _encoded(tokenizer: "PreTrainedTokenizerBase", prompt: Any, number: int) -> list[int]:
    if isinstance(prompt, str):
        ids: list[int] = tokenizer(prompt)["input_ids"]
    elif tokenizer.chat_template is None:
        raise UserError(
            f"prompt {number} is a conversation, and the tokenizer has no chat template: give the text of the prompt."
        )
    else:
        options: Any = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
        ids = tokenizer.apply_chat_template(list(prompt), **options)["input_ids"]
    if not ids:
        raise UserError(f"prompt {number} has no tokens: a text that is to go on must begin.")
    return ids


def shown_prompt(prompt: Any) -> str:
    """A prompt as it is shown: the text, or the user's last turn."""
    return prompt if isinstance(prompt, str) else str(prompt[-1].get("content", ""))
