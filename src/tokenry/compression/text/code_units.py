"""The semantic units of source code, and the tokens that each is made of: what subword merging makes one token of.

    units      identifiers (`getUserData`); with `identifier+literal` numbers and strings too; with `leaf` every leaf of the syntax tree
    group_ids  a token whose span, without white space around it, lies inside a unit belongs to it; neighbours of one unit are one group

A token across a border (`.append(`) belongs to no unit and splits one. Units are found by tree-sitter, or by a lexer that says so.

Source: Saad et al., "Token merging for pre-trained code models" (arXiv 2507.14423), with the rules of its reproduction: the paper names
identifiers as the example.
"""

import importlib
import keyword
import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from tokenry.core.errors import UserError, require_one_of

Policy = Literal["identifier", "identifier+literal", "leaf"]
Backend = Literal["auto", "tree-sitter", "lexer"]

IDENTIFIERS = frozenset(
    [
        "identifier",
        "field_identifier",
        "type_identifier",
        "property_identifier",
        "shorthand_property_identifier",
        "statement_identifier",
        "namespace_identifier",
        "package_identifier",
    ]
)
LITERALS = frozenset(
    [
        "integer",
        "float",
        "string",
        "string_literal",
        "char_literal",
        "number_literal",
        "decimal_integer_literal",
        "decimal_floating_point_literal",
        "hex_integer_literal",
        "character_literal",
    ]
)
"""Kinds of nodes, over the grammars of all languages."""
GRAMMARS = {"c++": "cpp", "csharp": "c_sharp", "c#": "c_sharp", "js": "javascript", "ts": "typescript"}
"""Languages whose grammar has another name."""


class Unit(NamedTuple):
    """A unit: its characters, from start to end, and the kind of its node."""

    start: int
    end: int
    kind: str


def semantic_units(
    source: str, language: str, policy: str = "identifier", backend: str = "auto"
) -> list[Unit]:
    """Find the units of source code, from its start to its end.

    Args:
        source: the code; it may be cut off or wrong.
        language: such as python, java or c.
        policy: what is a unit.
        backend: `tree-sitter` needs the grammar of the language (extra `code`); `lexer` reads identifiers, numbers and strings without it;
            `auto` takes the lexer, with a warning, where there is no grammar.

    Raises:
        UserError: no such policy or backend, no grammar where one is needed.
    """
    require_one_of(policy, get_args(Policy), "policy")
    if backend_for(language, policy, backend) == "lexer":
        kinds = ("identifier",) if policy == "identifier" else ("identifier", "literal")
        return [unit for unit in _lexed(source, language) if unit.kind in kinds]
    return _parsed(source, language, policy)


def backend_for(
    language: str, policy: str = "identifier", backend: str = "auto"
) -> Literal["tree-sitter", "lexer"]:
    """What finds the units of a language here; warns where `auto` is left with the lexer."""
    require_one_of(backend, get_args(Backend), "backend")
    if backend == "lexer" and policy == "leaf":
        raise UserError(
            "the lexer knows identifiers, numbers and strings, but no leaves: take the policy identifier+literal, or "
            'backend="tree-sitter".'
        )
    if backend == "lexer" or _parser(language) is not None:
        return "lexer" if backend == "lexer" else "tree-sitter"
    missing = (
        f"there is no grammar for {language!r} here: install the extra `code` (Python, Java and C) or the package "
        f"tree-sitter-{_grammar(language).replace('_', '-')}"
    )
    if backend == "tree-sitter" or policy == "leaf":
        raise UserError(
            f'{missing}, or take backend="lexer" with the policy identifier or identifier+literal.'
        )
    warnings.warn(f"{missing}; a lexer finds the identifiers meanwhile.", stacklevel=3)
    return "lexer"


