"""A model gets another tokenizer: what is shared stays what it was, the rest is composed, and it loads like any other model."""

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import (
    CODE,
    ENGLISH,
    TEMPLATE,
    byte_level,
    permuted,
    sentencepiece,
    unigram,
    word_piece,
)
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.transplant.apply import save_transplant, transplant_tokenizer
from tokenry.tokenization.transfer.transplant.settings import MATCHES, METHODS, TransplantSettings
from tokenry.tokenization.transfer.transplant.vocabulary_match import match_vocabularies

OLD = byte_level()
TRAINED = {byte_level: OLD, sentencepiece: sentencepiece()}
KINDS = [byte_level, sentencepiece, word_piece, unigram]
TEXT = "the cat sat on the towers"


def transplanted(new, method="tokenadapt", old=OLD, model=None, **settings):
    model = tiny_model(len(old)) if model is None else model
    settings = {"auxiliary": "characters", **settings}
    return transplant_tokenizer(model, old, new, method, **settings)


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([byte_level, sentencepiece]),
    seed=st.integers(0, 2**31 - 1),
    tied=st.booleans(),
    method=st.sampled_from(METHODS),
    match=st.sampled_from(MATCHES),
)
def test_an_identical_tokenizer_in_any_order_of_ids_is_a_permutation_of_rows(kind, seed, tied, method, match):
    old = TRAINED[kind]
    new, model = permuted(old, seed), tiny_model(len(old), tied)
    before = [
        weight.detach().clone() for weight in (model.get_input_embeddings().weight, model.lm_head.weight)
    ]
    order = match_vocabularies(old, new, match).shared
    model, report = transplanted(new, method, old=old, model=model, match=match)
    assert order.sort().values.equal(torch.arange(len(old)))
    assert model.get_input_embeddings().weight[: len(new)].equal(before[0][order])
    assert model.lm_head.weight[: len(new)].equal(before[1][order])
    assert report.counts == {"copied": len(old), "composed": 0, "fallback": 0}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_an_identical_tokenizer_in_another_order_of_ids_gives_bit_exact_logits(method, tied):
    new, model = permuted(OLD), tiny_model(len(OLD), tied)
    before = logits(model, OLD.encode(TEXT))
    order = match_vocabularies(OLD, new).shared
    model, _ = transplanted(new, method, model=model)
    assert logits(model, new.encode(TEXT))[:, : len(new)].equal(before[:, order])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_shared_rows_are_copied_and_every_row_is_finite(method, tied):
    new, model = byte_level(CODE), tiny_model(len(OLD), tied)
    old_in, old_out = (w.weight.detach().clone() for w in (model.get_input_embeddings(), model.lm_head))
    shared = match_vocabularies(OLD, new).shared
    model, _ = transplanted(new, method, model=model)
    for old, now in ((old_in, model.get_input_embeddings().weight), (old_out, model.lm_head.weight)):
        assert now[: len(shared)][shared >= 0].equal(old[shared[shared >= 0]])
        assert now.isfinite().all()
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("old", KINDS)
@pytest.mark.parametrize("new", KINDS)
def test_any_kind_of_tokenizer_takes_the_place_of_any_other(old, new):
    old, new = old(), new(CODE)
    model, report = transplanted(new, old=old)
    assert logits(model, new.encode(TEXT)).isfinite().all()
    assert sum(report.counts.values()) == len(new)
    assert report.counts["copied"] > 0


def test_the_same_weights_serve_the_input_and_the_output_matrix():
    new, model = byte_level(CODE), tiny_model(len(OLD), tied=False)
    model.lm_head.weight.data.copy_(3 * model.get_input_embeddings().weight.data)
    model, _ = transplanted(new, model=model)
    assert torch.allclose(model.lm_head.weight, 3 * model.get_input_embeddings().weight, atol=1e-5)


