"""Word-pooled models: reference numbers in both forms, what padding and repetition may not change, training, and what is refused."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.golden import golden_arrays
from tokenry.architectures import WordPooledConfig, WordPooledLM, released_weights

FILES = ("dev-model-a.npz", "dev-model-b.npz")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def golden_model(golden, released):
    names = ("vocab_size", "n_embd", "n_layer", "n_head", "n_word_layer", "n_word_head", "n_prefix")
    sizes = dict(zip((*names, "max_words", "max_word_len"), golden["config"].tolist(), strict=False))
    model = WordPooledLM(WordPooledConfig(**sizes, released=released)).eval()
    state = {
        name.removeprefix("param:"): value for name, value in golden.items() if name.startswith("param:")
    }
    model.load_state_dict(released_weights(state))
    return model


@pytest.fixture(params=FILES)
def golden(request):
    return golden_arrays("18-word-pooled", request.param)


@pytest.mark.parametrize("released", [True, False])
def test_vectors_states_logits_and_losses_are_the_reference(golden, released):
    model, form = golden_model(golden, released), "official" if released else "fixed"
    words, lengths = golden["x"], golden["x_len"]
    with torch.no_grad():
        vectors = model.embed_words(words, lengths)
        torch.testing.assert_close(vectors, golden[f"{form}_cls"], **CLOSE)
        if released:
            states = model.trunk_states(vectors).flatten(1, 2)
            torch.testing.assert_close(states, golden["official_trunk"], **CLOSE)
        logits = model.canvas_logits(words, lengths)
        torch.testing.assert_close(logits, golden[f"{form}_logits"], **CLOSE)
        on_all = cross_entropy(logits.flatten(0, 2), golden["y"][:, :-1].flatten())
        torch.testing.assert_close(on_all, golden["official_loss" if released else "fixed_loss_all"], **CLOSE)
        loss = model(words, lengths).loss
        torch.testing.assert_close(
            loss, golden["official_loss" if released else "fixed_loss_masked"], **CLOSE
        )
