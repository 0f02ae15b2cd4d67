import numpy as np
import pytest
from PIL import Image

from tests.tiny.images import write_images
from tokenry.core.errors import UserError
from tokenry.core.io.images import (
    batches,
    find_images,
    is_grey,
    pick,
    pick_readable,
    read_image,
    read_square,
)


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", 6)
    return tmp_path / "images"


def silent(words):
    raise AssertionError(words)


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


def test_the_middle_square_is_cut_from_the_image_as_it_is_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.new("L", (30, 20))
    stored.paste(255, (10, 0, 20, 20))
    stored.save(tmp_path / "turned.png", exif=exif)
    assert is_grey(tmp_path / "turned.png")
    whole = read_square(tmp_path / "turned.png", None, "L")
    assert whole.size == (20, 30)
    rows = np.asarray(read_square(tmp_path / "turned.png", 20, "L"))
    assert rows.shape == (20, 20)
    assert (rows[:, 0] == 255 * (np.arange(20) // 5 % 3 > 0)).all()
    assert read_square(tmp_path / "turned.png", 8).size == (8, 8)


@pytest.mark.parametrize("read", [is_grey, lambda path: read_square(path, 8)])
def test_an_image_that_must_be_read_and_cannot_be_is_named(tmp_path, read):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image .*: remove it"):
        read(tmp_path / "a.png")


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
