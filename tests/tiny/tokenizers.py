"""Tokenizers of every kind with a few hundred tokens, built in code."""

import json
from functools import cache

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

VOCABULARY = 64
_WORD_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TURNS = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_CORPUS = [
    "system user assistant Be kind. What is the answer? The answer is 42, of course! Yes or no?",
    "def answer(question):\n    return 42\n\nHello world, hello there. First line.\nSecond line.",
] * 20
ENGLISH = [
    "the cat sat on the mat",
    "the dog sat on the log",
    "a naïve café — déjà vu",
    "東京 tower and other towers",
] * 3
CODE = [
    "def add(first, second):",
    "    return first + second",
    "the sum of the towers",
    "naïve_cat = add(cats, mats)",
] * 3
TEMPLATE = "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words from `w0` on, and a chat template."""
    words = ["<pad>", "<end>", "<unk>", "<system>", "<user>", "<assistant>"]
    words += [f"w{number}" for number in range(VOCABULARY - len(words))]
    model = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>")
    )
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )
    tokenizer.chat_template = _WORD_TEMPLATE
    return tokenizer


def character_tokenizer(adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """One token per character, except `<s>` and `</s>`; no chat template."""
    characters = ["<s>", "</s>", "<unk>", *map(chr, range(32, 127)), "\n", "é", "\u2028"]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


def punctuation_tokenizer() -> PreTrainedTokenizerFast:
    """Words, and punctuation together with the line breaks after it, as Llama 3 cuts text."""
    pieces = ["</s>", "<unk>", "Hi", "?", "?\n", "\n", "<|", "|>", "|>\n", "user", "assistant", "system"]
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    cut = Regex(r"[^\s\p{L}]+[\r\n]*|\p{L}+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(cut, "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


@cache
def _trained_bpe() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer.to_str()


def chatml_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens whose template adds a system prompt of its own."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_bpe()),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def chat_bytes(text: str, size: int = 300, system: str = "", digits: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a chat template, which may begin with a system prompt of its own."""
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    of_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
    single = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([single, of_bytes]) if digits else of_bytes
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=special, initial_alphabet=alphabet, vocab_size=size, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=special[2:],
        chat_template=f"{{{{ {system!r} }}}}{_TURNS}",
    )


def byte_level(texts: list[str] = ENGLISH, size: int = 320, **special: str) -> PreTrainedTokenizerBase:
    special = special or {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentencepiece(texts: list[str] = ENGLISH) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<unk>", "<s>", "</s>", *fallback], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer can only put byte tokens in as special ones; a real file has them as plain ones, and splits nothing.
    state = json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in fallback]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def word_piece(texts: list[str] = ENGLISH) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=120, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]")


def unigram(texts: list[str] = ENGLISH) -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=80, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def permuted(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> PreTrainedTokenizerBase:
    """The same tokenizer with its ids in another order."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    order = torch.randperm(len(tokenizer), generator=torch.Generator().manual_seed(seed)).tolist()
    state["model"]["vocab"] = {token: order[number] for token, number in state["model"]["vocab"].items()}
    for token in state["added_tokens"]:
        token["id"] = order[token["id"]]
    state["added_tokens"].sort(key=lambda token: token["id"])
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
    )
