"""Small models, a small tokenizer and small data, all from fixed seeds."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

VOCABULARY = 64
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<end>", "<unk>", "<system>", "<user>", "<assistant>"]
    words += [f"w{number}" for number in range(VOCABULARY - len(words))]
    model = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_llama(seed: int = 0, **options) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 128,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": None,
            **options,
        }
    )
    return LlamaForCausalLM(config)


def token_rows(samples: int = 12, seed: int = 0, multi_turn: bool = False) -> Dataset:
    """Samples of 6 to 20 tokens with `labels` on the second half (multi-turn: on every other run of three)."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(samples):
        length = int(torch.randint(6, 21, (1,), generator=generator))
        ids = torch.randint(6, VOCABULARY, (length,), generator=generator).tolist()
        spoken = [t // 3 % 2 == 1 if multi_turn else t >= length // 2 for t in range(length)]
        labels = [token if is_target else -100 for token, is_target in zip(ids, spoken, strict=True)]
        rows.append({"input_ids": ids, "labels": labels})
    return Dataset.from_list(rows)


def sft_config(output_dir, **options) -> SFTConfig:
    return SFTConfig(
        **{
            "output_dir": str(output_dir),
            "per_device_train_batch_size": 3,
            "num_train_epochs": 1,
            "learning_rate": 0.1,
            "optim": "sgd",
            "lr_scheduler_type": "constant",
            "max_length": 64,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": [],
            "logging_steps": 1,
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **options,
        }
    )
