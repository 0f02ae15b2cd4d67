import pytest

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import nearest, parse_description, split_descriptions


def test_a_description_is_a_name_and_what_is_written_for_each_option() -> None:
    assert parse_description("tome") == ("tome", {})
    assert parse_description("tome: r=[16,16,8], order = 2") == ("tome", {"r": "[16,16,8]", "order": "2"})


def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(UserError, match=r"'margin' in 'pitome:margin' is not option=value"):
        parse_description("pitome:margin")


def test_descriptions_are_split_before_names_and_not_before_options() -> None:
    written = "full,token-cleaning:dropped_weight=0.1,share=0.5,sstoken:layers=[10,20]"
    assert split_descriptions(written) == [
        "full",
        "token-cleaning:dropped_weight=0.1,share=0.5",
        "sstoken:layers=[10,20]",
    ]


def test_the_nearest_name_is_suggested_and_nothing_where_none_is_near() -> None:
    assert nearest("sstokn", ["sstoken", "full"]) == " (did you mean 'sstoken'?)"
    assert nearest("xyz", ["sstoken", "full"]) == ""
