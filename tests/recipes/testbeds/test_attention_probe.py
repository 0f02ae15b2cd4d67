import pytest
import torch

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.recipes.testbeds.attention_probe import (
    attention_scores,
    encode_probe,
    probe_attention,
    probe_rows,
    task_token_auroc,
)


@pytest.fixture
def model(tokenizer):
    return tiny.llama(
        vocab_size=len(tokenizer), intermediate_size=32, num_hidden_layers=3, initializer_range=0.5
    )


@pytest.fixture
def batch(tokenizer):
    return encode_probe(probe_rows(), tokenizer)


def test_every_prompt_is_answered_in_both_orders():
    rows = probe_rows()
    assert len(rows) == 12
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["messages"][0] == second["messages"][0]
        texts = [
            {
                span["class"]: row["messages"][1]["content"][span["start"] : span["end"]]
                for span in row["spans"]
            }
            for row in (first, second)
        ]
        assert texts[0] == texts[1]
        assert [span["class"] for span in first["spans"]] == ["task", "filler"]
        assert [span["class"] for span in second["spans"]] == ["filler", "task"]


def test_tokens_are_told_apart_by_the_words_they_spell(tokenizer, batch):
    for number, row in enumerate(probe_rows()):
        ids, spans = batch.input_ids[number], {span["class"]: span for span in row["spans"]}
        task, filler = (
            row["messages"][1]["content"][spans[name]["start"] : spans[name]["end"]]
            for name in ("task", "filler")
        )
        assert tokenizer.decode(ids[batch.content[number]]) == row["messages"][0]["content"]
        assert tokenizer.decode(ids[batch.task[number]]).strip() == task
        assert tokenizer.decode(ids[batch.asked[number] & ~batch.task[number]]).strip() == filler
        assert tokenizer.decode(ids[batch.prompt[number]]).endswith("<|end|><|assistant|>")


def test_padding_belongs_to_nothing(batch):
    padding = batch.attention_mask == 0
    assert padding.any()
    for part in (batch.content, batch.prompt, batch.task, batch.asked):
        assert not (part & padding).any()


def test_auroc_is_one_for_a_perfect_score_and_half_for_none(batch):
    perfect = batch.task.float()
    assert task_token_auroc(perfect, batch) == 1.0
    assert task_token_auroc(-perfect, batch) == 0.0
    assert task_token_auroc(torch.zeros_like(perfect), batch) == 0.5


def test_scores_are_those_of_the_eager_attention_probabilities(model, batch):
    scores = attention_scores(model, batch)
    model.set_attn_implementation("eager")
    model.eval()
    with torch.no_grad():
        layers = model(
            batch.input_ids, attention_mask=batch.attention_mask, output_attentions=True
        ).attentions
    last = layers[-1]
    to_prompt = (last * batch.prompt[:, None, None, :]).sum(-1).mean(1)
    content = batch.content.clone()
    content[:, 0] = False
    share = (last * content[:, None, None, :]).sum(-1) / (1 - last[..., 0])
    asked = batch.asked
    torch.testing.assert_close(scores["prompt, last layer"][asked], to_prompt[asked], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        scores["content, last layer"][asked], share.mean(1)[asked], rtol=1e-4, atol=1e-5
    )
    assert all(score[~asked].isnan().all() for score in scores.values())


def test_a_probe_gives_one_auroc_per_score_and_restores_the_models_mode(model, tokenizer):
    model.train()
    aurocs = probe_attention(model, tokenizer)
    assert set(aurocs) == {
        f"{columns}, {layers}"
        for columns in ("prompt", "content")
        for layers in ("last layer", "deep layers")
    }
    for found in aurocs.values():
        assert len(found.of_conversations) == len(probe_rows())
        assert all(0.0 <= auroc <= 1.0 for auroc in (found.auroc, *found.of_conversations))
    assert all(module.training for module in model.modules())


def test_a_tokenizer_without_chat_template_is_refused(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(
        UserError, match="has no chat template, which conversations need: choose an instruct model"
    ):
        encode_probe(probe_rows(), tokenizer)
