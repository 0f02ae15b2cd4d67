"""The tokens of a unit become one: as the reference says, in every encoder of texts, in training, and undone bit for bit."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RobertaConfig, RobertaForSequenceClassification, T5Config, T5ForConditionalGeneration

from tests.golden import golden_arrays, golden_json
from tests.tiny.encoders import LANGUAGE, LAYERS, inputs, tiny
from tests.tiny.models import made
from tests.tiny.tokenizers import CODE, byte_level
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.plan import MergePlan
from tokenry.compression.text import (
    CodeMergeCollator,
    MemberScorer,
    SubwordMerging,
    merge_flops,
    merge_tokens,
    unmerge,
)
from tokenry.core.errors import UserError

REFERENCE = golden_arrays("27-code-merge", "dev-merge.npz")
SOURCES = ["def add(first, second):\n    return first + second", "naïve_cat = add(cats, mats)", ""]
GROUPS = torch.tensor([[0, 1, 1, 1, 2, 3, 3, 4, 5, 6, 7, 8], [0, 1, 2, 2, 2, 2, 3, -1, -1, -1, -1, -1]])
"""Of the two texts of `tests.tiny.encoders`: the second has 7 tokens."""

quick = settings(max_examples=15, deadline=None)


def tokenizer(pad="<pad>"):
    made = byte_level(CODE, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.pad_token = pad
    return made


def states(model, given):
    with torch.no_grad():
        return model(**given).to_tuple()[0]


def grouped(family, groups=GROUPS):
    return {**inputs(family), "group_ids": groups}


# --- the reference -------------------------------------------------------------------------------------------------------------------


def scorer_of_the_reference(dtype):
    scorer = MemberScorer(REFERENCE["hidden"].shape[-1]).to(dtype)
    with torch.no_grad():
        scorer.score.weight.copy_(REFERENCE["score_weight"][None])
        scorer.score.bias.copy_(REFERENCE["score_bias"])
    return scorer


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=str)
def test_merging_is_that_of_the_reference(dtype, rtol):
    hidden, groups = REFERENCE["hidden"].to(dtype).detach().requires_grad_(), REFERENCE["group_ids"]
    mean = merge_tokens(hidden, groups)
    learned = merge_tokens(hidden, groups, "learned", scorer_of_the_reference(dtype))
    close = {"rtol": rtol, "atol": 10 * torch.finfo(dtype).eps}
    torch.testing.assert_close(mean.hidden, REFERENCE["merged_mean"].to(dtype), **close)
    torch.testing.assert_close(learned.hidden, REFERENCE["merged_learned"].to(dtype), **close)
    for found in (mean, learned):
        assert torch.equal(found.mask.long(), REFERENCE["merged_mask"])
        assert torch.equal(found.sizes, REFERENCE["group_size"])
        assert torch.equal(found.first_index, REFERENCE["first_index"])
    torch.testing.assert_close(unmerge(mean, groups), REFERENCE["unmerged_mean"].to(dtype), **close)
    mean.hidden.backward(REFERENCE["grad_merged"].to(dtype))
    torch.testing.assert_close(hidden.grad, REFERENCE["grad_hidden_mean"].to(dtype), **close)


def test_the_shares_of_a_learned_combination_are_those_of_the_reference():
    """The merge is linear in the states: of one-hot states, the merged one holds the shares."""
    groups = REFERENCE["group_ids"]
    scores = REFERENCE["hidden"] @ REFERENCE["score_weight"] + REFERENCE["score_bias"]
    eye = torch.eye(groups.shape[1], dtype=torch.float64).expand(len(groups), -1, -1)
    merged = merge_tokens(eye, groups, "learned", lambda hidden: scores).hidden
    torch.testing.assert_close(merged.sum(dim=1), REFERENCE["alpha"], rtol=1e-9, atol=1e-12)


class Scores(torch.nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, hidden_states):
        return self.scores[..., None]


@pytest.mark.parametrize("case", golden_json("27-code-merge", "dev-flops.json"))
def test_flops_are_those_of_the_reference(case):
    outputs = {name: case[name] for name in ("flops_base", "flops_merged", "saving")}
    found = merge_flops(**{name: value for name, value in case.items() if name not in outputs})
    assert (found["flops_base"], found["flops_merged"]) == (outputs["flops_base"], outputs["flops_merged"])
    assert found["saving"] == pytest.approx(outputs["saving"], rel=1e-12)


# --- what any merge keeps ------------------------------------------------------------------------------------------------------------


@st.composite
def texts(draw):
    rows = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), min_size=1, max_size=3))
    width = max(map(sum, rows)) + draw(st.integers(0, 2))
    groups = [[number for number, size in enumerate(row) for _ in range(size)] for row in rows]
    ids = torch.tensor([row + [-1] * (width - len(row)) for row in groups])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return torch.randn(*ids.shape, 4, generator=generator, dtype=torch.float64), ids


@quick
@given(texts(), st.sampled_from(["mean", "learned"]))
def test_merged_and_unmerged_masks_agree_and_padding_changes_nothing(text, mode):
    hidden, ids = text
    scorer = MemberScorer(4).double()
    torch.nn.init.normal_(scorer.score.weight)
    merged = merge_tokens(hidden, ids, mode, scorer)
    back = unmerge(merged.mask[..., None].double(), ids)[..., 0].bool()
    assert torch.equal(back, ids != -1)
    assert torch.equal(merged.mask, merged.sizes > 0)
    assert torch.equal(merged.sizes.sum(dim=1), (ids != -1).sum(dim=1))
    for row, length in enumerate((ids != -1).sum(dim=1).tolist()):
        alone = merge_tokens(hidden[row : row + 1, :length], ids[row : row + 1, :length], mode, scorer)
        torch.testing.assert_close(merged.hidden[row][merged.mask[row]], alone.hidden[0])


@quick
@given(texts())
def test_an_untrained_scorer_combines_to_the_mean(text):
    for inner in (None, 3):
        learned = merge_tokens(*text, "learned", MemberScorer(4, inner).double())
        torch.testing.assert_close(learned.hidden, merge_tokens(*text).hidden)


def test_where_every_token_is_its_own_group_nothing_changes():
    hidden = torch.randn(2, 5, 3)
    merged = merge_tokens(hidden, torch.arange(5).expand(2, -1))
    assert torch.equal(merged.hidden, hidden)
    assert merged.mask.all()


def test_a_whole_text_may_be_one_group():
    hidden = torch.randn(1, 5, 3)
    merged = merge_tokens(hidden, torch.zeros(1, 5, dtype=torch.long))
    torch.testing.assert_close(merged.hidden[:, 0], hidden.mean(dim=1))


def test_scores_of_any_height_are_combined():
    hidden, ids = torch.ones(1, 4, 2), torch.tensor([[0, 0, 1, 1]])
    for scores in ([1e4, -1e4, 88.0, 88.0], [-1e4, -1e4, 0.0, -1e4]):
        merged = merge_tokens(hidden, ids, "learned", Scores(torch.tensor([scores])))
        torch.testing.assert_close(merged.hidden, torch.ones(1, 2, 2))


def test_the_scorer_learns_which_member_counts():
    hidden, ids = torch.randn(8, 6, 4), torch.tensor([0, 0, 1, 1, 2, 2]).expand(8, -1)
    scorer = MemberScorer(4)
    optimizer = torch.optim.Adam(scorer.parameters(), lr=0.1)
    wanted = hidden.view(8, 3, 2, 4)
    wanted = wanted.gather(2, wanted[..., :1].argmax(dim=2, keepdim=True).expand(-1, -1, -1, 4))[:, :, 0]
    losses = []
    for _ in range(60):
        loss = (merge_tokens(hidden, ids, "learned", scorer).hidden - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


# --- in an encoder -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("after", [0, 2, LAYERS])
@pytest.mark.parametrize("family", LANGUAGE)
def test_every_encoder_carries_groups_from_the_layer_on_and_is_restored(family, after, attention):
    model = tiny(family)
    model.set_attn_implementation(attention)
    before = states(model, inputs(family))
    with apply_token_reduction(model, SubwordMerging(after)) as reduction:
        together = states(model, grouped(family))
        assert reduction.token_counts == (*[12] * (after or 1), *[9] * (LAYERS + 1 - (after or 1)))
        assert together.shape[:2] == (2, 9)
        assert reduction.mask.sum(dim=1).tolist() == [9, 4]
        assert torch.equal(reduction.places(), GROUPS)
        alone = states(model, {"input_ids": inputs(family)["input_ids"][1:, :7], "group_ids": GROUPS[1:, :7]})
        torch.testing.assert_close(together[1, :4], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states(model, inputs(family)), before, rtol=0, atol=0)


def test_merging_saves_what_the_account_of_the_layers_says():
    model = tiny("roberta")
    config, one = model.config, {"input_ids": inputs("roberta")["input_ids"][:1], "group_ids": GROUPS[:1]}
    for after in range(LAYERS + 1):
        with apply_token_reduction(model, SubwordMerging(after)) as reduction:
            states(model, one)
            sheet = merge_flops(LAYERS, after, 12, 9, config.hidden_size, config.intermediate_size)
            assert (2 * reduction.dense_flops, 2 * reduction.flops) == (
                sheet["flops_base"],
                sheet["flops_merged"],
            )


@pytest.mark.parametrize("position", ["first", "compact"])
@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_group_stands_where_its_first_token_stood_for_the_bias_of_t5(position, after, attention):
    """Layer by layer by hand, with a bias that is looked up at the wished positions."""
    model = tiny("t5")
    model.set_attn_implementation(attention)
    ids, groups = inputs("t5")["input_ids"][:1], GROUPS[:1]
    with torch.no_grad():
        hidden = model.encoder.embed_tokens(ids)
        bias = model.encoder.block[0].layer[0].SelfAttention.compute_bias(12, 12)
        for number, block in enumerate(model.encoder.block):
            if number == after:
                merged = merge_tokens(hidden, groups)
                at = merged.first_index[0] if position == "first" else torch.arange(9)
                hidden, bias = merged.hidden, bias[:, :, at][:, :, :, at]
            hidden = block(hidden, None, bias)[0]
        expected = model.encoder.final_layer_norm(hidden)
    apply_token_reduction(model, SubwordMerging(after, position=position))
    found = states(model, {"input_ids": ids, "group_ids": groups})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "learned"])
@pytest.mark.parametrize("family", ["roberta", "t5"])
@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_gradients_are_the_same_under_checkpointing(family, mode, reentrant):
    model = tiny(family).train()
    apply_token_reduction(model, SubwordMerging(1, mode), restore_length=True)
    full = torch.tensor([[0, 1, 1, 2, 3, 4, 5], [0, 1, 1, 1, 1, 2, 3]])
    batches = grouped(family), {"input_ids": inputs(family, seed=2)["input_ids"][:, :7], "group_ids": full}

    def gradients():
        model.zero_grad()
        torch.manual_seed(0)
        outputs = [model(**given).to_tuple()[0][given["group_ids"] != -1] for given in batches]
        sum(output.sin().sum() for output in outputs).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again = gradients()
    assert plain.keys() == again.keys()
    assert mode == "mean" or "token_reduction.score.weight" in plain
    for name, gradient in plain.items():
        torch.testing.assert_close(
            again[name], gradient, rtol=0, atol=0, msg=lambda said, name=name: f"{name}: {said}"
        )


@pytest.mark.parametrize("family", ["roberta", "t5"])
def test_bfloat16_stays(family):
    model = tiny(family).bfloat16()
    apply_token_reduction(model, SubwordMerging(1, "learned"))
    found = states(model, grouped(family))
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


def test_restored_tokens_are_copies_of_their_group():
    model = tiny("roberta")
    with apply_token_reduction(model, SubwordMerging(1)):
        merged = states(model, grouped("roberta"))
    apply_token_reduction(model, SubwordMerging(1), restore_length=True)
    restored = states(model, grouped("roberta"))
    own = GROUPS != -1
    assert restored.shape[:2] == GROUPS.shape
    assert torch.equal(restored[own], unmerge(merged, GROUPS)[own])


def test_the_class_token_is_left_to_itself_and_a_classifier_needs_no_change():
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=40,
        num_labels=3,
    )
    model = made(RobertaForSequenceClassification, config).train()
    merging = SubwordMerging(1, "learned")
    reduction = apply_token_reduction(model, merging)
    scorer = model.token_reduction
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = model(**grouped("roberta"), labels=torch.tensor([0, 2])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert scorer.score.weight.abs().sum() > 0
    assert any("token_reduction" in name for name in model.state_dict())
    twin, twin_reduction = copy.deepcopy((model.eval(), reduction))
    expected = states(model, grouped("roberta"))
    torch.testing.assert_close(states(twin, grouped("roberta")), expected, rtol=0, atol=0)
    reduction.remove()
    assert not hasattr(model, "token_reduction")
    states(model, inputs("roberta"))
    torch.testing.assert_close(states(twin, grouped("roberta")), expected, rtol=0, atol=0)
    twin_reduction.remove()
    apply_token_reduction(model, SubwordMerging(1, "learned", scorer=scorer))
    torch.testing.assert_close(states(model, grouped("roberta")), expected, rtol=0, atol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_mask_of_every_query_is_merged_over_the_members(attention):
    """As GraphCodeBERT has it, for nodes of the data flow: here the last two tokens, which see each other and token 1 alone."""
    model = tiny("roberta")
    model.set_attn_implementation(attention)
    ids, groups = inputs("roberta")["input_ids"][:1], GROUPS[:1]
    seen = torch.ones(1, 12, 12, dtype=torch.bool)
    seen[:, 10:, :10] = False
    seen[:, 10:, 1] = True
    merged = MergePlan.from_groups(groups).merge_pairs(seen)
    assert merged.sum(dim=2).tolist() == [[9] * 7 + [3, 3]]

    def as_mask(pairs):
        return (
            pairs[:, None]
            if attention == "sdpa"
            else (~pairs[:, None]).float() * torch.finfo(torch.float32).min
        )

    with torch.no_grad():
        hidden = model.embeddings(ids)
        for number, layer in enumerate(model.encoder.layer):
            if number == 1:
                hidden = merge_tokens(hidden, groups).hidden
            hidden = layer(hidden, as_mask(seen if number == 0 else merged))
    apply_token_reduction(model, SubwordMerging(1))
    found = states(model, {"input_ids": ids, "attention_mask": as_mask(seen), "group_ids": groups})
    torch.testing.assert_close(found, hidden, rtol=1e-4, atol=1e-5)


def test_the_decoder_of_t5_sees_the_groups():
    config = T5Config(
        vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    model = made(T5ForConditionalGeneration, config)
    given = grouped("roberta")
    labels = torch.tensor([[5, 6, 7], [8, 9, 1]])
    before = model(**{name: given[name] for name in ("input_ids", "attention_mask")}, labels=labels).loss
    with apply_token_reduction(model, SubwordMerging(1)) as reduction:
        loss = model(**given, labels=labels).loss
        encoded = model.get_encoder()(**given)
        assert encoded.last_hidden_state.shape[1] == 9
        mask = reduction.mask
        written = model.generate(
            encoder_outputs=copy.copy(encoded), attention_mask=mask.long(), max_new_tokens=4, num_beams=2
        )
        assert len(written) == 2
    found = model(encoder_outputs=encoded, attention_mask=mask.long(), labels=labels).loss
    torch.testing.assert_close(loss, found)
    assert not torch.equal(loss, before)
    plain = {name: given[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(model(**plain, labels=labels).loss, before, rtol=0, atol=0)


# --- batches -------------------------------------------------------------------------------------------------------------------------


def test_a_batch_holds_what_its_sources_hold_alone():
    collate = SubwordMerging(policy="identifier").collator(tokenizer())
    together = collate([{"code": source, "label": number} for number, source in enumerate(SOURCES)])
    assert together["labels"].tolist() == [0, 1, 2]
    assert torch.equal(together["attention_mask"].bool(), together["group_ids"] != -1)
    for number, source in enumerate(SOURCES):
        alone = collate([source])
        length = alone["input_ids"].shape[1]
        for name, value in alone.items():
            assert torch.equal(together[name][number, :length], value[0]), name
    assert collate.merged_lengths(SOURCES) == [int(row.max()) + 1 for row in together["group_ids"]]


def test_a_source_is_read_once():
    collate = CodeMergeCollator(tokenizer())
    first = collate.read(SOURCES)
    collate.tokenizer = None
    assert all(one is other for one, other in zip(collate.read(SOURCES[::-1]), first[::-1], strict=True))


def test_a_source_that_is_cut_off_merges_what_is_there():
    collate = CodeMergeCollator(tokenizer(), max_length=4)
    (read,) = collate.read(["naïve_longer_name = 1"])
    assert len(read) == 4
    assert read.group_ids.tolist() == [0, 0, 0, 0]


def test_the_policy_is_that_of_the_merging():
    counts = {
        policy: SubwordMerging(policy=policy)
        .collator(tokenizer())
        .merged_lengths(["x = 'some long text'"])[0]
        for policy in ("identifier", "identifier+literal")
    }
    assert counts["identifier+literal"] < counts["identifier"]


# --- refusals ------------------------------------------------------------------------------------------------------------------------


def test_a_batch_without_groups_is_refused():
    model = tiny("roberta")
    apply_token_reduction(model, SubwordMerging(1))
    with pytest.raises(UserError, match="the model got no group_ids, so nothing says which tokens to merge"):
        model(**inputs("roberta"))
    states(model, grouped("roberta"))
    with pytest.raises(UserError, match="the model got no group_ids"):
        model(**inputs("roberta"))


def test_groups_of_other_texts_are_refused():
    model = tiny("roberta")
    apply_token_reduction(model, SubwordMerging(1))
    with pytest.raises(UserError, match=r"group_ids are of \(2, 11\) tokens, but the model reads \(2, 12\)"):
        model(**inputs("roberta"), group_ids=GROUPS[:, :11])
    with pytest.raises(UserError, match=r"token 2 of row 0 is in group 0 after 1: use group_tokens"):
        model(**inputs("roberta"), group_ids=torch.tensor([[0, 1, 0] * 4] * 2))


@pytest.mark.parametrize("after", [4, 99])
def test_a_layer_that_is_not_there_is_refused(after):
    with pytest.raises(UserError, match=f"one of the 3 layers.*give a number from 0 to 3, got {after}"):
        apply_token_reduction(tiny("roberta"), SubwordMerging(after))
    with pytest.raises(UserError, match="give a number from 0 to 3, got 4"):
        merge_flops(3, 4, 10, 5, 8, 16)
    with pytest.raises(UserError, match="give a number from 0 to 3, got -1"):
        merge_flops(3, -1, 10, 5, 8, 16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"after": -1}, "after must be at least 0, got -1"),
        ({"mode": "max"}, "mode must be one of mean, learned, got 'max'"),
        ({"policy": "words"}, "policy must be one of identifier, identifier\\+literal, leaf, got 'words'"),
        ({"position": "last"}, "position must be one of first, compact, got 'last'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        SubwordMerging(**options)


def test_an_encoder_of_images_is_refused():
    with pytest.raises(UserError, match="ViTModel reads images: subwords are merged in encoders of text"):
        apply_token_reduction(tiny("vit"), SubwordMerging(1))


def test_a_learned_combination_without_a_scorer_and_an_unknown_mode_are_refused():
    hidden, ids = torch.ones(1, 2, 4), torch.tensor([[0, 0]])
    with pytest.raises(UserError, match="the learned combination needs a scorer: give MemberScorer"):
        merge_tokens(hidden, ids, "learned")
    with pytest.raises(UserError, match="mode must be one of mean, learned, got 'sum'"):
        merge_tokens(hidden, ids, "sum")


def test_tokenizers_that_cannot_say_where_their_tokens_are_are_refused():
    slow = tokenizer()
    slow.__class__ = type("Slow", (type(slow),), {"is_fast": property(lambda self: False)})
    with pytest.raises(UserError, match=r"Slow is a slow tokenizer without offsets.*use_fast=True"):
        CodeMergeCollator(slow)
    with pytest.raises(UserError, match="no padding token"):
        CodeMergeCollator(tokenizer(pad=None))


def test_the_tokenizer_of_another_model_is_refused():
    with pytest.raises(UserError, match="the tokenizer has 309 tokens, but RobertaModel only 60 embeddings"):
        CodeMergeCollator(tokenizer(), model=tiny("roberta"))
    with pytest.raises(
        UserError, match="the padding token of the tokenizer is 0, but that of BertModel is 5"
    ):
        CodeMergeCollator(tokenizer(), model=tiny("bert", vocab_size=400, pad_token_id=5))
    with pytest.raises(UserError, match="max_length must be at most 40, the number of positions"):
        CodeMergeCollator(tokenizer(), model=tiny("bert", vocab_size=400))


def test_a_language_without_a_grammar_is_told_before_any_work():
    with pytest.warns(UserWarning, match="a lexer finds the identifiers meanwhile"):
        collate = CodeMergeCollator(tokenizer(), "cobol")
    assert collate.backend == "lexer"
    with pytest.raises(UserError, match="no grammar for 'cobol' here"):
        CodeMergeCollator(tokenizer(), "cobol", backend="tree-sitter")
