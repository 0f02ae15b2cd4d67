"""Text and continuous tokens in one model: the reference objective, what padding and neighbours never change, training, saving, writing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, WhisperConfig, WhisperModel

from tests import tiny
from tests.golden import golden_arrays
from tokenry.core.errors import UserError
from tokenry.core.tensors.output_head import OutputHead
from tokenry.generation import (
    ContinuousTokenConfig,
    ContinuousTokenLM,
    SpeechSampling,
    SpokenSample,
    StreamCollator,
)
from tokenry.generation.flow_omni.stream_losses import joint_loss, stop_loss, text_loss
from tokenry.generation.flow_omni.streams import BLANK, HEARD

SMALL = {"channels": 6, "group": 2, "width": 8, "depth": 1}
LANGUAGE_MODELS = {
    "llama": tiny.llama,
    "tied": lambda: tiny.llama(tie_word_embeddings=True),
    "gpt2": tiny.gpt2,
    "bfloat16": lambda: tiny.llama().bfloat16(),
}


def made(language_model=None, **settings):
    torch.manual_seed(0)
    model = ContinuousTokenLM.around(
        tiny.llama() if language_model is None else language_model, **(SMALL | settings)
    ).eval()
    for parameter in model.speech_head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def frames(length, seed=0):
    return torch.randn(length, 3, generator=torch.Generator().manual_seed(seed))


def sample(prompt=(1, 2, 3), text=(4, 5, 9), length=7, seed=0, **heard):
    return SpokenSample(prompt, text, frames(length, seed) if length else None, **heard)


def losses(model, samples, **options):
    torch.manual_seed(0)
    with torch.no_grad():
        return model(**StreamCollator(2, **options)(samples))


@pytest.fixture
def whisper():
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=12, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16, num_mel_bins=5, max_source_positions=8,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=20, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    return WhisperModel(config).eval()


def test_the_objective_is_the_reference():
    found = golden_arrays("30-flow-omni", "dev-joint.npz")
    logits, labels = found["text_logits"], found["text_labels"]
    # The reference has shifted its labels already; here a token is predicted from the state before it.
    hidden = torch.nn.functional.pad(logits, (0, 0, 0, 1))
    shifted = torch.nn.functional.pad(labels, (1, 0), value=-100)
    matrix = torch.nn.Linear(11, 11, bias=False).double()
    with torch.no_grad():
        matrix.weight.copy_(torch.eye(11))
    text = text_loss(hidden, shifted, shifted != -100, OutputHead(matrix, 11))
    torch.testing.assert_close(text.detach().double(), found["lm_loss"], rtol=1e-7, atol=1e-7)
    stop = stop_loss(
        found["stop_logits"], found["stop_target"], found["stop_mask"].bool(), float(found["stop_pos_weight"])
    )
    torch.testing.assert_close(stop, found["stop_loss"], rtol=1e-10, atol=1e-10)
    weights = {"flow_weight": float(found["lambda_cfm"]), "stop_weight": float(found["mu_stop"])}
    config = ContinuousTokenConfig(tiny.llama().config, **weights)
    total = joint_loss(found["lm_loss"], found["cfm_loss"], found["stop_loss"], config)
    torch.testing.assert_close(total, found["total"], rtol=1e-10, atol=1e-10)


def test_streams_are_laid_out_side_by_side():
    batch = StreamCollator(2)([sample((1, 2), (4, 9), 5), sample((), (5, 6, 9), 0), sample((7,), (), 3)])
    assert batch["input_ids"].tolist() == [
        [1, 2, 4, 9, BLANK, BLANK],
        [BLANK, 5, 6, 9, BLANK, BLANK],
        [7] + [BLANK] * 5,
    ]
    assert batch["labels"].tolist() == [
        [-100, -100, 4, 9, -100, -100],
        [-100, 5, 6, 9, -100, -100],
        [-100] * 6,
    ]
    assert batch["attention_mask"].sum(1).tolist() == [6, 4, 4]
    assert (batch["speech_starts"].tolist(), batch["speech_lengths"].tolist()) == ([3, 2, 2], [3, 0, 2])
    assert batch["element_mask"][0, 2].tolist() == [1, 1, 1, 0, 0, 0]
    assert StreamCollator(2, delay=0)([sample((1, 2), (4, 9), 5)])["speech_starts"].tolist() == [2]


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_any_language_model_learns_both_streams(name):
    inner = LANGUAGE_MODELS[name]()
    before = {key: value.clone() for key, value in inner.state_dict().items()}
    model = made(inner)
    assert all(torch.equal(before[key], value) for key, value in model.language_model.state_dict().items())
    model.train()
    model.train_stage("everything")
    output = model(**StreamCollator(2)([sample(), sample(length=4, seed=1)]))
    assert output.loss.dtype == torch.float32
    assert float(output.loss) == pytest.approx(
        float(output.text_loss + output.flow_loss + output.stop_loss), rel=1e-4
    )
    output.loss.backward()
    without = [key for key, value in model.named_parameters() if value.grad is None]
    assert without == [], "several processes need a gradient everywhere"
    assert model.speech_head.inward.weight.grad.dtype == torch.float32


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 7)), min_size=2, max_size=3),
    st.integers(0, 9),
)
def test_a_loss_of_a_batch_is_that_of_its_rows(sizes, seed):
    model = made(draws=1, condition_dropout=0.0)
    kept = [(prompt, text, length) for prompt, text, length in sizes if text or length]
    rows = [
        sample(tuple(range(2, 2 + prompt)), tuple(range(5, 5 + text)), length, seed + number)
        for number, (prompt, text, length) in enumerate(kept)
    ]
    if not rows:
        return
    alone = [losses(model, [row]) for row in rows]
    texts = [len(row.text) for row in rows]
    tokens = [0 if row.frames is None else -(-len(row.frames) // 2) for row in rows]
    together = losses(model, rows)
    for name, counts in (("text_loss", texts), ("stop_loss", tokens)):
        total = sum(count * float(one[name]) for count, one in zip(counts, alone, strict=True))
        assert float(together[name]) == pytest.approx(total / max(1, sum(counts)), rel=1e-3, abs=1e-5), name


def test_what_stands_in_the_padding_never_changes_a_loss():
    model = made(draws=1)
    batch = StreamCollator(2)([sample(length=9), sample((1,), (4,), 3)])
    torch.manual_seed(0)
    loss = model(**batch).loss
    changed = {name: value.clone() for name, value in batch.items()}
    changed["input_ids"][changed["attention_mask"] == 0] = 5
    changed["speech"][1, 2:] = torch.nan
    torch.manual_seed(0)
    torch.testing.assert_close(model(**changed).loss, loss)


def test_a_state_predicts_what_stands_behind_it_in_both_streams(monkeypatch):
    model, inputs, said = made(draws=1, condition_dropout=0.0), [], []
    read = model._read
    monkeypatch.setattr(
        model, "_read", lambda embedded, mask: inputs.append(embedded) or read(embedded, mask)
    )
    monkeypatch.setattr(model, "speech_loss", lambda tokens, hidden, _: said.append(hidden) or tokens.sum())
    batch = StreamCollator(2)([sample((1, 2), (4, 5, 9), 8)])
    model(**batch)
    batch["speech"][0, 2] += 1.0
    model(**batch)
    differs = (inputs[0] != inputs[1]).any(2)[0].nonzero()[:, 0].tolist()
    assert differs == [2 + 1 + 2], "the third token stands behind the prompt, the delay and two tokens"
    hidden = read(inputs[0], batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(said[0], hidden[0, 2:6])


def test_samples_without_text_or_without_speech_are_learned_from():
    model = made()
    only_speech, only_text = losses(model, [sample((1,), (), 5)]), losses(model, [sample((1,), (4, 5), 0)])
    assert float(only_speech.text_loss) == 0.0
    assert float(only_speech.flow_loss) > 0
    assert (float(only_text.flow_loss), float(only_text.stop_loss)) == (0.0, 0.0)
    assert float(only_text.text_loss) > 0


def trained(model, folder, steps=4, resume=False, **options):
    rows = [sample(length=3 + number, seed=number) for number in range(6)]
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=2, learning_rate=1e-2, save_steps=2, logging_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, **options,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=StreamCollator(2))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_two_stages_through_the_trainer(tmp_path):
    model = made()
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.train_stage("alignment")
    trained(model, tmp_path / "one")
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith("language_model.") for name in changed)
    model.train_stage("everything")
    trained(model, tmp_path / "two", bf16=False)
    assert not torch.equal(model.language_model.lm_head.weight, before["language_model.lm_head.weight"])


def test_a_training_resumes_and_learns(tmp_path):
    whole = trained(made(), tmp_path / "whole", 6)
    trained(made(), tmp_path / "part", 6, save_total_limit=3)
    for later in ("checkpoint-4", "checkpoint-6"):
        __import__("shutil").rmtree(tmp_path / "part" / later)
    again = trained(made(), tmp_path / "part", 6, resume=True)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, msg=name)


def test_mixed_precision_leaves_the_heads_in_float32(tmp_path):
    model, seen = made(), []
    model.prenet.register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    model.speech_head.register_forward_hook(lambda module, given, found: seen.append(found.dtype))
    trained(model, tmp_path, 2, bf16=True)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("name", ["llama", "tied", "gpt2"])
def test_a_saved_model_is_loaded_as_it_was(name, tmp_path):
    model = made(LANGUAGE_MODELS[name]())
    model.scale.fit(torch.randn(20, 6))
    model.save_pretrained(tmp_path)
    loaded = ContinuousTokenLM.from_pretrained(tmp_path).eval()
    assert losses(loaded, [sample()]).loss == losses(model, [sample()]).loss
    low = ContinuousTokenLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert low.language_model.get_input_embeddings().weight.dtype == torch.bfloat16
    for part in (low.speech_head, low.prenet, low.stop, low.scale):
        assert {value.dtype for value in (*part.parameters(), *part.buffers())} == {torch.float32}


def test_adapters_alone_are_trained_and_saved(tmp_path):
    adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = made(get_peft_model(tiny.llama(), adapter))
    model.train_stage("everything")
    learned = [name for name, value in model.language_model.named_parameters() if value.requires_grad]
    assert learned
    assert all("lora_" in name for name in learned)
    given = made(lora={"r": 2, "target_modules": ["q_proj"]})
    given.train_stage("everything")
    assert [name for name, value in given.language_model.named_parameters() if value.requires_grad]
    model.save_pretrained(tmp_path)
    loaded = ContinuousTokenLM.from_pretrained(tmp_path).eval()
    assert losses(loaded, [sample()]).loss == losses(model, [sample()]).loss


def test_speech_is_heard_before_the_prompt(whisper, tmp_path):
    torch.manual_seed(0)
    model = ContinuousTokenLM.around(tiny.llama(), whisper, stack=2, **SMALL).eval()
    heard = torch.randn(2, 5, 16)
    states = model.heard_states(12)
    assert states == 3
    rows = [
        sample((1,), (4, 5), 5, heard=heard[0], heard_states=states),
        sample((1, 2), (4,), 0),
        sample((), (4,), 3, heard=heard[1], heard_states=1),
    ]
    batch = StreamCollator(2)(rows)
    assert batch["input_ids"][0, :6].tolist() == [HEARD] * 5 + [1]
    torch.manual_seed(0)
    loss = model(**batch).loss
    model.train_stage("alignment")
    model(**batch).loss.backward()
    assert model.adapter[0].weight.grad is not None
    assert all(value.grad is None for value in model.encoder.parameters())
    changed = dict(batch, input_features=batch["input_features"].flip(0))
    torch.manual_seed(0)
    assert model(**changed).loss != loss
    answers = model.generate([(1,), ()], SpeechSampling(max_tokens=2, max_text=2), None, heard, [3, 1])
    assert [len(answer.text) for answer in answers] == [2, 2]
    model.save_pretrained(tmp_path)
    loaded = ContinuousTokenLM.from_pretrained(tmp_path).eval()
    torch.manual_seed(0)
    torch.testing.assert_close(loaded(**batch).loss, loss)


# --- writing -----------------------------------------------------------------------------------------------------------------------


def fixed(**options):
    return SpeechSampling(**({"steps": 2, "min_tokens": 4, "max_tokens": 4, "max_text": 3} | options))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_answer_depends_neither_on_its_batch_nor_on_padding(name):
    model = made(LANGUAGE_MODELS[name]())
    prompts = [(1, 2, 3, 4, 5), (6,), ()]
    together = model.generate(prompts, fixed(text_temperature=1.0))
    for number, prompt in enumerate(prompts):
        alone = model.generate([prompt], fixed(text_temperature=1.0, seed=number))[0]
        assert alone.text == together[number].text
        torch.testing.assert_close(alone.tokens, together[number].tokens, rtol=1e-4, atol=1e-5)


def test_the_cache_gives_what_one_pass_over_all_positions_gives():
    model = made()
    model.scale.fit(torch.randn(20, 6) * 3 + 1)
    text = (7, 8, 9)
    spoken = model.generate([(1, 2)], fixed(max_tokens=5, min_tokens=5), [text])[0]
    seen = []
    model.draw_speech = lambda hidden, noise, sampling: seen.append(hidden) or noise
    again = model.generate([(1, 2)], fixed(max_tokens=5, min_tokens=5), [text])[0]
    batch = StreamCollator(1)([SpokenSample((1, 2), text, again.tokens)])
    stands = model._stands(
        batch["input_ids"], batch["speech"], batch["speech_lengths"], batch["speech_starts"]
    )
    with torch.no_grad():
        scaled = model._real_tokens(batch["speech"], batch["speech_lengths"])
        hidden = model._read(model._embed(batch["input_ids"], scaled, stands), batch["attention_mask"])
    torch.testing.assert_close(torch.cat(seen), hidden.last_hidden_state[0, 2:7], rtol=1e-4, atol=1e-5)
    assert spoken.tokens.shape == (5, 6)
    assert spoken.text == text


def test_speech_stops_where_the_model_says_so_and_what_was_cut_off_is_told():
    model = made()
    with torch.no_grad():
        model.stop.weight.zero_()
        model.stop.bias.fill_(5.0)
    one = model.generate([(1,)], SpeechSampling(max_tokens=6, max_text=2))[0]
    assert (len(one.tokens), one.stopped) == (1, True)
    least = model.generate([(1,)], SpeechSampling(min_tokens=3, max_tokens=6, max_text=2))[0]
    assert (len(least.tokens), least.stopped) == (3, True)
    model.stop.bias.data.fill_(-5.0)
    cut = model.generate([(1,)], SpeechSampling(max_tokens=6, max_text=2))[0]
    assert (len(cut.tokens), cut.stopped) == (6, False)
    silent = model.generate([(1,)], SpeechSampling(max_tokens=0, max_text=2))[0]
    assert (silent.tokens.shape, len(silent.text)) == ((0, 6), 2)


def test_a_text_ends_at_its_end_token_and_rows_that_have_ended_wait():
    model = made()
    first = model.generate([(1, 2), (3,)], SpeechSampling(max_tokens=0, max_text=4))
    ended = model.generate([(1, 2), (3,)], SpeechSampling(max_tokens=0, max_text=4), ends=[first[0].text[0]])
    assert ended[0].text == first[0].text[:1]


def test_frames_are_given_out_while_they_are_written():
    steps = made().stream([(1, 2), (3,)], fixed(), [(5,), (6, 7)])
    first, second = next(steps), next(steps)
    assert first.text.tolist() == [5, 6]
    assert not first.speaks.any(), "speech begins a step after the text"
    assert second.text.tolist() == [BLANK, 7]
    assert second.speaks.all()
    assert second.tokens.shape == (2, 6)


def test_a_model_is_left_in_the_mode_it_was_in():
    model = made().train()
    model.generate([(1,)], fixed())
    assert model.training
    assert model.prenet.training


def batch_of(**changes):
    return StreamCollator(2)([sample(), sample(length=4)]) | changes


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (
            lambda: made()(**batch_of(speech=torch.zeros(2, 4, 8))),
            "the speech has 8 channels and the model has 6",
        ),
        (
            lambda: made()(**batch_of(speech_lengths=torch.tensor([5, 1]))),
            "speech_lengths must be from 0 to the 4 tokens",
        ),
        (
            lambda: made()(**batch_of(speech_starts=torch.tensor([0, 1]))),
            "speech must stand at positions 1 to",
        ),
        (
            lambda: made()(**batch_of(speech_starts=torch.tensor([6, 1]))),
            "speech must stand at positions 1 to",
        ),
        (lambda: made()(**batch_of(speech_lengths=None)), "speech needs speech_lengths and speech_starts"),
        (lambda: made()(**batch_of(speech=torch.full((2, 4, 6), torch.nan))), "the speech holds nan or inf"),
        (lambda: made()(**batch_of(labels=torch.full((2, 8), 999))), "label 999 is not in the vocabulary"),
        (
            lambda: made()(torch.tensor([[HEARD, 1]])),
            "this model hears nothing: make it with a speech encoder",
        ),
        (lambda: made(group=0), "group must be at least 1, got 0"),
        (lambda: made(sigma_min=2.0), r"sigma_min must be in \[0, 1\], got 2.0"),
        (lambda: made(combine="both"), "combine must be one of sum, average, got 'both'"),
        (lambda: made(stop_positive_weight=0.0), "stop_positive_weight must be above 0, got 0.0"),
        (lambda: made(mel={"n_mels": 4}), "tokens of 2 frames with 4 bins have 8 channels, got channels=6"),
        (lambda: made().config.frames, "the tokens of this model are no speech frames"),
        (lambda: made().train_stage("last"), "stage must be one of alignment, everything, got 'last'"),
        (lambda: SpokenSample((1,)), "neither text nor speech to learn teaches nothing"),
        (lambda: SpokenSample((1,), (2,), heard_states=3), "heard speech needs its number of states"),
        (lambda: StreamCollator(2)([]), "there are no samples"),
        (lambda: StreamCollator(0), "group must be at least 1, got 0"),
        (lambda: SpeechSampling(steps=0), "steps must be at least 1, got 0"),
        (lambda: SpeechSampling(stop_threshold=0.0), r"stop_threshold must be in \(0, 1\], got 0.0"),
        (lambda: SpeechSampling(solver="heun"), "solver must be one of euler, midpoint, got 'heun'"),
        (lambda: made().generate([]), "there are no prompts"),
        (lambda: made().generate([(1,)], texts=[(1,), (2,)]), "2 texts and 1 prompts do not belong together"),
        (lambda: made().generate([(999,)]), "token id 999 is not among the"),
        (
            lambda: made(tiny.gpt2(n_positions=16)).generate([(1,)], SpeechSampling(max_tokens=40)),
            "positions and GPT2LMHeadModel has 16",
        ),
        (
            lambda: ContinuousTokenLM.around(torch.nn.Linear(2, 2)),
            "has no output head: a causal language model",
        ),
    ],
)
def test_what_does_not_fit_is_refused(do, words):
    with pytest.raises(UserError, match=words):
        do()
