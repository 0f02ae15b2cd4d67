"""Transfer: models that load, rows where they belong, reports token by token, fine-tuned variants, and training on."""

import copy
import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)

from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import CODE, byte_level, permuted, sentencepiece, unigram, word_piece
from tests.tokenization.transfer.zett.tiny import SPECIAL, TEXTS, causal, masked_lm, tokenizer
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.model_rows import ModelRows, logits_with, model_rows
from tokenry.tokenization.transfer.zett.n_shot import NShotConfig, NShotTrainer
from tokenry.tokenization.transfer.zett.task_vector import apply_task_vector
from tokenry.tokenization.transfer.zett.training import hypernetwork_for
from tokenry.tokenization.transfer.zett.transfer import predict_vocabulary, save_transfer, transfer_tokenizer

OLD = tokenizer()
NEW_TOKENS = 341


def network(model, **settings):
    return hypernetwork_for(model, OLD, **{"layers": 1, "heads": 2, **settings}).eval()


def target():
    return byte_level([*CODE, *TEXTS], 400, bos_token="<s>", eos_token="<end>")


@pytest.mark.parametrize("tied", [True, False])
def test_a_transferred_model_loads_and_generates(tmp_path, tied):
    model, new = causal(tied), target()
    made = transfer_tokenizer(model, network(model), new)
    report = predict_vocabulary(causal(tied), network(causal(tied)), new).report
    save_transfer(made, new, report, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    cut = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.config.vocab_size == len(cut) == NEW_TOKENS
    assert loaded.config.eos_token_id == new.eos_token_id
    ids = cut("the cat", return_tensors="pt").input_ids
    assert torch.equal(loaded(ids).logits, made(ids).logits)
    loaded.generate(ids, max_new_tokens=3)
    assert json.loads((tmp_path / "out" / "zett.json").read_text())["tokens"] == NEW_TOKENS
    with pytest.raises(UserError, match="exists already: name a new folder"):
        save_transfer(made, new, report, tmp_path / "out")


@pytest.mark.parametrize("make", [sentencepiece, word_piece, unigram, target])
def test_any_kind_of_tokenizer_gets_finite_rows_for_all_of_its_ids(make):
    model, new = causal(), make()
    transfer_tokenizer(model, network(model), new)
    rows = model.get_input_embeddings().weight
    assert len(rows) == max(new.get_vocab().values()) + 1
    assert rows.isfinite().all()


def test_special_tokens_keep_their_rows_by_name_and_by_part():
    model, new = causal(), target()
    before = model.get_input_embeddings().weight.detach().clone()
    transfer_tokenizer(model, network(model), new)
    after = model.get_input_embeddings().weight
    assert torch.equal(after[new.bos_token_id], before[OLD.bos_token_id])
    assert torch.equal(after[new.eos_token_id], before[OLD.eos_token_id])


def test_a_residual_hypernetwork_is_at_first_a_permutation_for_a_permuted_tokenizer():
    for tied in (True, False):
        model = causal(tied)
        new = permuted(byte_level(TEXTS[:60], 330, **SPECIAL))
        old = byte_level(TEXTS[:60], 330, **SPECIAL)
        before = model_rows(model)
        expected = [before.input.clone(), None if tied else before.output.clone()]
        transfer_tokenizer(model, network(model, residual=True), new)
        after = model_rows(model)
        names = old.get_vocab()
        order = [names[new.convert_ids_to_tokens(number)] for number in range(len(old))]
        torch.testing.assert_close(after.input, expected[0][order], rtol=1e-6, atol=1e-6)
        if not tied:
            torch.testing.assert_close(after.output, expected[1][order], rtol=1e-6, atol=1e-6)


def test_only_rows_change_and_nothing_before_all_is_known():
    model = causal()
    before = copy.deepcopy(model.state_dict())
    predict_vocabulary(model, network(model), target())
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    transfer_tokenizer(model, network(model), target())
    changed = {
        name
        for name, each in model.state_dict().items()
        if each.shape != before[name].shape or not torch.equal(each, before[name])
    }
    assert changed == {"model.embed_tokens.weight", "lm_head.weight"}


def test_the_rows_of_a_fine_tuned_model_can_be_predicted_from_its_base():
    base, tuned = causal(), causal()
    with torch.no_grad():
        for each in tuned.parameters():
            each.add_(0.1 * torch.randn_like(each))
    made = network(base)
    from_base = transfer_tokenizer(copy.deepcopy(base), made, target())
    transfer_tokenizer(tuned, made, target(), base=base)
    assert torch.equal(model_rows(tuned).input, model_rows(from_base).input)


def test_a_masked_model_gets_rows_and_bias():
    model = masked_lm()
    made = hypernetwork_for(model, tokenizer(mask_token="<mask>"), layers=1, heads=2).eval()
    transfer_tokenizer(model, made, target())
    ids = torch.tensor([[1, 300]])
    assert model(ids).logits.shape == (1, 2, NEW_TOKENS)
    assert model.get_output_embeddings().bias.abs().sum() > 0


def other_models():
    sizes = {"vocab_size": 330, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 24}
    torch.manual_seed(0)
    return [
        causal(),
        causal(False),
        masked_lm(),
        GPT2LMHeadModel(GPT2Config(vocab_size=330, n_embd=24, n_layer=1, n_head=2, n_positions=64)).eval(),
        Gemma2ForCausalLM(
            Gemma2Config(**sizes, intermediate_size=24, num_key_value_heads=1, head_dim=12)
        ).eval(),
    ]


@pytest.mark.parametrize("model", other_models(), ids=lambda model: type(model).__name__)
def test_running_with_other_rows_is_running_the_transferred_model(model):
    made = hypernetwork_for(model, tokenizer(mask_token="<mask>"), layers=1, heads=2).eval()
    rows = predict_vocabulary(model, made, target()).rows
    ids = torch.tensor([[1, 300, 260]])
    swapped = logits_with(model, rows, {"input_ids": ids})
    transfer_tokenizer(model, made, target())
    torch.testing.assert_close(swapped, model(ids).logits)


def test_the_report_names_shared_special_and_truncated_tokens():
    model = causal()
    new = target()
    made = predict_vocabulary(model, network(model, max_length=2, residual=True), new)
    report, names = made.report, [new.convert_ids_to_tokens(number) for number in range(NEW_TOKENS)]
    known = OLD.get_vocab()
    expected = [name in known and name not in new.all_special_tokens for name in names]
    assert report.shared.tolist() == expected
    assert report.cosine_error[report.shared].abs().max() < 1e-5
    assert report.cosine_error[~report.shared].isnan().all()
    assert int(report.special.sum()) == 2
    assert report.truncated.any()
    assert (report.byte_coverage[report.truncated] < 1).all()
    said = report.as_json()
    assert said["shared"] + said["composed"] + said["special"] == said["tokens"] == NEW_TOKENS
    assert said["bytes_with_a_token"] == 256
    assert set(said["least_covered_tokens"]) <= set(names)
    json.dumps(said, allow_nan=False)


def test_a_vocabulary_smaller_than_the_bytes_works():
    small = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    )
    model = causal()
    transfer_tokenizer(model, network(model), small)
    assert len(model.get_input_embeddings().weight) == 3