def group_tokens(
    offsets: Sequence[Sequence[int]] | Int[ndarray, "tokens 2"],
    special_mask: Sequence[int | bool] | Bool[ndarray, "tokens"] | Int[ndarray, "tokens"],
    units: Sequence[Sequence[Any]],
    source: str,
) -> Int[ndarray, "tokens"]:
    """Number the groups of the tokens of one text; a token without a unit, and a special one, is a group of its own.

    Example: `get User Data ( x` with the units (0, 11) and (12, 13) has the groups 0 0 0 1 2.

    Args:
        offsets: characters of each token, from start to end.
        special_mask: true for special tokens.
        units: start and end of each unit, in order, without overlap.

    Raises:
        UserError: the offsets go back.
    """
    spans = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    special = np.asarray(special_mask, dtype=bool)
    _require_forward(spans, special)
    starts, ends = _without_space(spans, source)
    bounds = np.array([unit[:2] for unit in units], dtype=np.int64).reshape(-1, 2)
    place = np.searchsorted(bounds[:, 0], starts, side="right") - 1
    inside = (place >= 0) & (starts < ends) & ~special
    if len(bounds):
        inside &= ends <= bounds[place, 1]
    unit = np.where(inside, place, -1)
    begins = np.ones(len(unit), dtype=bool)
    begins[1:] = ~inside[1:] | (unit[1:] != unit[:-1])
    return np.cumsum(begins) - 1


def _require_forward(spans: Int[ndarray, "tokens 2"], special: Bool[ndarray, "tokens"]) -> None:
    own = np.flatnonzero(~special)
    starts, ends = spans[own].T
    back = np.flatnonzero((starts[1:] < starts[:-1]) | (ends[1:] < ends[:-1]))
    if len(back) or (starts > ends).any():
        token = int(own[back[0] + 1]) if len(back) else int(own[(starts > ends).argmax()])
        raise UserError(
            f"offsets must go from the start of the text to its end, but token {token} has {tuple(spans[token].tolist())} after "
            f"{tuple(spans[max(token - 1, 0)].tolist())}: give the offsets of one text, as its tokenizer returns them."
        )


_BLANK = np.array([chr(code).isspace() for code in range(0x3002)])
"""Whether a character is white space, by its code; none beyond the last is."""


