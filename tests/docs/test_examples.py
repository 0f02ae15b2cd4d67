"""What the pages tell a reader to type: commands are parsed by the command line itself, Python is compiled and its imports are made.

Python below `<!-- run -->` is run as well, the blocks of a page one after another. Links within the pages of the site are checked where that
is built (`mkdocs build --strict`), those of the pages beside it here.
"""

import ast
import importlib
import re
import shlex
import textwrap
from itertools import takewhile

import pytest
from typer.main import get_command

from tests import ROOT
from tests.fresh_process import run_script
from tokenry.cli import app

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.S | re.M)
RUN = re.compile(r"^( *)<!-- run -->\n\n\1```python\n(.*?)^\1```", re.S | re.M)
RUN_PAGES = [page for page in PAGES if RUN.search(page.read_text(encoding="utf-8"))]
BESIDE_THE_SITE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
STANDS_FOR_THE_USERS = re.compile(r"\[[A-Z-]|…|\.\.\.|^VERB$|^SLUG$")
ENDS_THE_PROGRAM = {"--help", "-h", "--version", "--install-completion", "--show-completion"}
NAMED_ONLY = re.compile("Missing|requires an argument")


def blocks(*languages):
    return [
        pytest.param(textwrap.dedent(code), id=f"{page.relative_to(ROOT)}:{text[:at].count(chr(10)) + 1}")
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for at, language, code in ((found.start(), found[2], found[3]) for found in BLOCK.finditer(text))
        if language in languages
    ]


def commands(code):
    """Every call of tokenry in a block of shell, as words."""
    for line in re.sub(r"\\\n", " ", code).splitlines():
        words = shlex.split(line, comments=True)
        while words and (words[0].startswith((".venv/bin/", "$ ")) or "=" in words[0].partition(" ")[0]):
            words[:1] = [] if "=" in words[0] else [words[0].rpartition("/")[2]]
        for start in [
            at
            for at, word in enumerate(words)
            if word == "tokenry" and (at == 0 or words[at - 1] in ("|", "&&", "-m"))
        ]:
            yield list(takewhile(lambda word: word not in ("|", "&&", ">", ">>", "2>", ";"), words[start + 1 :]))  # fmt: skip


def is_parsed(words):
    return not ENDS_THE_PROGRAM.intersection(words) and not any(map(STANDS_FOR_THE_USERS.search, words))


def parse(words):
    """Parse a call as the command line does, without running it."""
    command = get_command(app)
    context = command.make_context("tokenry", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("code", blocks("bash", "sh", "shell", "console"))
def test_every_command_in_the_pages_is_one(code):
    for words in commands(code):
        if not is_parsed(words):
            continue
        try:
            parse(words)
        except Exception as error:
            pytest.fail(f"tokenry {shlex.join(words)}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_in_a_sentence_is_one(page):
    for call in re.findall(r"(?<!`)`(tokenry [^`\n]+)`(?!`)", page.read_text(encoding="utf-8")):
        for words in commands(call):
            if not is_parsed(words):
                continue
            try:
                parse(words)
            except Exception as error:  # of an option that is only named, or a group
                if not (NAMED_ONLY.search(str(error)) or type(error).__name__ == "NoArgsIsHelpError"):
                    pytest.fail(f"{call}: {error}")


@pytest.mark.parametrize("code", blocks("python", "py"))
def test_every_example_compiles_and_finds_what_it_imports(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tokenry"):
            module = importlib.import_module(node.module)
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{node.module} has no {', '.join(missing)}"


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_that_say_so_run(page, tmp_path):
    marked = RUN.findall(page.read_text(encoding="utf-8"))
    assert page.read_text(encoding="utf-8").count("<!-- run -->") == len(marked)
    script = tmp_path / "example.py"
    script.write_text("\n".join(textwrap.dedent(code) for _, code in marked), encoding="utf-8")
    finished = run_script(script, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("page", BESIDE_THE_SITE, ids=lambda page: page.name)
def test_every_link_beside_the_site_leads_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune", "--wheighing", "x"], "No such option: --wheighing"),
        (["tunes"], "No such command 'tunes'"),
        (["tune", "--seeds", "many"], "valid integer"),
    ],
)
def test_a_command_that_is_none_is_found(words, said):
    with pytest.raises(Exception, match=said):
        parse(words)


BESIDE_THE_SITE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", BESIDE_THE_SITE, ids=lambda page: page.name)
def test_links_of_pages_beside_the_site_lead_somewhere(page):
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]