def test_what_is_never_written_gets_the_mean_row_and_is_counted():
    new, model = sentencepiece(CODE), causal(tied=False)
    rows = model_rows(model)
    predicted = predict_vocabulary(model, network(model), new)
    names = new.get_vocab()
    lone = [names[f"<0x{byte:02X}>"] for byte in range(33, 127) if chr(byte) in names]
    assert len(lone) > 10
    for made, source in zip(predicted.rows.there(), rows.there(), strict=True):
        mean = source[: len(OLD)].mean(dim=0)
        assert torch.allclose(made[lone], mean.expand(len(lone), *mean.shape), atol=1e-6)
    report = predicted.report.as_json()
    assert report["never_written"] >= len(lone)
    assert report["never_written"] + report["shared"] + report["composed"] + report["special"] == len(new)


def test_a_bare_tokenizer_can_be_transferred_to():
    new = byte_level([*CODE, *TEXTS], 400)
    made = [
        transfer_tokenizer(model, network(model), given)
        for model, given in ((causal(), new), (causal(), new.backend_tokenizer))
    ]
    weights = [model.get_input_embeddings().weight for model in made]
    assert weights[0].equal(weights[1])


def test_rows_that_no_text_has_trained_scale_no_prediction():
    source = byte_level(["a    b  c   d"] * 9, 300, bos_token="<s>", eos_token="</s>")
    source.add_tokens([AddedToken(" " * count, normalized=True, special=False) for count in (4, 3, 2)])
    never = [source.get_vocab()["Ġ" * count] for count in (2, 3, 4) if "Ġ" * count in source.get_vocab()]
    assert never
    scales = []
    for value in (0.0, 100.0):
        model = tiny_model(len(source))
        model.get_input_embeddings().weight.data[never] = value
        made = hypernetwork_for(model, source, layers=1, heads=2)
        scales.append([made.scaler.w.clone(), made.scaler.b.clone(), made.in_scaler.w.clone()])
    assert all(one.equal(other) for one, other in zip(*scales, strict=True))


