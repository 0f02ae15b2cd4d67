"""The row that is copied is the row that is written; rows that no text has trained are copied to their like only and part of no mean."""

import json

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import CODE, byte_level, permuted, sentencepiece
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.transplant import match_vocabularies, transplant_tokenizer
from tokenry.tokenization.transfer.transplant.settings import METHODS

COMBINING = ("tokenadapt", "retok", "focus", "omp")
SPACES = ["a    b  c   d def f(x):    return"] * 9


def neox():
    """Runs of spaces are tokens of the model and, spelled as text, added tokens that are cut out first."""
    tokenizer = byte_level(SPACES, 300)
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True, special=False) for count in (4, 3, 2)])
    return tokenizer


def gemma(added=True):
    """Runs of spaces are tokens of the model and added tokens alike."""
    names = ["<unk>", "<s>", "</s>", "▁▁", "▁▁▁", "\n\n"] + [f"<0x{byte:02X}>" for byte in range(256)]
    names += [*"abcdefghijklmnopqrstuvwxyz(),.:\n▁", "ab", "▁a", "▁ab"]
    merges = [("a", "b"), ("▁", "a"), ("▁", "▁"), ("▁▁", "▁"), ("\n", "\n"), ("▁", "ab"), ("▁a", "b")]
    model = models.BPE(
        {name: place for place, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    if added:
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("\n\n", "▁▁", "▁▁▁")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def spm(fallback):
    """Characters, with or without a byte token for each of them."""
    characters = ["▁"] + [chr(code) for code in range(33, 127)] + ["\n"]
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] * fallback + characters
    model = models.BPE({n: i for i, n in enumerate(names)}, [], unk_token="<unk>", byte_fallback=fallback)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def transplanted(old, new, method="retok", model=None, **settings):
    model = tiny_model(len(old), tied=False) if model is None else model
    rows = model.get_input_embeddings().weight.detach().clone()
    model, report = transplant_tokenizer(model, old, new, method, **{"auxiliary": "characters", **settings})
    return rows, model.get_input_embeddings().weight.detach(), report


def alone(tokenizer, text):
    """The id of the one token that a text becomes."""
    (number,) = tokenizer.encode(text, add_special_tokens=False)
    return number


TWO_SPACES = {"neox": neox, "gemma": gemma, "gemma without added tokens": lambda: gemma(False)}


@pytest.mark.parametrize("old", TWO_SPACES)
@pytest.mark.parametrize("new", TWO_SPACES)
def test_two_spaces_get_the_row_of_what_the_old_tokenizer_writes_for_them(old, new):
    old, new = TWO_SPACES[old](), TWO_SPACES[new]()
    rows, now, _ = transplanted(old, new)
    assert now[alone(new, "  ")].equal(rows[alone(old, "  ")])
    assert now[alone(new, "   ")].equal(rows[alone(old, "   ")])


def test_a_token_of_the_same_name_is_no_counterpart_where_the_old_tokenizer_never_writes_it():
    old, new = neox(), byte_level(SPACES, 300)
    names = old.get_vocab()
    assert {"  ", "ĠĠ"} <= names.keys()
    shared = match_vocabularies(old, new).shared
    assert shared[new.get_vocab()["ĠĠ"]] == names["  "] == alone(old, "  ")


def test_a_new_token_with_spaces_is_spelled_by_what_is_cut_out_first():
    old, new = neox(), byte_level(SPACES, 300)
    new.add_tokens([AddedToken("b    c", normalized=False)])
    pieces = match_vocabularies(old, new).pieces[new.get_vocab()["b    c"]]
    assert [old.convert_ids_to_tokens(piece) for piece in pieces.tolist() if piece >= 0] == ["b", "    ", "c"]


@pytest.mark.parametrize("method", ["tokenadapt", "retok", "focus", "omp", "mean"])
def test_a_byte_fallback_beside_a_token_of_its_own_is_no_second_row_of_that_token(method):
    old, new = spm(False), spm(True)
    rows, now, report = transplanted(old, new, method)
    letter, byte = (new.convert_tokens_to_ids(token) for token in ("a", "<0x61>"))
    assert now[letter].equal(rows[old.convert_tokens_to_ids("a")])
    assert torch.allclose(now[byte], rows.mean(dim=0), atol=1e-6)
    assert report.counts == {"copied": 99, "composed": 0, "fallback": 160, "never_written": 96}
    assert len(report.never_written) == 96
    assert "<0x61>" in report.never_written
    assert "<0x61>" not in report.fallback
    assert report.as_json()["counts"]["never_written"] == 96


def test_what_is_never_written_takes_less_than_its_share_of_the_probability():
    old, new = spm(False), spm(True)
    model = tiny_model(len(old), tied=False)
    model.lm_head.weight.data.mul_(10)
    ids = old.encode("the quick brown fox")
    with torch.no_grad():
        before = model(torch.tensor([ids])).logits[0].logsumexp(-1)
    model, report = transplant_tokenizer(model, old, new, "retok")
    never = [new.convert_tokens_to_ids(token) for token in report.never_written]
    with torch.no_grad():
        logits = model(torch.tensor([new.encode("the quick brown fox")])).logits[0]
    each = (logits[:, never] - before[:, None]).exp()
    assert (each <= 1 / len(old)).all()


def test_an_id_that_is_never_written_keeps_the_row_of_its_like():
    old = sentencepiece()
    new = permuted(old)
    rows, now, report = transplanted(old, new)
    for token in ("a", "<0x61>"):
        assert now[new.convert_tokens_to_ids(token)].equal(rows[old.convert_tokens_to_ids(token)])
    assert "never_written" not in report.counts


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_no_text_has_trained_are_part_of_no_row(method):
    old, new = neox(), byte_level(CODE)
    matched = match_vocabularies(old, new)
    assert matched.old_never
    made = []
    for value in (0.0, 50.0):
        model = tiny_model(len(old) + 40, tied=False)
        for matrix in (model.get_input_embeddings(), model.lm_head):
            matrix.weight.data[len(old) :] = value
            matrix.weight.data[sorted(matched.old_never)] = value
        settings = {"auxiliary": "embeddings"} if method == "omp" else {}
        _, now, report = transplanted(old, new, method, model=model, **settings)
        made.append((now, model.lm_head.weight.detach(), report.leave_one_out))
    for one, other in zip(made[0][:2], made[1][:2], strict=True):
        assert one.equal(other)
    if made[0][2] is not None:
        assert made[0][2].mean_row_cosine_error.equal(made[1][2].mean_row_cosine_error)
        assert made[0][2].cosine_error.equal(made[1][2].cosine_error)


def test_padding_rows_of_the_old_model_are_part_of_no_mean():
    old = byte_level()
    model = tiny_model(len(old) + 50)
    model.get_input_embeddings().weight.data[len(old) :] = 9.0
    rows, now, _ = transplanted(old, byte_level(CODE, mask_token="<mask>"), model=model)
    assert torch.allclose(now[-1], rows[: len(old)].mean(dim=0), atol=1e-5)


def test_vectors_of_a_donor_count_for_written_tokens_only():
    old, new = neox(), byte_level(SPACES, 300)
    donor = np.random.default_rng(0).normal(size=(len(new), 8))
    matched = match_vocabularies(old, new)
    assert set(matched.shared[matched.shared_written].tolist()).isdisjoint(matched.old_never)
    _, now, _ = transplanted(old, new, "omp", auxiliary=donor)
    assert now.isfinite().all()


def test_vectors_that_are_given_for_what_is_never_written_find_no_neighbour():
    old, new = neox(), byte_level(CODE)
    never = sorted(match_vocabularies(old, new).old_never)
    vectors = np.random.default_rng(0).normal(size=(len(old) + len(new), 4))
    vectors[never] = vectors[len(old) :].mean(axis=0) * 100
    vectors[len(old) :] = vectors[never[0]] + vectors[len(old) :] * 1e-3
    model = tiny_model(len(old))
    model.get_input_embeddings().weight.data[never] = 1e6
    _, now, _ = transplanted(
        old,
        new,
        "tokenadapt",
        model=model,
        auxiliary=(vectors[: len(old)], vectors[len(old) :]),
        global_weight=1.0,
    )
    assert now.abs().max() < 100


@pytest.mark.parametrize("method", COMBINING)
def test_a_token_that_is_never_written_is_not_left_out_and_composed(method):
    old = sentencepiece()
    new = sentencepiece(CODE)
    _, _, report = transplanted(old, new, method)
    never = match_vocabularies(old, new).new_never
    assert never
    assert never.isdisjoint(report.leave_one_out.tokens.tolist())


def test_the_released_rule_copies_by_name_but_composes_nothing_that_is_never_written():
    old, new = spm(False), spm(True)
    rows, now, report = transplanted(old, new, match="string")
    assert torch.allclose(now[new.convert_tokens_to_ids("<0x61>")], rows.mean(dim=0), atol=1e-6)
    assert report.counts["never_written"] == 96


def test_an_old_token_that_the_old_tokenizer_never_writes_is_composed_of_what_it_writes():
    state = json.loads(byte_level().backend_tokenizer.to_str())
    state["model"]["vocab"]["towers"] = len(state["model"]["vocab"])  # no merge makes it
    old = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), bos_token="<s>", eos_token="</s>"
    )
    new = byte_level(["towers towers"] * 20, 330)
    matched = match_vocabularies(old, new)
    number = alone(new, "towers")
    assert matched.shared[number] == -1
    pieces = [piece for piece in matched.pieces[number].tolist() if piece >= 0]
    assert pieces == old.encode("towers")


@pytest.mark.parametrize("which", ["old", "new"])
def test_a_tokenizer_without_roles_is_refused(which):
    old, new = byte_level(), byte_level(CODE)
    given = {"old": old, "new": new} | {which: (old, new)[which == "new"].backend_tokenizer}
    with pytest.raises(
        UserError, match=rf"the {which} tokenizer is a tokenizers.Tokenizer, which knows no bos"
    ):
        transplant_tokenizer(tiny_model(len(old)), given["old"], given["new"])
