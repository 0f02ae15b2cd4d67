"""Tokenizers of the library below transformers: byte-level BPE, and SentencePiece with byte fallback."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "naïve café — déjà vu", "東京 tower"] * 3


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def sentencepiece(byte_fallback: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=byte_fallback, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<unk>", *fallback], limit_alphabet=20, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    state = Tokenizer.from_str(tokenizer.to_str())
    return _without_special(state, fallback)


def _without_special(tokenizer: Tokenizer, names: list[str]) -> Tokenizer:
    """The trainer can only put byte tokens in as special ones; a real SentencePiece file has them as plain ones."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in names]
    return Tokenizer.from_str(json.dumps(state))
