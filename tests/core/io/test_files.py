import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.files import atomic_write, new_folder, read_json, write_json


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as partial:
        partial.write_text("first")
    with pytest.raises(UnicodeEncodeError), atomic_write(path) as partial:
        partial.write_text("\udc80", encoding="utf-8")
    assert path.read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_json_comes_back_and_damaged_json_is_refused(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="does not exist"):
        read_json(tmp_path / "c.json")


def test_a_new_folder_is_there_whole(tmp_path):
    with new_folder(tmp_path / "deep" / "made") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "deep" / "made").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["made"]
    assert (tmp_path / "deep" / "made" / "file").read_text() == "x"


def test_a_new_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError), new_folder(tmp_path / "made") as partial:
        (partial / "file").write_text("\udc80", encoding="utf-8")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_refused_and_kept(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists already: name a new folder"), new_folder(tmp_path):
        pass
    assert (tmp_path / "file").read_text() == "mine"
