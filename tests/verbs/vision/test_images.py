import pytest
from PIL import Image

from tests.tiny.images import CLASSES, write_images
from tokenry.core.errors import UserError
from tokenry.verbs.compress._vision.images import (
    batches,
    find_images,
    match_labels,
    pick,
    pick_readable,
    read_image,
    read_label_rows,
)


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", 6)
    return tmp_path / "images"


def silent(words):
    raise AssertionError(words)


def labels(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_images_are_found_in_folders_too_and_nothing_else_is(folder):
    (folder / "notes.txt").write_text("no image")
    found = [file.name for file in find_images(folder)]
    assert found == ["a/0.png", "a/2.jpg", "a/4.jpg", "b/1.jpg", "b/3.png", "b/5.jpg"]


def test_a_limit_takes_images_of_every_folder(folder):
    assert [file.name for file in pick(find_images(folder), 3)] == ["a/0.png", "a/4.jpg", "b/5.jpg"]
    assert len(pick(find_images(folder), 100)) == 6


def damage(folder, *names):
    for name in names:
        (folder / name).write_text("no image")


def picked(folder, limit):
    said = []
    return [file.name for file in pick_readable(find_images(folder), limit, said.append)], said


@pytest.mark.parametrize(
    ("broken", "limit", "expected"),
    [
        ([], 3, ["a/0.png", "a/4.jpg", "b/5.jpg"]),
        (["a/0.png"], 3, ["a/2.jpg", "a/4.jpg", "b/5.jpg"]),
        (["b/5.jpg"], 3, ["a/0.png", "a/4.jpg", "b/3.png"]),
        (["a/0.png", "a/2.jpg", "a/4.jpg"], 3, ["b/1.jpg", "b/3.png", "b/5.jpg"]),
        (["a/0.png"], 1, ["a/2.jpg"]),
        (["a/4.jpg", "b/3.png"], 100, ["a/0.png", "a/2.jpg", "b/1.jpg", "b/5.jpg"]),
    ],
)
def test_an_image_that_cannot_be_read_gives_its_place_to_the_nearest_that_can(
    folder, broken, limit, expected
):
    damage(folder, *broken)
    found, said = picked(folder, limit)
    assert found == expected
    assert said == ([f"left out, as they cannot be read as images: {', '.join(broken)}."] if broken else [])


def test_without_a_limit_nothing_is_decoded_to_pick(folder):
    damage(folder, "a/0.png")
    assert picked(folder, None) == ([file.name for file in find_images(folder)], [])


def test_images_of_which_none_can_be_read_are_refused(folder):
    damage(folder, *(file.name for file in find_images(folder)))
    with pytest.raises(UserError, match=r"none of the 6 images can be read, such as a/0\.png"):
        picked(folder, 2)


def test_an_image_is_turned_the_right_way_up(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (20, 30)


def test_grey_and_transparent_images_become_rgb(tmp_path):
    Image.new("LA", (3, 3)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").mode == "RGB"


def test_a_damaged_image_is_named_and_left_out(folder):
    whole = (folder / "a/2.jpg").read_bytes()
    (folder / "a/2.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "b/1.jpg").write_text("no image at all")
    said = []
    seen = [file.name for files, _ in batches(find_images(folder), 4, said.append) for file in files]
    assert seen == ["a/0.png", "a/4.jpg", "b/3.png", "b/5.jpg"]
    assert said == ["left out, as they cannot be read as images: a/2.jpg, b/1.jpg."]


def test_batches_have_the_size_asked_for(folder):
    assert [len(images) for _, images in batches(find_images(folder), 4, silent)] == [4, 2]


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


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"the folder of images .* does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no image \(\.jpg, \.jpeg, \.png, \.webp\)"):
        find_images(tmp_path)
    (tmp_path / "file.jpg").write_text("no image")
    with pytest.raises(UserError, match="is a file: name the folder"):
        find_images(tmp_path / "file.jpg")
    with pytest.raises(UserError, match=r"none of the 1 images can be read, such as file\.jpg"):
        list(batches(find_images(tmp_path), 2, silent))
