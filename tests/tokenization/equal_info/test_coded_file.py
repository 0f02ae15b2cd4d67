"""Coded files: what comes back, what an interrupted job keeps, and what is refused in one sentence."""

import json

import pytest

from tests import tiny
from tests.tiny.tokenizers import byte_level
from tests.tokenization.equal_info import NGRAM, TEXT
from tokenry.core.errors import UserError
from tokenry.tokenization.equal_info import (
    ByteUnits,
    CausalWindowModel,
    EqualInfoCodec,
    TokenUnits,
    WittenBellModel,
    coded_file,
    decode_file,
    encode_file,
    read_coded_file,
)

CODEC = EqualInfoCodec(NGRAM)


class SmallParts(ByteUnits):
    """Parts of 50 bytes."""

    def parts(self, data, size=50):
        return super().parts(data, 50)


@pytest.fixture
def coded(tmp_path):
    path = tmp_path / "text.eqi"
    encode_file(TEXT, path, CODEC, model="ngram")
    return path


@pytest.mark.parametrize("text", [TEXT, bytes(range(256)), b"\0"])
@pytest.mark.parametrize("window_bits", [16, 31])
def test_a_file_comes_back(text, window_bits, tmp_path):
    codec = EqualInfoCodec(NGRAM, window_bits)
    header = encode_file(text, tmp_path / "a.eqi", codec)
    assert decode_file(tmp_path / "a.eqi", tmp_path / "b", codec) == (tmp_path / "b").read_bytes() == text
    assert header.n_bytes == sum(header.lengths) == len(text)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.eqi", "b"]


def test_tokens_come_back(tmp_path):
    tokenizer = byte_level()
    codec = EqualInfoCodec(
        CausalWindowModel(tiny.llama(vocab_size=len(tokenizer)), tokenizer.bos_token_id), 20
    )
    text = "a naïve café, 東京 and towers".encode() * 2
    encode_file(text, tmp_path / "a.eqi", codec, TokenUnits(tokenizer))
    assert decode_file(tmp_path / "a.eqi", tmp_path / "b", codec, TokenUnits(tokenizer)) == text


def test_parts_of_tokens_end_between_characters():
    units = TokenUnits(byte_level())
    text = "東京 tower".encode()
    parts = [units.text(part) for part in units.parts(text, size=4)]
    assert b"".join(parts) == text
    assert all(part.decode() for part in parts)


def test_an_interrupted_job_goes_on(tmp_path, monkeypatch):
    text, path = TEXT[:230], tmp_path / "a.eqi"
    monkeypatch.setattr(coded_file, "_BATCH", 2)
    coded_parts = []

    class Interrupted(EqualInfoCodec):
        def encode_many(self, texts, **options):
            if len(coded_parts) == 1:
                coded_parts.append(None)
                raise KeyboardInterrupt
            coded_parts.append(texts)
            return super().encode_many(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        encode_file(text, path, Interrupted(NGRAM), SmallParts())
    assert not path.exists()
    encode_file(text, path, Interrupted(NGRAM), SmallParts())
    batches = [batch for batch in coded_parts if batch is not None]
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert b"".join(bytes(part) for batch in batches for part in batch) == text
    assert decode_file(path, tmp_path / "b", CODEC) == text


def test_what_an_interrupted_job_kept_belongs_to_its_text(tmp_path, monkeypatch):
    monkeypatch.setattr(
        EqualInfoCodec, "encode_many", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        encode_file(TEXT, tmp_path / "a.eqi", CODEC)
    with pytest.raises(UserError, match=r"a\.eqi\.parts holds parts of another text, model or setting"):
        encode_file(b"other", tmp_path / "a.eqi", CODEC)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda data: b"plain text",
            "is no file of equal-info windows: `tokenry tokenizer equal-info encode` writes one",
        ),
        (lambda data: data[:60], "is cut off or damaged: its header cannot be read"),
        (lambda data: data[:-3], "is cut off: it has"),
        (
            lambda data: data[:-1] + bytes([data[-1] ^ 1]),
            "is damaged: its bits are not those that were written",
        ),
    ],
)
def test_a_torn_or_damaged_file_is_refused(coded, damage, words, tmp_path):
    coded.write_bytes(damage(coded.read_bytes()))
    with pytest.raises(UserError) as refused:
        decode_file(coded, tmp_path / "b", CODEC)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("codec", "units", "words"),
    [
        (
            EqualInfoCodec(WittenBellModel(TEXT, 3)),
            ByteUnits(),
            "was coded with another M1 (ngram, fingerprint",
        ),
        (
            EqualInfoCodec(NGRAM, 32),
            ByteUnits(),
            "was coded with window_bits=16, and this codec has window_bits=32",
        ),
        (
            EqualInfoCodec(NGRAM, 16, 12),
            ByteUnits(),
            "was coded with precision=14, and this codec has precision=12",
        ),
        (EqualInfoCodec(NGRAM, 16, 14, "delay"), ByteUnits(), "was coded with end_of_window=free"),
        (CODEC, TokenUnits(byte_level()), "was coded in bytes, and this codec reads tokens"),
    ],
)
def test_another_codec_is_refused(coded, codec, units, words, tmp_path):
    with pytest.raises(UserError) as refused:
        decode_file(coded, tmp_path / "b", codec, units)
    assert words in str(refused.value)


def test_a_text_that_comes_out_otherwise_is_not_written(coded, tmp_path):
    lines = coded.read_bytes().split(b"\n", 2)
    header = json.loads(lines[1]) | {"text": "of another text"}
    coded.write_bytes(b"\n".join([lines[0], json.dumps(header).encode(), lines[2]]))
    with pytest.raises(UserError, match="decodes to another text than was coded"):
        decode_file(coded, tmp_path / "b", CODEC)
    assert not (tmp_path / "b").exists()


def test_what_cannot_be_coded_is_refused(coded, tmp_path):
    new = tmp_path / "new.eqi"
    with pytest.raises(UserError, match="the text is empty: there is nothing to code"):
        encode_file(b"", new, CODEC)
    with pytest.raises(UserError, match="greedy windows do not give a text back"):
        encode_file(TEXT, new, EqualInfoCodec(NGRAM, end_of_window="greedy"))
    with pytest.raises(UserError, match="exists already: name another file"):
        encode_file(TEXT, coded, CODEC)
    with pytest.raises(UserError, match="exists already: name another file"):
        decode_file(coded, coded, CODEC)
    with pytest.raises(UserError, match="tokens are of UTF-8 text, and byte 1 is 0xff"):
        TokenUnits(byte_level()).parts(b"a\xff")
    with pytest.raises(UserError, match="cannot be read"):
        read_coded_file(tmp_path / "nowhere.eqi")
