"""Covers found by encoding whole texts, on random texts in many scripts; `python -m tests.decoding.byte_level.brute_force 1000` runs many.

covers(x) = { the first tokens of encode(text) that hold all bytes of x : text = x[:i] + bytes of a token that begins with x[i:] + more }
"""

import hashlib
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import Tokenizer

from tokenry.core.errors import UserError
from tokenry.core.text.byte_level import ByteVocabulary
from tokenry.decoding.byte_level import ByteLM
from tokenry.decoding.byte_level.utf8 import code_points, split_unfinished

SCRIPTS = {
    "latin": "the quick brown fox naïve café Straße œuvre Đặng đẹp Ångström don't WE'LL isn’t iPhone HTTPServer fooBAR",
    "cyrillic": "съешь же ещё этих мягких французских булок Київ Їжак Москва",
    "greek": "Ελληνικά γλώσσα ΑΒΓ ή καλημέρα",
    "arabic and hebrew": "العربية مَرْحَبًا كتاب ١٢٣ עברית שָׁלוֹם ספר",
    "devanagari and thai": "हिन्दी भाषा नमस्ते क़लम १२३ ภาษาไทย สวัสดี น้ำ",
    "han and kana": "漢字かな交じり文 中国 中华人民共和国 東京タワー 日本語 が か゛ 〇々 𠮷野家",
    "hangul": "한국어 안녕하세요 대한민국 각 ᄀᆞ",
    "emoji": "🙂 👩‍👩‍👧 🏳️‍🌈 ❤️ 👍🏽 ∑∞≠ — “quoted” …",
    "code and digits": "def f(x):\n    return {'a': x[0]}  # 1234567 3.14 0xFF\r\n\t\tif (x):\n\n\n  pass\n        y = 10000000",
}
MORE = ("", "a", " ", "\n", "1", "中", ".", "s", " b", "é", "ا", "22")
MOST_TOKENS = 500


def random_texts(script: str, count: int, added: list[str], seed: int = 0) -> Iterator[str]:
    """Words of a script, its characters at random, white space, and now and then an added token."""
    draw = random.Random(f"{script} {seed}")
    words, characters = SCRIPTS[script].split(), sorted(set(SCRIPTS[script]))
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 4)):
            kind = draw.random()
            if kind < 0.5:
                parts.append(draw.choice(words))
            elif kind < 0.75:
                parts.append("".join(draw.choice(characters) for _ in range(draw.randint(1, 4))))
            elif kind < 0.85 and added:
                parts.append(draw.choice(added))
            else:
                parts.append(draw.choice(["  ", "   ", "\n", "\n\n", "\t", " ", "12", "'", "x"]))
            parts.append(draw.choice(["", "", " "]))
        yield "".join(parts) or "x"


def hashed_model(size: int):
    """A deterministic model that says anything."""
    rows: dict[tuple[int, ...], torch.Tensor] = {}

    def row(ids: tuple[int, ...]) -> torch.Tensor:
        if ids not in rows:
            if len(rows) > 64:
                rows.clear()
            seed = int(hashlib.sha1(repr(ids).encode()).hexdigest()[:8], 16)
            noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
            rows[ids] = noise.double().log_softmax(-1)
        return rows[ids]

    return lambda sequences: torch.stack([row(tuple(ids)) for ids in sequences])


def brute_covers(
    backend: Tokenizer, view: ByteVocabulary, text: bytes, encode
) -> set[tuple[int, ...]] | None:
    """All covers, or None where there are too many tokens to try."""
    lead = view.lead(text)
    spaced, candidates = lead + text, {text}
    for start in range(max(0, len(spaced) - view.longest), len(spaced)):
        with_prefix = view.with_prefix(spaced[start:])
        if len(with_prefix) + len(candidates) > MOST_TOKENS:
            return None
        tokens = ((view.token_bytes[number] or b"") for number in with_prefix.tolist())
        candidates |= {(spaced[:start] + data)[len(lead) :] for data in tokens}
    texts = {some + more for data in candidates for some in completed(data) for more in MORE}
    found = set()
    for written in encode(sorted(texts)):
        text_of, ids = written
        data, lead = view.decode(ids), len(view.lead(text_of.encode()))
        if data != (b" " * lead) + text_of.encode():
            # The tokenizer does not give this text back.
            continue
        ends = np.cumsum(view.lengths[list(ids)])
        found.add(tuple(ids[: int(np.searchsorted(ends, len(text) + lead)) + 1]))
    return found


def completed(data: bytes) -> list[str]:
    """Texts that begin with bytes which may end inside a character."""
    whole, begun = split_unfinished(data)
    try:
        text = whole.decode()
    except UnicodeDecodeError:
        return []
    if not begun:
        return [text]
    points = code_points(begun)
    step = max(1, len(points) // 20)
    return [text + chr(point) for point in [*points[::step], points[-1]]]


def check(name: str, backend: Tokenizer, count: int, seed: int = 0, verbose: bool = False) -> Counter:
    """Compare log-probabilities and covers on `count` texts of every script."""
    started = time.time()
    size = backend.get_vocab_size()
    model = hashed_model(size + 1)
    lm = ByteLM(model, backend, eos_token_ids=[size])
    view = lm.vocabulary
    added = [view.token_bytes[number].decode() for number in sorted(view.cut_ids)]
    common = [each for each in added if each.isspace() or len(each) < 8]
    added = added[:20] + common[:40]

    def encode(texts: list[str]):
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        return zip(texts, (encoding.ids for encoding in encodings), strict=True)

    found = Counter()
    for script in SCRIPTS:
        done = 0
        for text in random_texts(script, 20 * count, added, seed):
            if done >= count:
                break
            draw = random.Random(text)
            data = text.encode()[: draw.randint(1, len(text.encode()))]
            if draw.random() < 0.6:
                data = data.decode(errors="ignore").encode()
            if not data:
                continue
            expected = brute_covers(backend, view, data, encode)
            if expected is None:
                found["too many tokens"] += 1
                continue
            done += 1
            try:
                ours = {cover.ids for cover in lm.covers(data)}
                log_prob = lm.log_prob(data)
            except UserError as error:
                found["refused" if not expected else "refused wrongly"] += 1
                if expected:
                    print(name, script, repr(data), "REFUSED", error, flush=True)
                continue
            given = lm._covers.log_prob_given(lm._beginnings.find(None))
            rows = [
                sum(float(model([ids[:i]])[0, token]) for i, token in enumerate(ids))
                for ids in sorted(expected)
            ]
            brute = float(np.logaddexp.reduce(rows)) - given if rows else -np.inf
            if abs(brute - log_prob) < 1e-6:
                found[script] += 1
                continue
            found["WRONG"] += 1
            missing, extra = expected - ours, ours - expected
            if verbose:
                print(
                    name, script, repr(data), data.decode(errors="replace"), "ours", log_prob, "brute", brute,
                    "missing", [[backend.id_to_token(i) for i in ids] for ids in sorted(missing)[:3]], len(missing),
                    "extra", [[backend.id_to_token(i) for i in ids] for ids in sorted(extra)[:3]], len(extra), flush=True,
                )  # fmt: skip
    found["seconds"] = round(time.time() - started)
    return found


if __name__ == "__main__":
    from tests.real_tokenizers import NAMES, real_backend

    total = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    for chosen in sys.argv[2:] or NAMES:
        print(
            chosen,
            dict(check(chosen, real_backend(chosen), -(-total // len(SCRIPTS)), verbose=True)),
            flush=True,
        )
