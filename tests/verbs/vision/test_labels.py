import pytest

from tests.tiny.images import CLASSES, write_images
from tokenry.core.errors import UserError
from tokenry.core.io.images import find_images
from tokenry.verbs.compress._vision.labels import match_labels, read_label_rows


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", 6)
    return tmp_path / "images"


def silent(words):
    raise AssertionError(words)


def labels(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_labels_are_names_or_indices_and_files_may_be_bare_names(folder, tmp_path):
    rows = read_label_rows(labels(tmp_path / "l.csv", "file,label\na/0.png,dog\n1.jpg, 2 \n"))
    files = find_images(folder)
    assert match_labels(rows, files, files, CLASSES, silent) == [1, None, None, 2, None, None]


def test_rows_without_an_image_are_named(folder, tmp_path):
    rows = read_label_rows(labels(tmp_path / "l.csv", "file,label\na/0.png,dog\nc/9.jpg,cat\n"))
    files, said = find_images(folder), []
    match_labels(rows, files, files, CLASSES, said.append)
    assert said == ["labelled files that are not among the images: c/9.jpg."]


def test_a_row_of_an_image_beyond_the_limit_is_no_stranger(folder, tmp_path):
    rows = read_label_rows(labels(tmp_path / "l.csv", "file,label\na/0.png,dog\na/2.jpg,cat\n"))
    files = find_images(folder)
    assert match_labels(rows, files[:1], files, CLASSES, silent) == [1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,class\na/0.png,dog\n", "has the columns image, class: its first line must be `file,label`"),
        ("", "has the columns none"),
        ("file,label\n", "has no row below its first line"),
        ("file,label\na/0.png,dog\na/0.png,cat\n", "has two labels for a/0.png: 'dog' and 'cat'"),
        ("file,label\na/0.png,dogg\n", "the label 'dogg' is no class of the model (did you mean 'dog'?)"),
        ("file,label\na/0.png,3\n", "or an index below 3"),
        ("file,label\nx.png,dog\n", "none of the 1 labelled files is among the images, such as 'x.png'"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(folder, tmp_path, text, words):
    files = find_images(folder)
    with pytest.raises(UserError) as refused:
        match_labels(read_label_rows(labels(tmp_path / "l.csv", text)), files, files, CLASSES, silent)
    assert words in str(refused.value)


def test_labels_for_a_model_without_classes_are_refused(folder):
    files = find_images(folder)
    with pytest.raises(UserError, match="the model is no classifier"):
        match_labels({"a/0.png": "dog"}, files, files, (), silent)


def test_labels_of_none_of_the_images_looked_at_are_refused(folder):
    files = find_images(folder)
    with pytest.raises(UserError, match="none of the images looked at has a label"):
        match_labels({"a/0.png": "dog"}, files[1:], files, CLASSES, silent)


def test_a_missing_labels_file_and_one_that_is_no_text_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"the labels .* cannot be read"):
        read_label_rows(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"file,label\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="is not UTF-8: byte 11"):
        read_label_rows(tmp_path / "bytes.csv")
