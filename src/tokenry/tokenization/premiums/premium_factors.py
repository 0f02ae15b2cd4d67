"""The properties of a language that go with a high corpus token count: measured on its text, tested one by one.

    count(language, V) ~ factor(language) + log V        all standardised: the coefficient, and the gain in R² by the factor
    Pearson r            of the factor with the language's mean count over V

The vocabulary is a covariate because it acts on every language. Properties that no text shows (phonemes, family) can be added as columns.

Source: Explaining and Mitigating Crosslingual Tokenizer Inequities (arXiv 2510.21909), linear models over languages.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import pearsonr
from sklearn.linear_model import LinearRegression

from tokenry.core.errors import UserError

Number = int | float

_SCRIPT_TYPES = {
    "alphabet": "LATIN CYRILLIC GREEK ARMENIAN GEORGIAN HANGUL MONGOLIAN OL TIFINAGH N'KO NKO ADLAM OSMANYA DESERET",
    "abjad": "ARABIC HEBREW SYRIAC THAANA SAMARITAN",
    "abugida": "DEVANAGARI BENGALI GURMUKHI GUJARATI ORIYA TAMIL TELUGU KANNADA MALAYALAM SINHALA THAI LAO TIBETAN MYANMAR KHMER "
    "ETHIOPIC BALINESE JAVANESE SUNDANESE CANADIAN TAI CHAM MEETEI LEPCHA LIMBU",
    "syllabary": "HIRAGANA KATAKANA CHEROKEE VAI YI",
    "logographic": "CJK",
}
_TYPE_OF_SCRIPT = {script: kind for kind, scripts in _SCRIPT_TYPES.items() for script in scripts.split()}


@dataclass(frozen=True)
class TextFeatures:
    """Properties of a language as its text shows them.

    Attributes:
        bytes: number of UTF-8 bytes.
        chars: number of code points.
        whitespace_proportion: share of the characters that are white space.
        mean_word_length: mean number of characters between white space.
        char_entropy_bits: entropy of single characters, in bits.
        bytes_per_char: UTF-8 bytes over characters.
        distinct_chars: number of different characters.
        script: script of most letters by its Unicode name, such as `LATIN`.
        writing_system: alphabet, abjad, abugida, syllabary, logographic, or other.
    """

    bytes: int
    chars: int
    whitespace_proportion: float
    mean_word_length: float
    char_entropy_bits: float
    bytes_per_char: float
    distinct_chars: int
    script: str
    writing_system: str

    def numbers(self) -> dict[str, float]:
        """The features that are numbers, and an indicator for each kind of writing system."""
        named = (
            "whitespace_proportion",
            "mean_word_length",
            "char_entropy_bits",
            "bytes_per_char",
            "distinct_chars",
        )
        kinds = {f"is_{kind}": float(self.writing_system == kind) for kind in _SCRIPT_TYPES}
        return {name: float(getattr(self, name)) for name in named} | kinds


@dataclass(frozen=True)
class FactorTest:
    """Association of one factor with the counts.

    Attributes:
        pearson_r: correlation with the mean count of each language; nan where the factor does not vary.
        p_value: two-sided p of the correlation.
        coefficient: standard deviations of the count per standard deviation of the factor, beside log V.
        r2: R² of the regression on factor and log V.
        r2_gain: gain in R² over log V alone.
    """

    factor: str
    pearson_r: float
    p_value: float
    coefficient: float
    r2: float
    r2_gain: float
    languages: int


def premium_factors(texts: Iterable[str]) -> TextFeatures:
    """Measure the texts of one language, joined by line breaks."""
    text = "\n".join(texts)
    words = text.split()
    if not words:
        raise UserError("the evaluation text is empty: there is nothing to measure.")
    characters = Counter(text)
    shares = np.array([*characters.values()]) / len(text)
    script = _script(characters)
    return TextFeatures(
        bytes=len(text.encode()),
        chars=len(text),
        whitespace_proportion=sum(count for character, count in characters.items() if character.isspace())
        / len(text),
        mean_word_length=sum(map(len, words)) / len(words),
        char_entropy_bits=float(-(shares * np.log2(shares)).sum()),
        bytes_per_char=len(text.encode()) / len(text),
        distinct_chars=len(characters),
        script=script,
        writing_system=_TYPE_OF_SCRIPT.get(script, "other"),
    )


def trigram_similarity(train_texts: Iterable[str], eval_texts: Iterable[str]) -> float:
    """Cosine similarity of the character trigrams of training and evaluation text, from 0 to 1."""
    ours, theirs = _trigrams(train_texts), _trigrams(eval_texts)
    if not ours or not theirs:
        raise UserError("a text of fewer than three characters has nothing to compare: give longer text.")
    together = sum(count * theirs[trigram] for trigram, count in ours.items())
    return together / math.sqrt(
        sum(count**2 for count in ours.values()) * sum(count**2 for count in theirs.values())
    )


def factor_report(
    features: Mapping[str, TextFeatures | Mapping[str, Number]], counts: Mapping[str, Mapping[int, Number]]
) -> list[FactorTest]:
    """Test every factor, the one with the largest gain in R² first.

    Args:
        features: of each language what `premium_factors` measured, or the same factors as numbers by name.
        counts: corpus token counts, or premiums, by language and vocabulary size.
    """
    numbers = {
        language: found.numbers() if isinstance(found, TextFeatures) else found
        for language, found in features.items()
    }
    _require_complete(numbers, counts)
    languages = list(counts)
    rows = [(language, size) for language in languages for size in counts[language]]
    count = _standardised([counts[language][size] for language, size in rows])
    size = _standardised([math.log(size) for _, size in rows])
    mean_count = np.array([np.mean([*counts[language].values()]) for language in languages])
    alone = _r2(size[:, None], count)[0]
    found = []
    for factor in numbers[languages[0]]:
        value = _standardised([numbers[language][factor] for language, _ in rows])
        r2, coefficients = _r2(np.stack([value, size], axis=1), count)
        per_language = np.array([numbers[language][factor] for language in languages], dtype=float)
        r, p = pearsonr(per_language, mean_count) if np.ptp(per_language) > 0 else (math.nan, math.nan)
        found.append(
            FactorTest(factor, float(r), float(p), coefficients[0], r2, max(r2 - alone, 0.0), len(languages))
        )
    return sorted(found, key=lambda test: -test.r2_gain)


def _script(characters: Mapping[str, int]) -> str:
    """The first word of the Unicode names of most letters; Japanese text counts as Han or kana, whichever is more frequent."""
    scripts: Counter[str] = Counter()
    for character, count in characters.items():
        if unicodedata.category(character).startswith("L"):
            name = unicodedata.name(character, "OTHER").replace("-", " ").split()
            scripts[name[0]] += count
    return scripts.most_common(1)[0][0] if scripts else "OTHER"


def _trigrams(texts: Iterable[str]) -> Counter[str]:
    return Counter(text[start : start + 3] for text in texts for start in range(len(text) - 2))


def _standardised(values: Iterable[Number]) -> Float[ndarray, "rows"]:
    """Mean 0 and standard deviation 1; zeros where nothing varies."""
    array = np.fromiter(values, dtype=float)
    spread = array.std()
    return (array - array.mean()) / spread if spread > 1e-12 * max(1.0, abs(array.mean())) else 0 * array


def _r2(factors: Float[ndarray, "rows factors"], count: Float[ndarray, "rows"]) -> tuple[float, list[float]]:
    fit = LinearRegression().fit(factors, count)
    return float(fit.score(factors, count)) if count.any() else 0.0, [
        float(coefficient) for coefficient in fit.coef_
    ]


def _require_complete(
    features: Mapping[str, Mapping[str, Number]], counts: Mapping[str, Mapping[int, Number]]
) -> None:
    if len(counts) < 4:
        raise UserError(f"{len(counts)} languages are too few to tell factors apart: give at least 4.")
    missing = [language for language in counts if language not in features]
    if missing:
        raise UserError(f"{', '.join(missing)} has counts but no features: measure its text too.")
    first = next(iter(counts))
    for language in counts:
        if features[language].keys() != features[first].keys():
            raise UserError(
                f"{first} and {language} have different factors: give the same for every language."
            )
