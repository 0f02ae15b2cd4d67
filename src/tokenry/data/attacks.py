"""Attacks on detectors of machine text, to measure what they survive, and the normaliser that undoes some of them.

An attack is a pattern of places and what is put there; `rate` is the share of the places of a text that are changed. What happens to a text
depends on its own words, the kind and the seed, never on the texts beside it.

Source: the attacks of the RAID benchmark, arXiv 2405.07940; word lists and rates are ours. Texts are never made to evade a detector of others:
paraphrases are written by a function that the user brings.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tokenry.core.errors import require_fraction, require_one_of

Paraphrase = Callable[[str], str]

LOOK_ALIKES = str.maketrans("aceijopsxyABCEHIJKMOPSTXY", "асеіјорѕхуАВСЕНІЈКМОРЅТХУ")
"""Latin letters to the Cyrillic ones that look like them."""
_FOLDED = {alike: letter for letter, alike in LOOK_ALIKES.items()} | str.maketrans(
    "οΟΑΒΕΗΙΚΜΝΡΤΥΧΖν", "oOABEHIKMNPTYXZv"
)
_INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
_JOINERS = re.compile(r"(?<![\x00-\u024f])[\u200c\u200d]|[\u200c\u200d](?![\x00-\u024f])")
_WORD = re.compile(r"\w+")

_BRITISH = (
    "behavior behaviour, center centre, color colour, defense defence, favor favour, favorite favourite, fiber fibre, flavor flavour, "
    "gray grey, harbor harbour, honor honour, humor humour, labor labour, license licence, liter litre, meter metre, neighbor neighbour, "
    "offense offence, program programme, rumor rumour, theater theatre, traveler traveller, analyze analyse, organize organise, "
    "recognize recognise, realize realise, optimize optimise, normalize normalise, initialize initialise, customize customise, "
    "modeling modelling, labeled labelled, labeling labelling, canceled cancelled, catalog catalogue, dialog dialogue, artifact artefact"
)
_SYNONYMS = (
    "big large, small little, fast quick, begin start, end finish, show display, help assist, use employ, make create, give provide, get obtain, "
    "need require, think believe, say state, important significant, many numerous, also additionally, but however, because since, about regarding, "
    "good fine, bad poor, new recent, old former, easy simple, hard difficult, often frequently, only solely, whole entire, value quantity, "
    "error mistake, result outcome, part portion, kind type, way manner, number figure, return yield, check verify, choose select, change alter"
)


def _table(pairs: str) -> dict[str, str]:
    """Words and what may stand in their place, both ways."""
    words = [pair.split(" ") for pair in pairs.split(", ")]
    forth = {word: other for word, other in words}  # noqa: C416  (mypy does not know that lists are pairs)
    return {other: word for word, other in words} | forth


def _among(words: Mapping[str, str]) -> str:
    return rf"(?i:\b(?:{'|'.join(sorted(words))})\b)"


def _instead(words: Mapping[str, str]) -> Callable[[str, Random], str]:
    def replaced(found: str, draws: Random) -> str:
        other = words[found.lower()]
        return other.capitalize() if found[0].isupper() else other

    return replaced


def _swap_inner(word: str, draws: Random) -> str:
    """Two neighbouring letters inside the word change places."""
    place = draws.randrange(1, len(word) - 2)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


@dataclass(frozen=True)
class Attack:
    """One kind of attack.

    Attributes:
        pattern: places that can be changed.
        replace: what is put in the place of what was found there.
        rate: share of the places that RAID changes.
    """

    pattern: str
    replace: Callable[[str, Random], str]
    rate: float


_SPELLINGS, _EQUIVALENTS = _table(_BRITISH), _table(_SYNONYMS)

ATTACKS: Mapping[str, Attack] = {
    "homoglyph": Attack(f"[{''.join(map(chr, LOOK_ALIKES))}]", lambda letter, _: letter.translate(LOOK_ALIKES), 1.0),
    "zero_width_space": Attack(r"(?<=\w)(?=\w)", lambda _, __: "\u200b", 1.0),
    "whitespace": Attack(" ", lambda _, __: "  ", 0.2),
    "upper_lower": Attack(r"\b[^\W\d_]", lambda letter, _: letter.swapcase(), 0.05),
    "misspelling": Attack(r"\b[^\W\d_]{4,}\b", _swap_inner, 0.2),
    "synonym": Attack(_among(_EQUIVALENTS), _instead(_EQUIVALENTS), 0.5),
    "alternative_spelling": Attack(_among(_SPELLINGS), _instead(_SPELLINGS), 1.0),
    "article_deletion": Attack(r"(?i:\b(?:a|an|the) +)", lambda _, __: "", 0.5),
    "insert_paragraphs": Attack(r"(?<=[.!?]) +(?=\S)", lambda _, __: "\n\n", 0.5),
    "number": Attack(r"\d", lambda digit, draws: draws.choice([other for other in "0123456789" if other != digit]), 0.5),
}  # fmt: skip
"""The attacks by name; the paraphrase is the user's own function."""


def attack(
    texts: Sequence[str], kind: str | Paraphrase, rate: float | int | None = None, seed: int = 0
) -> list[str]:
    """Attack texts.

    Args:
        texts: the texts.
        kind: name among `ATTACKS`, or a function that writes a text anew.
        rate: share of the places that are changed; by default RAID's.
        seed: random seed of the places and replacements.
    """
    if callable(kind):
        return [kind(text) for text in texts]
    require_one_of(kind, tuple(ATTACKS), "an attack")
    chosen = ATTACKS[kind]
    share = chosen.rate if rate is None else rate
    require_fraction(share, "rate")
    return [_attacked(text, chosen, share, Random(f"{seed} {kind} {text}")) for text in texts]


def _attacked(text: str, chosen: Attack, rate: float | int, draws: Random) -> str:
    places = list(re.finditer(chosen.pattern, text))
    changed = set(draws.sample(range(len(places)), round(rate * len(places))))
    pieces, end = [], 0
    for number, place in enumerate(places):
        if number in changed:
            pieces += [text[end : place.start()], chosen.replace(place[0], draws)]
            end = place.end()
    return "".join(pieces) + text[end:]


def normalize_text(text: str) -> str:
    """Undo compatibility forms (NFKC), invisible characters and look-alike letters, in Latin text; other scripts keep theirs.

    A letter that looks Latin is folded where its word has no letter that only another script has, and Latin letters are the more in the text.
    Joiners stay between letters that they belong to, as in Persian and Hindi.
    """
    joined = unicodedata.normalize("NFKC", text)
    kept = _JOINERS.sub(lambda found: {"\u200c": "\ue000", "\u200d": "\ue001"}[found[0]], joined)
    plain = _INVISIBLE.sub("", kept).replace("\ue000", "\u200c").replace("\ue001", "\u200d")
    latin = sum(_is_latin(letter) for letter in plain)
    foreign = sum(_is_foreign(letter) for letter in plain)
    if latin <= foreign:
        return plain
    return _WORD.sub(
        lambda word: word[0] if any(map(_is_foreign, word[0])) else word[0].translate(_FOLDED), plain
    )


def _is_latin(letter: str) -> bool:
    return letter.isalpha() and letter <= "\u024f"


def _is_foreign(letter: str) -> bool:
    """Whether a letter belongs to another script and looks like no Latin one."""
    return letter.isalpha() and letter > "\u024f" and ord(letter) not in _FOLDED