def test_an_empty_tokenizer_is_refused():
    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({}, [])))
    model = causal()
    with pytest.raises(UserError, match="empty vocabulary"):
        transfer_tokenizer(model, network(model), empty)


def test_a_hypernetwork_of_another_model_is_refused():
    with pytest.raises(UserError, match="for tied embeddings of width 24, but the model has untied ones"):
        transfer_tokenizer(causal(False), network(causal()), target())


def test_a_source_tokenizer_that_is_missing_or_another_is_refused():
    model = causal()
    made = network(model)
    made.source_tokenizer = None
    with pytest.raises(UserError, match="give the tokenizer of its model as source_tokenizer"):
        transfer_tokenizer(model, made, target())
    with pytest.raises(UserError, match=f"tokens over bytes, but the hypernetwork knows {len(OLD)}"):
        transfer_tokenizer(model, made, target(), source_tokenizer=target())
    transfer_tokenizer(model, made, target(), source_tokenizer=OLD)


# --- fine-tuned variants, and training on ----------------------------------------------------------------------------------------------


def test_a_task_vector_moves_everything_but_the_rows():
    base, adapted, tuned = causal(), causal(), tiny_model(50)
    with torch.no_grad():
        for each in adapted.parameters():
            each.add_(1.0)
    before = copy.deepcopy(tuned.state_dict())
    apply_task_vector(tuned, base, adapted, 0.25)
    for name, each in tuned.state_dict().items():
        rows = name in ("model.embed_tokens.weight", "lm_head.weight")
        torch.testing.assert_close(each, before[name] + (0.0 if rows else 0.25))


def test_models_of_another_shape_have_no_task_vector():
    with pytest.raises(UserError, match="the three models have different weights"):
        apply_task_vector(causal(), causal(), masked_lm())


def n_shot(**changed):
    model, new = causal(), target()
    model = transfer_tokenizer(model, network(model), new)
    settings = {"steps": 6, "learning_rate": 1e-3, "batch_size": 4, "block_size": 16, "save_every": 2}
    return NShotTrainer(model, new, TEXTS, NShotConfig(**(settings | changed)))


def test_training_on_lowers_the_loss():
    made = n_shot(steps=30)
    made.train()
    losses = made.history["language_model"]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert made.history["lexical"][0] == 0


def test_the_lexical_loss_holds_the_rows_near_what_was_predicted():
    free, held = n_shot(steps=20, lexical_weight=0.0), n_shot(steps=20, lexical_weight=50.0)
    free.train()
    held.train()
    assert held.history["lexical"][-1] < free.history["lexical"][-1]


def test_training_on_resumes_bitwise(tmp_path):
    whole = n_shot()
    whole.train()

    def kill(what, share):
        if share > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        n_shot().train(tmp_path, progress=kill)
    resumed = n_shot()
    resumed.train(tmp_path, resume=True)
    for name, each in whole.model.state_dict().items():
        assert torch.equal(each, resumed.model.state_dict()[name])


def test_micro_batches_of_training_on_change_nothing_but_rounding():
    whole, parts = n_shot(micro_batch_size=0), n_shot(micro_batch_size=3)
    whole.train()
    parts.train()
    assert parts.history["loss"] == pytest.approx(whole.history["loss"], rel=1e-3)


def test_bad_settings_of_training_on_are_one_sentence():
    with pytest.raises(UserError, match="steps must be at least 1, got 0"):
        n_shot(steps=0)
    with pytest.raises(UserError, match="learning_rate must not be negative"):
        n_shot(learning_rate=-1.0)
    with pytest.raises(UserError, match="training needs texts"):
        NShotTrainer(causal(), OLD, [])


def test_models_without_a_vocabulary_are_refused():
    tiny = ViTModel(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            image_size=4,
            patch_size=2,
        )
    )
    with pytest.raises(UserError, match="embeddings: give a causal or a masked language model"):
        model_rows(tiny)
    assert isinstance(model_rows(causal()), ModelRows)
