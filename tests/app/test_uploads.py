"""Uploads are judged by their content, and lie in the folder of their job under a name of our own making."""

import json

import pytest
from PIL import Image

from tokenry.app.uploads import Kind, take
from tokenry.core.errors import UserError

TOKENIZER = json.dumps({"model": {"type": "BPE"}}).encode()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("text.txt", b"\xff\xfe\x00", Kind.TEXT),
        ("text.txt", b"a\0b", Kind.TEXT),
        ("text.exe", b"plain", Kind.TEXT),
        ("mine.json", b"{}", Kind.TOKENIZER),
        ("mine.json", b"[1]", Kind.TOKENIZER),
        ("mine.json", b"no json", Kind.TOKENIZER),
        ("data.jsonl", bytes(range(256)), Kind.ROWS),
        ("data.pkl", b"{}", Kind.ROWS),
        ("runs.csv", b"\x80", Kind.RUNS),
        ("image.png", b"plain", Kind.IMAGE),
        ("image.png", b"GIF89a", Kind.IMAGE),
        ("image.svg", b"<svg onload='alert(1)'/>", Kind.IMAGE),
    ],
)
def test_a_file_of_another_kind_is_refused(name, content, kind, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        take(tmp_path / name, kind, tmp_path / "job")
    assert str(error.value) == f"{name} is not {kind.noun}: choose another file."
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("name", ["my tokenizer.json", "..hidden.json", "$(rm).json", "a" * 200 + ".json"])
def test_a_copy_has_a_plain_name_in_the_folder(name, tmp_path):
    (tmp_path / name).write_bytes(TOKENIZER)
    copy = take(tmp_path / name, Kind.TOKENIZER, tmp_path / "job")
    assert copy.parent == tmp_path / "job"
    assert copy.stem.replace("-", "").isalnum()
    assert copy.read_bytes() == TOKENIZER
    assert take(tmp_path / name, Kind.TOKENIZER, tmp_path / "job") != copy


def test_an_image_gets_the_ending_of_its_content(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "one.png", format="JPEG")
    assert take(tmp_path / "one.png", Kind.IMAGE, tmp_path / "job").name == "one.jpg"