def test_retok_is_the_mean_of_the_rows_of_the_pieces():
    new, model = byte_level(CODE), tiny_model(len(OLD))
    rows = model.get_input_embeddings().weight.detach().clone()
    matched = match_vocabularies(OLD, new)
    model, _ = transplanted(new, "retok", model=model)
    number = int((matched.shared < 0).nonzero()[0])
    pieces = matched.pieces[number][matched.pieces[number] >= 0]
    assert torch.allclose(model.get_input_embeddings().weight[number], rows[pieces].mean(dim=0), atol=1e-6)


def test_matrices_are_padded_with_the_mean_row():
    new = byte_level(CODE)
    model, report = transplanted(new, pad_to_multiple_of=64)
    weight = model.get_input_embeddings().weight
    assert report.rows == len(weight) == model.config.vocab_size == -(-len(new) // 64) * 64
    mean = tiny_model(len(OLD)).get_input_embeddings().weight.mean(dim=0)
    assert torch.allclose(weight[len(new) :], mean.expand(len(weight) - len(new), -1))


def test_the_released_fallback_has_the_mean_and_the_deviation_of_the_old_matrix():
    old = tiny_model(len(OLD)).get_input_embeddings().weight
    model, _ = transplanted(byte_level(CODE), fallback="random", pad_to_multiple_of=4096)
    drawn = model.get_input_embeddings().weight[len(OLD) + 100 :]
    assert drawn.mean().item() == pytest.approx(old.mean().item(), abs=0.01)
    assert drawn.std().item() == pytest.approx(old.std().item(), rel=0.03)


def test_random_rows_follow_the_seed():
    def rows(seed):
        model, _ = transplanted(byte_level(CODE), "random", seed=seed)
        return model.get_input_embeddings().weight

    assert rows(0).equal(rows(0))
    assert not rows(0).equal(rows(1))


def test_a_matrix_with_more_rows_than_the_tokenizer_has_tokens_is_no_obstacle():
    new = permuted(OLD)
    roomy = tiny_model(len(OLD) + 50)
    before = logits(roomy, OLD.encode(TEXT))
    model, _ = transplanted(new, model=roomy)
    order = match_vocabularies(OLD, new).shared
    assert logits(model, new.encode(TEXT))[:, : len(new)].equal(before[:, order])


def test_larger_and_smaller_vocabularies_are_taken():
    for size in (270, 400):
        new = byte_level(ENGLISH + CODE, size)
        model, report = transplanted(new)
        assert report.new_tokens == len(new)
        assert logits(model, new.encode(TEXT)).isfinite().all()


def test_more_neighbours_than_old_tokens_are_clipped():
    model, _ = transplanted(byte_level(CODE), top_k=10**6)
    assert model.get_input_embeddings().weight.isfinite().all()


def test_vocabularies_that_share_nothing_are_composed_of_pieces_and_neighbours():
    words = Tokenizer(models.WordLevel({"Ωmega": 0, "zqx": 1, "qqq qqq": 2, "<end>": 3}))
    words.add_special_tokens(["<end>"])
    _, report = transplanted(PreTrainedTokenizerFast(tokenizer_object=words), auxiliary=None)
    assert report.counts == {"copied": 0, "composed": 3, "fallback": 1}
    assert report.estimates == {"local": 0, "global": 0, "both": 3}


@pytest.mark.parametrize("match", MATCHES)
def test_tokens_that_decode_to_the_same_string_each_get_a_row(match):
    new = byte_level(["東京東京東京", "the tower"] * 9)
    texts = [new.decode([number]) for number in range(len(new))]
    assert texts.count("\ufffd") > 100
    model, report = transplanted(new, match=match)
    assert model.get_input_embeddings().weight.isfinite().all()
    assert sum(report.counts.values()) == len(new)


def test_special_tokens_without_a_counterpart_are_named_in_the_report():
    new = byte_level(CODE, bos_token="<s>", eos_token="</s>", mask_token="<mask>")
    _, report = transplanted(new)
    assert report.fallback == ("<mask>",)


def test_the_strings_of_the_released_code_share_less_between_kinds():
    new = sentencepiece(CODE)
    copied = [transplanted(new, match=match)[1].counts["copied"] for match in ("bytes", "string")]
    assert copied[1] < copied[0]


def test_half_precision_stays_half_precision_and_shared_rows_stay_exact():
    new, model = byte_level(CODE), tiny_model(len(OLD)).to(torch.bfloat16)
    rows = model.get_input_embeddings().weight.detach().clone()
    shared = match_vocabularies(OLD, new).shared
    model, _ = transplanted(new, model=model)
    weight = model.get_input_embeddings().weight
    assert weight.dtype == torch.bfloat16
    assert weight[: len(shared)][shared >= 0].equal(rows[shared[shared >= 0]])


def test_the_bias_of_an_output_head_moves_with_its_rows():
    config = PhiConfig(
        vocab_size=len(OLD), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = PhiForCausalLM(config)
    model.lm_head.bias.data.normal_()
    before, new = logits(model.eval(), OLD.encode(TEXT)), permuted(OLD)
    order = match_vocabularies(OLD, new).shared
    model, _ = transplanted(new, model=model)
    assert logits(model, new.encode(TEXT))[:, : len(new)].equal(before[:, order])


def test_a_table_of_positions_is_not_taken_for_a_vocabulary():
    config = GPT2Config(vocab_size=len(OLD), n_positions=len(OLD), n_embd=16, n_layer=3, n_head=2)
    model, _ = transplanted(byte_level(CODE), model=GPT2LMHeadModel(config), auxiliary=None)
    assert model.transformer.wpe.num_embeddings == len(OLD)


def test_special_ids_of_the_configs_follow_the_new_tokenizer():
    model = tiny_model(len(OLD), pad_token_id=OLD.eos_token_id)
    new = permuted(byte_level(ENGLISH, 300))
    lost = next(number for token, number in OLD.get_vocab().items() if token not in new.get_vocab())
    model.generation_config.eos_token_id = [OLD.eos_token_id, OLD.convert_tokens_to_ids("Ġthe"), lost]
    model, _ = transplanted(new, model=model)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (new.bos_token_id, new.eos_token_id)
    assert model.config.pad_token_id == new.eos_token_id == model.generation_config.pad_token_id
    assert model.generation_config.eos_token_id == [new.eos_token_id, new.convert_tokens_to_ids("Ġthe")]
    assert model.get_input_embeddings().padding_idx is None


def test_the_chat_template_goes_along_and_what_it_lost_is_said():
    old, new = byte_level(), byte_level(CODE, bos_token="<begin>", eos_token="</s>")
    old.chat_template = TEMPLATE
    _, report = transplanted(new, old=old)
    assert new.chat_template == TEMPLATE
    assert len(report.notes) == 1
    assert report.notes[0].startswith(
        "the chat template writes <s>, which the new tokenizer cuts into pieces"
    )


def test_special_tokens_are_carried_with_their_rows_and_their_roles_where_that_is_asked_for():
    old, new = byte_level(), byte_level(CODE, eos_token="<end>")
    old.chat_template = TEMPLATE
    model = tiny_model(len(old))
    row = model.get_input_embeddings().weight[old.bos_token_id].detach().clone()
    model, report = transplanted(new, old=old, model=model, carry_special_tokens=True)
    assert (new.bos_token, new.eos_token) == ("<s>", "<end>")
    assert {"<s>", "</s>"} <= new.get_vocab().keys()
    assert model.get_input_embeddings().weight[new.bos_token_id].equal(row)
    assert report.notes == ()


def test_a_chat_template_of_its_own_is_kept():
    old, new = byte_level(), byte_level(CODE)
    old.chat_template, new.chat_template = TEMPLATE, "own"
    transplanted(new, old=old)
    assert new.chat_template == "own"


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_loads_by_from_pretrained_and_says_the_same(tied, tmp_path):
    new = byte_level(CODE)
    model, report = transplanted(new, model=tiny_model(len(OLD), tied), texts=[TEXT, "a cat"])
    save_transplant(model, new, report, tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer.encode(TEXT)
    assert ids == new.encode(TEXT)
    assert logits(loaded, ids).equal(logits(model, ids))
    assert json.loads((tmp_path / "model" / "transplant.json").read_text()) == report.as_json()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_nothing_is_overwritten_and_nothing_half_written_is_left(tmp_path, monkeypatch):
    new = byte_level(CODE)
    model, report = transplanted(new)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken exists already: name a new folder"):
        save_transplant(model, new, report, tmp_path / "taken")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: OLD)
    with pytest.raises(UserError, match=r"AutoTokenizer makes a .* cuts .* otherwise"):
        save_transplant(model, new, report, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_token_ids_beyond_the_rows_are_listed_and_the_model_is_left_alone():
    model = tiny_model(len(OLD) - 3)
    before = copy.deepcopy(model.state_dict())
    beyond = ", ".join(str(number) for number in range(len(OLD) - 3, len(OLD)))
    with pytest.raises(
        UserError, match=rf"3 token ids beyond the {len(OLD) - 3} rows of the model \({beyond}\)"
    ):
        transplanted(byte_level(CODE), model=model)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_long_list_of_ids_is_cut():
    with pytest.raises(UserError, match=rf"200 token ids beyond .*, … {len(OLD) - 1}\)"):
        transplanted(byte_level(CODE), model=tiny_model(len(OLD) - 200))


@pytest.mark.parametrize("name", ["input", "output"])
def test_rows_that_are_not_finite_are_refused(name):
    model = tiny_model(len(OLD), tied=False)
    matrix = {"input": model.get_input_embeddings(), "output": model.lm_head}[name]
    matrix.weight.data[7] = torch.nan
    with pytest.raises(UserError, match=rf"1 rows of the {name} matrix are not finite \(7\)"):
        transplanted(byte_level(CODE), model=model)


def test_a_model_without_input_embeddings_is_refused():
    model = tiny_model(len(OLD))
    model.get_input_embeddings = lambda: None
    with pytest.raises(UserError, match="LlamaForCausalLM has no input embeddings"):
        transplanted(byte_level(CODE), model=model)


def test_a_model_with_further_weights_per_token_is_refused():
    model = tiny_model(len(OLD))
    model.extra = torch.nn.Embedding(len(OLD), 3)
    with pytest.raises(UserError, match=r"keeps further weights per token \(extra\)"):
        transplanted(byte_level(CODE), model=model)


def test_texts_need_a_token_that_begins_them_before_anything_is_changed():
    new = byte_level(CODE, mask_token="<mask>")
    model = tiny_model(len(OLD))
    with pytest.raises(UserError, match=r"neither a bos nor an eos token.*carry_special_tokens=True"):
        transplanted(new, model=model, texts=[TEXT])
    assert model.config.vocab_size == len(OLD)
    _, report = transplanted(new, model=model, texts=[TEXT], carry_special_tokens=True)
    assert report.after is not None


def test_settings_may_be_an_object_a_method_or_keywords():
    new = byte_level(CODE)
    given = TransplantSettings("retok", pad_to_multiple_of=8, leave_one_out=0)
    reports = [
        transplant_tokenizer(tiny_model(len(OLD)), OLD, new, *positional, **options)[1].settings
        for positional, options in (
            ((given,), {}),
            (("retok",), {"pad_to_multiple_of": 8, "leave_one_out": 0}),
            ((), {"method": "retok", "pad_to_multiple_of": 8, "leave_one_out": 0}),
            ((TransplantSettings("mean", pad_to_multiple_of=8),), {"method": "retok", "leave_one_out": 0}),
        )
    ]
    assert reports == [reports[0]] * 4
    with pytest.raises(TypeError, match="topk"):
        transplant_tokenizer(tiny_model(len(OLD)), OLD, new, topk=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"global_weight": 1.1}, "global_weight must be in"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"method": "best"}, "method must be one of"),
        ({"texts": []}, "give at least one text"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_changed(settings, words):
    model = tiny_model(len(OLD))
    with pytest.raises(UserError, match=words):
        transplanted(byte_level(CODE), model=model, **settings)
    assert model.config.vocab_size == len(OLD)
