import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenry.compression.vision.placeholders import kept_columns, placeholder_images, rebuild_prompt
from tokenry.core.errors import UserError

IMAGE, PAD = 9, 0


@st.composite
def prompts(draw):
    """Rows of text and images, the tokens that each image keeps, and the side of the padding."""
    rows, tokens_per_image, kept = [], [], []
    for _ in range(draw(st.integers(1, 3))):
        row = [1]
        for _ in range(draw(st.integers(0, 2))):
            tokens = draw(st.integers(1, 5))
            tokens_per_image.append(tokens)
            chosen = draw(st.sets(st.integers(0, tokens - 1)))
            kept.append(torch.tensor(sorted(chosen), dtype=torch.long))
            row += [IMAGE] * tokens + draw(st.lists(st.integers(1, 8), max_size=3))
        rows.append(row)
    return rows, tokens_per_image, kept, draw(st.sampled_from(["left", "right"]))


def padded(rows, side, fill=PAD):
    longest = max(map(len, rows))
    blanks = [[fill] * (longest - len(row)) for row in rows]
    return torch.tensor(
        [blank + row if side == "left" else row + blank for row, blank in zip(rows, blanks, strict=True)]
    )


def without_dropped(rows, tokens_per_image, kept):
    """The rows with the placeholders of dropped tokens taken out by hand, and the column each token came from."""
    images = iter(zip(tokens_per_image, kept, strict=True))
    short, columns = [], []
    for row in rows:
        stays = []
        place = 0
        while place < len(row):
            if row[place] == IMAGE:
                tokens, chosen = next(images)
                stays += [place + index for index in chosen.tolist()]
                place += tokens
            else:
                stays.append(place)
                place += 1
        short.append([row[place] for place in stays])
        columns.append(stays)
    return short, columns


@settings(max_examples=50, deadline=None)
@given(prompts())
def test_the_prompt_is_what_taking_the_placeholders_out_by_hand_gives(prompt):
    rows, tokens_per_image, kept, side = prompt
    input_ids = padded(rows, side)
    mask = padded([[1] * len(row) for row in rows], side)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "labels": input_ids.masked_fill(mask == 0, -100),
        "mm_token_type_ids": (input_ids == IMAGE).int(),
        "pixel_values": "untouched",
    }
    keep = kept_columns(input_ids, IMAGE, tokens_per_image, kept)
    short = rebuild_prompt(inputs, keep, padding_side=side)
    by_hand, _ = without_dropped(rows, tokens_per_image, kept)
    assert torch.equal(short.inputs["input_ids"], padded(by_hand, side))
    assert torch.equal(short.inputs["attention_mask"], padded([[1] * len(row) for row in by_hand], side))
    assert torch.equal(short.inputs["labels"], padded(by_hand, side, fill=-100))
    assert torch.equal(short.inputs["mm_token_type_ids"], (short.inputs["input_ids"] == IMAGE).int())
    assert short.inputs["mm_token_type_ids"].dtype == torch.int
    assert short.inputs["pixel_values"] == "untouched"


@settings(max_examples=25, deadline=None)
@given(prompts())
def test_columns_name_where_every_token_comes_from(prompt):
    rows, tokens_per_image, kept, side = prompt
    input_ids = padded(rows, side)
    mask = padded([[1] * len(row) for row in rows], side)
    keep = kept_columns(input_ids, IMAGE, tokens_per_image, kept)
    inputs = {"input_ids": input_ids, "attention_mask": mask}
    short = rebuild_prompt(inputs, keep, padding_side=side)
    _, columns = without_dropped(rows, tokens_per_image, kept)
    for row, found, expected in zip(rows, short.columns.tolist(), columns, strict=True):
        shift = input_ids.shape[1] - len(row) if side == "left" else 0
        assert [column for column in found if column >= 0] == [shift + column for column in expected]
    assert torch.equal(short.columns < 0, short.inputs["attention_mask"] == 0)


@settings(max_examples=25, deadline=None)
@given(prompts())
def test_keeping_everything_changes_nothing(prompt):
    rows, tokens_per_image, _, side = prompt
    input_ids = padded(rows, side)
    mask = padded([[1] * len(row) for row in rows], side)
    everything = [torch.arange(tokens) for tokens in tokens_per_image]
    short = rebuild_prompt(
        {"input_ids": input_ids, "attention_mask": mask},
        kept_columns(input_ids, IMAGE, tokens_per_image, everything),
    )
    assert torch.equal(short.inputs["input_ids"], input_ids)
    assert torch.equal(short.inputs["attention_mask"], mask)


def test_images_are_numbered_in_reading_order_across_rows():
    input_ids = torch.tensor([[1, 9, 9, 9, 2], [9, 9, 3, 9, 4]])
    images = placeholder_images(input_ids, IMAGE, [1, 2, 2, 1])
    assert images.tolist() == [[-1, 0, 1, 1, -1], [2, 2, -1, 3, -1]]


