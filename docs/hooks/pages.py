"""Makes the navigation and the API pages: a page or a package that is added is found, nothing is listed by hand.

A method's page stands under the family of the paper with its name, or under the `family` that its front matter names. A package is
documented where it has public names (`__all__`); of `tokenry.core`, every module is.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from tokenry.papers import catalogue

sys.path.insert(0, str(Path(__file__).parent))
from gallery import pictures
from notebooks import titles

ROOT = Path(__file__).parents[2]
DOCS, SOURCE = ROOT / "docs", ROOT / "src"
HIDDEN = ("app", "cli", "verbs", "recipes", "report")
FAMILIES = {
    "finetuning": "Weighings",
    "alignment": "Credit and preferences",
    "compression": "Fewer tokens",
    "tokenization": "Tokenizers",
    "decoding": "Decoding",
    "attribution": "Attribution",
    "pretraining": "Pretraining",
    "data": "Data",
    "generation": "Generation",
    "architectures": "Architectures",
    "evaluation": "Evaluation",
    "theory": "Theory",
}
GUIDES = (
    "index",
    "quickstart",
    "app",
    "which-method",
    "how-to-choose",
    "reinforcement-learning",
    "which-credit",
    "what-a-preference-loss-says",
    "which-attribution",
    "how-to-shorten-a-prompt",
    "which-reduction",
    "which-tokenizer-change",
    "which-decoder",
    "which-encoder",
    "which-pretraining-decision",
    "which-unit-to-predict",
    "which-image-tokenizer",
    "distributed",
    "endpoints",
    "security",
)
PROOF = ("gallery", "capability-matrix", "reproduction", "performance", "papers")


def on_config(config: Any) -> Any:
    """Lay out the navigation."""
    methods = _methods()
    config.nav = [
        *({_title(DOCS / f"{page}.md"): f"{page}.md"} for page in GUIDES),
        *({title: methods[family]} for family, title in FAMILIES.items() if family in methods),
        {"Notebooks": [{title: page} for page, title in titles().items()]},
        {"Proof": [{_title(DOCS / f"{page}.md"): f"{page}.md"} for page in PROOF]},
        {
            "Reference": [
                {"Command line": "cli.md"},
                *({name.removeprefix("tokenry."): _api(name)} for name in _packages()),
            ]
        },
        {"Changelog": "changelog.md"},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the API pages, and the pictures of the gallery."""
    for package in _packages():
        files.append(File.generated(config, _api(package), content=_api_page(package)))
    for uri, path in pictures(ROOT).items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def _methods() -> dict[str, list[dict[str, str]]]:
    """The pages of methods by family, those of papers first and in the order of the catalogue."""
    family_of = {
        paper.slug: paper.module.split(",")[0].split(".")[1] for paper in catalogue() if paper.module
    }
    order = list(family_of)
    pages = sorted(
        (DOCS / "methods").glob("*.md"),
        key=lambda page: (order.index(page.stem) if page.stem in order else len(order), page.stem),
    )
    methods: dict[str, list[dict[str, str]]] = {}
    for page in [*pages, *DOCS.glob("write-your-own-*.md")]:
        family = _front_matter(page, "family") or family_of[page.stem]
        methods.setdefault(family, []).append({_title(page): page.relative_to(DOCS).as_posix()})
    return methods


def _title(page: Path) -> str:
    heading = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.M)
    return heading[1] if heading else page.stem


def _front_matter(page: Path, key: str) -> str | None:
    head = re.match(r"---\n(.*?)\n---\n", page.read_text(encoding="utf-8"), re.S)
    found = re.search(rf"^{key}: (\S+)$", head[1], re.M) if head else None
    return found[1] if found else None


def _packages() -> Iterator[str]:
    """Packages with public names of their own, and the ground."""
    yield "tokenry.core"
    for init in sorted((SOURCE / "tokenry").rglob("__init__.py")):
        name = ".".join(init.parent.relative_to(SOURCE).parts)
        inside = name.split(".")[1:2]
        if inside and inside[0] not in HIDDEN and not name.startswith("tokenry.core") and _own_names(init):
            yield name


def _own_names(init: Path) -> list[str]:
    """The public names of a package that none of the packages in it has: a name is documented once."""
    below = {name for child in init.parent.glob("*/**/__init__.py") for name in _public_names(child)}
    return [name for name in _public_names(init) if name not in below]


def _public_names(init: Path) -> list[str]:
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def _api(package: str) -> str:
    return f"api/{package.removeprefix('tokenry.')}.md"


def _api_page(package: str) -> str:
    if package != "tokenry.core":
        names = _own_names(SOURCE.joinpath(*package.split("."), "__init__.py"))
        return f"# {package}\n\n{_documented(package, 2)}      members: {names}\n"
    modules = sorted((SOURCE / "tokenry" / "core").rglob("*.py"))
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in modules]
    public = [name for name in names if not name.rpartition(".")[2].startswith("_")]
    return "# tokenry.core\n\nWhat every family shares.\n\n" + "\n".join(
        f"## {name}\n\n{_documented(name, 3)}" for name in public
    )


def _documented(name: str, level: int) -> str:
    return (
        f"::: {name}\n    options:\n      show_root_heading: false\n"
        f"      show_root_toc_entry: false\n      heading_level: {level}\n"
    )
