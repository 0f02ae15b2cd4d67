r"""Pre-tokenizers that group digits from the left, from the right or one by one, and are saved in `tokenizer.json`.

    l2r     [0-9]{1,3}
    r2l     [0-9]+, then ^[0-9]{1,2}(?=(?:[0-9]{3})+$), then [0-9]{3}
    single  [0-9]

The look-ahead of `r2l` stands at the beginning of a run that was isolated before, so it is tried once per run: linear, and equal to
the arithmetic at every length (one regular expression for all of it looks ahead at every digit, and is quadratic).

Digits are cut *before* the words, and the pattern of the words must not take a space before a number: ` ?\p{N}+` becomes `\p{N}+`.

Source: Tokenization counts (arXiv 2402.14903); a bounded three-step form is that of marin (issue 4915).
"""

from typing import get_args

from tokenizers import Regex, pre_tokenizers

from tokenry.core.errors import require_one_of
from tokenry.core.text.digit_groups import GroupMode, require_fraction_mode, require_group
from tokenry.tokenization.training.byte_level_training import byte_level_steps

NUMBER_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+|\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""Words with the space before them, numbers without it, punctuation, white space."""


def number_pre_tokenizer(
    mode: str = "r2l", group: int = 3, unicode: bool = False, fraction: str | None = None
) -> pre_tokenizers.PreTokenizer:
    """Cut digits into groups, as `group_digits` does; all other text is left as it is.

    Args:
        mode: `l2r`, `r2l` or `single`.
        group: number of digits of a group.
        unicode: whether all decimal digits count, not only 0 to 9.
        fraction: `l2r` groups the digits of a fraction outwards from the point.
    """
    return pre_tokenizers.Sequence(_splits(mode, group, unicode, fraction))


def number_pieces(
    mode: str = "r2l",
    group: int = 3,
    unicode: bool = False,
    fraction: str | None = None,
    pattern: str = NUMBER_PATTERN,
) -> pre_tokenizers.PreTokenizer:
    """The whole pre-tokenizer of a byte-level tokenizer: digits in groups, then words by a pattern, then bytes as characters.

    Args:
        mode: `l2r`, `r2l` or `single`.
        group: number of digits of a group.
        unicode: whether all decimal digits count, not only 0 to 9.
        fraction: `l2r` groups the digits of a fraction outwards from the point.
        pattern: regular expression that cuts words.
    """
    return pre_tokenizers.Sequence([*_splits(mode, group, unicode, fraction), *byte_level_steps(pattern)])


def _splits(mode: str, group: int, unicode: bool, fraction: str | None) -> list[pre_tokenizers.PreTokenizer]:
    require_one_of(mode, get_args(GroupMode), "mode")
    require_group(group)
    require_fraction_mode(fraction)
    digit = r"\p{Nd}" if unicode else "[0-9]"
    patterns = [f"{digit}{{1,{1 if mode == 'single' else group}}}"]
    if mode == "r2l" and group > 1:
        patterns = [
            f"{digit}+",
            f"^{digit}{{1,{group - 1}}}(?=(?:{digit}{{{group}}})+$)",
            f"{digit}{{{group}}}",
        ]
        if fraction == "l2r":
            # \G: right after the last group, so that the groups of one fraction follow each other.
            patterns.insert(0, rf"(?:(?<={digit}\.)|(?!\A)\G){digit}{{1,{group}}}")
    return [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