def test_rows_that_come_to_differ_get_padding_and_a_mask():
    input_ids = torch.tensor([[1, 9, 9, 2], [1, 9, 9, 2]])
    keep = kept_columns(input_ids, IMAGE, [2, 2], [torch.tensor([1]), torch.tensor([0, 1])])
    for side, row in (("left", [0, 1, 9, 2]), ("right", [1, 9, 2, 0])):
        short = rebuild_prompt({"input_ids": input_ids}, keep, padding_side=side)
        assert short.inputs["input_ids"][0].tolist() == row
        assert torch.equal(short.inputs["attention_mask"], (short.inputs["input_ids"] != 0).long())


def test_new_padding_is_written_with_the_pad_token():
    input_ids = torch.tensor([[1, 9, 9, 2], [1, 9, 9, 2]])
    keep = kept_columns(input_ids, IMAGE, [2, 2], [torch.tensor([1]), torch.tensor([0, 1])])
    assert rebuild_prompt({"input_ids": input_ids}, keep, pad_token_id=7).inputs["input_ids"][0, 0] == 7


def test_no_mask_is_invented_where_none_is_needed():
    input_ids = torch.tensor([[1, 9, 9, 2], [1, 9, 9, 2]])
    keep = kept_columns(input_ids, IMAGE, [2, 2], [torch.tensor([1]), torch.tensor([0])])
    assert "attention_mask" not in rebuild_prompt({"input_ids": input_ids}, keep).inputs


def test_positions_with_three_axes_and_embeddings_are_shortened_too():
    input_ids = torch.tensor([[1, 9, 9, 2]])
    keep = kept_columns(input_ids, IMAGE, [2], [torch.tensor([1])])
    positions = torch.arange(12).view(3, 1, 4)
    embeddings = torch.arange(8.0).view(1, 4, 2)
    short = rebuild_prompt(
        {"input_ids": input_ids, "position_ids": positions, "inputs_embeds": embeddings}, keep
    )
    assert torch.equal(short.inputs["position_ids"], positions[..., [0, 2, 3]])
    assert torch.equal(short.inputs["inputs_embeds"], embeddings[:, [0, 2, 3]])


def test_at_padding_stands_what_stood_there():
    input_ids = torch.tensor([[7, 7, 1, 9, 9], [1, 9, 9, 9, 2]])
    mask = (input_ids != 7).long()
    keep = kept_columns(input_ids, IMAGE, [2, 3], [torch.tensor([0]), torch.tensor([0, 1])])
    positions = torch.stack(
        (torch.where(mask == 1, mask.cumsum(1), 5), torch.where(mask == 1, mask.cumsum(1), 6))
    )
    embeddings = torch.where(mask == 1, 0.5, 3.0)[..., None].expand(2, 5, 4)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "position_ids": positions,
        "inputs_embeds": embeddings,
    }
    short = rebuild_prompt(inputs, keep, pad_token_id=8).inputs
    assert short["input_ids"].tolist() == [[7, 7, 1, 9], [1, 9, 9, 2]]
    assert short["position_ids"][:, 0, :2].tolist() == [[5, 5], [6, 6]]
    assert short["inputs_embeds"][0].tolist() == [[3.0] * 4] * 2 + [[0.5] * 4] * 2


def test_one_row_of_positions_may_stand_for_all_rows():
    input_ids = torch.tensor([[1, 9, 9, 2], [1, 9, 9, 2]])
    keep = kept_columns(input_ids, IMAGE, [2, 2], [torch.tensor([1]), torch.tensor([0])])
    short = rebuild_prompt({"input_ids": input_ids, "position_ids": torch.arange(4)[None]}, keep)
    assert short.inputs["position_ids"].tolist() == [[0, 2, 3], [0, 1, 3]]


def test_a_hole_in_the_mask_is_not_padding():
    input_ids = torch.tensor([[0, 1, 5, 9, 9, 2]])
    mask = torch.tensor([[0, 1, 0, 1, 1, 1]])
    keep = kept_columns(input_ids, IMAGE, [2], [torch.tensor([0])])
    short = rebuild_prompt({"input_ids": input_ids, "attention_mask": mask}, keep)
    assert short.inputs["input_ids"].tolist() == [[1, 5, 9, 2]]
    assert short.inputs["attention_mask"].tolist() == [[1, 0, 1, 1]]


def test_placeholders_must_match_the_visual_tokens():
    with pytest.raises(
        UserError, match=r"3 image placeholders \(token 9\) but the 1 images have 4 visual tokens"
    ):
        placeholder_images(torch.tensor([[9, 9, 9]]), IMAGE, [4])


def test_an_image_stays_in_its_row():
    with pytest.raises(UserError, match="placeholders of one image lie in two rows"):
        placeholder_images(torch.tensor([[1, 9], [9, 1]]), IMAGE, [2])


def test_a_token_the_image_does_not_have_cannot_be_kept():
    with pytest.raises(UserError, match="image 0 has tokens 0 to 1, so 1 to 2 cannot be kept"):
        kept_columns(torch.tensor([[9, 9]]), IMAGE, [2], [torch.tensor([1, 2])])


def test_every_image_says_what_it_keeps():
    with pytest.raises(UserError, match="kept tokens are given for 0 images but there are 1"):
        kept_columns(torch.tensor([[9, 9]]), IMAGE, [2], [])


def test_a_mask_of_another_shape_is_refused():
    keep = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(UserError, match=r"attention_mask must have the shape of the prompt, \(1, 3\)"):
        rebuild_prompt(
            {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 2)}, keep
        )
