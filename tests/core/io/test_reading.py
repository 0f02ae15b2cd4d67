import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.reading import open_text, read_csv, read_text


def written(path, content):
    path.write_bytes(content)
    return path


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    assert read_text(written(tmp_path / "a.txt", "\ufeffé\r\n".encode())) == "é\n"
    assert read_csv(written(tmp_path / "a.csv", "\ufefftext\né\n".encode())) == (
        ["text"],
        [(2, {"text": "é"})],
    )


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"a\n\xff", r"byte 2 \(line 2\) is 0xff"),
        (b"\xef\xbb\xbf\xff", r"byte 3 \(line 1\) is 0xff"),
        ("é".encode()[:1], r"byte 0 \(line 1\) is 0xc3"),
        (b"a\n" * 20_000 + b"\xe9", r"byte 40000 \(line 20001\) is 0xe9"),
    ],
)
def test_the_first_byte_that_is_not_utf8_is_named(tmp_path, content, place):
    path = written(tmp_path / "a.txt", content)
    with pytest.raises(UserError, match=rf"a\.txt is not UTF-8: {place}; save the file as UTF-8"):
        read_text(path)
    with pytest.raises(UserError, match=place), open_text(path) as opened:
        list(opened)


def test_what_stands_before_the_broken_byte_can_be_read(tmp_path):
    with open_text(written(tmp_path / "a.txt", b"a\n" * 20_000 + b"\xe9")) as opened:
        assert opened.readline() == "a\n"


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none cannot be read as UTF-8 text \(No such file or directory\)"):
        read_text(tmp_path / "none")
    with pytest.raises(UserError, match=r"the labels .* cannot be read as CSV \(Is a directory\)"):
        read_csv(tmp_path, name=f"the labels {tmp_path}")


def test_rows_of_a_table_know_their_line_and_what_they_lack(tmp_path):
    columns, rows = read_csv(written(tmp_path / "a.csv", b'one,two\n"a\nb",c\nd\ne,f,g\n'))
    assert columns == ["one", "two"]
    assert rows == [
        (3, {"one": "a\nb", "two": "c"}),
        (4, {"one": "d", "two": None}),
        (5, {"one": "e", "two": "f", None: ["g"]}),
    ]


def test_broken_quotes_are_refused_with_their_line(tmp_path):
    with pytest.raises(UserError, match=r"a\.csv, line 2 is not valid CSV: ',' expected after"):
        read_csv(written(tmp_path / "a.csv", b'one\n"a"b\n'))