def _without_space(
    spans: Int[ndarray, "tokens 2"], source: str
) -> tuple[Int[ndarray, "tokens"], Int[ndarray, "tokens"]]:
    """Spans without white space at either end; those of white space alone end before they start."""
    codes = np.frombuffer(source.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    blank = _BLANK[np.minimum(codes, len(_BLANK) - 1)]
    here = np.arange(len(source))
    # For every border between characters: the first visible one after it, and the end of the last one before it.
    after = np.append(np.where(blank, len(source), here), len(source))
    after = np.minimum.accumulate(after[::-1])[::-1]
    before = np.append(0, np.maximum.accumulate(np.where(blank, 0, here + 1)))
    inside = spans.clip(0, len(source))
    return after[inside[:, 0]], before[inside[:, 1]]


# --- tree-sitter ---------------------------------------------------------------------------------------------------------------------


def _grammar(language: str) -> str:
    return GRAMMARS.get(language.lower(), language.lower().replace("-", "_"))


@cache
def _parser(language: str) -> Any:
    """A parser of the language; None where its grammar, or tree-sitter, is not installed."""
    grammar = _grammar(language)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", grammar):
        return None
    try:
        tree_sitter = importlib.import_module("tree_sitter")
        module = importlib.import_module(f"tree_sitter_{grammar}")
    except ImportError:
        return None
    # TypeScript's package holds two grammars.
    made = getattr(module, "language", None) or getattr(module, f"language_{grammar}")
    return tree_sitter.Parser(tree_sitter.Language(made()))


def _parsed(source: str, language: str, policy: str) -> list[Unit]:
    data = source.encode("utf-8", "surrogatepass")
    found = list(_nodes(_parser(language).parse(data), policy))
    if source.isascii():
        return [Unit(*unit) for unit in found]
    # Number of characters that begin before each byte.
    begins = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
    character = np.append(0, np.cumsum(begins)).tolist()
    return [Unit(character[start], character[end], kind) for start, end, kind in found]


def _nodes(tree: Any, policy: str) -> Iterator[tuple[int, int, str]]:
    """The bytes of the nodes that are units, in order; no unit stands inside another."""
    whole = LITERALS if policy == "identifier+literal" else frozenset()
    cursor = tree.walk()
    while True:
        node = cursor.node
        is_leaf = node.child_count == 0
        if node.type in whole or (is_leaf and (policy == "leaf" or node.type in IDENTIFIERS)):
            if node.start_byte < node.end_byte:
                yield node.start_byte, node.end_byte, node.type
        elif cursor.goto_first_child():
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return


# --- the lexer -----------------------------------------------------------------------------------------------------------------------

_JAVA = (
    "abstract assert boolean break byte case catch char class const continue default do double else enum extends false final finally "
    "float for goto if implements import instanceof int interface long native new null package private protected public return short "
    "static strictfp super switch synchronized this throw throws transient true try void volatile while"
)
_C = (
    "auto bool break case char const continue default do double else enum extern false float for goto if inline int long NULL register "
    "restrict return short signed sizeof static struct switch true typedef union unsigned void volatile while int8_t int16_t int32_t "
    "int64_t uint8_t uint16_t uint32_t uint64_t intptr_t uintptr_t ptrdiff_t size_t ssize_t"
)
_KEYWORDS = {
    "python": frozenset(keyword.kwlist),
    "java": frozenset(_JAVA.split()),
    "c": frozenset(_C.split()),
}
_ANY = frozenset().union(*_KEYWORDS.values())
_NUMBER = r"(?P<number>(?:\d|\.\d)(?:[eEpP][+-](?=\d)|[\w.])*)"
_NAME = r"(?P<identifier>(?:[^\W\d]|\$)[\w$]*)"
_QUOTED = (
    r"'''(?:\\[\s\S]|[^\\])*?(?:'''|\Z)|\"\"\"(?:\\[\s\S]|[^\\])*?(?:\"\"\"|\Z)"
    r"|'(?:\\[\s\S]|[^'\\\n])*'?|\"(?:\\[\s\S]|[^\"\\\n])*\"?"
)
# Words such as `match` or `record` are names, but where they open a statement.
_PYTHON = re.compile(
    r"(?P<skip>\#[^\n]*|(?<=from )__future__|^[ \t]*type(?=[ \t]+\w)"
    r"|^[ \t]*(?:match|case)(?=[ \t]+[^\s=+*/%&|^<>@.,:)!][^\n]*:|[ \t]+_:)(?:[ \t]+_(?=\W))?)"
    rf"|(?P<string>(?:[rRbBuUfFtT]{{1,2}})?(?:{_QUOTED}))|{_NUMBER}|{_NAME}",
    re.M,
)
_OTHERS = re.compile(
    r"(?P<skip>//[^\n]*|/\*[\s\S]*?(?:\*/|\Z)|\#[ \t]*(?:include[ \t]*<[^>\n]*>|\w+)"
    r"|\brecord(?=\s+\w+\s*[(<])|\b(?:sealed|permits|yield)(?=\s+[\w$\"'-]))"
    rf"|(?P<string>{_QUOTED})|{_NUMBER}|{_NAME}"
)


def _lexed(source: str, language: str) -> Iterator[Unit]:
    """Identifiers, and numbers and strings as literals; no name inside a string or a comment is one."""
    keywords = _KEYWORDS.get(language.lower(), _ANY)
    for match in (_PYTHON if language.lower() == "python" else _OTHERS).finditer(source):
        if match.lastgroup in ("number", "string"):
            yield Unit(*match.span(), "literal")
        elif match.lastgroup == "identifier" and match.group() not in keywords:
            yield Unit(*match.span(), "identifier")
