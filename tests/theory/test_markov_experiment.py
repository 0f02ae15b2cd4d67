"""The experiment: it learns, is measured on held-out text, resumes, and takes any causal language model."""

import pytest

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.theory import BPETokenizer, MarkovExperimentConfig, MarkovSource, markov_experiment

SOURCE = MarkovSource.switching(1, 0.1, 0.1)
SHORT = MarkovExperimentConfig(
    layers=1,
    width=16,
    heads=2,
    length=16,
    batch_size=8,
    steps=6,
    learning_rate=0.01,
    measure_at=(0, 3),
    held_out=400,
)


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(SOURCE.sample(2000)[0], 8)


def test_a_curve_is_measured_where_it_was_asked_for_and_at_the_end():
    curve = markov_experiment(SOURCE, None, SHORT)
    assert curve.steps == (0, 3, 6)
    assert curve.nats_per_symbol[-1] < curve.nats_per_symbol[0]
    assert curve.tokens_per_symbol == 1
    assert curve.at(3) == curve.nats_per_symbol[1]


def test_tokens_are_paid_for_per_symbol(tokenizer):
    curve = markov_experiment(SOURCE, tokenizer, SHORT)
    assert curve.tokens_per_symbol < 0.5
    assert curve.nats_per_symbol[0] == pytest.approx(2.08 * curve.tokens_per_symbol, rel=0.1), (
        "ln 8 per token"
    )


def test_a_stopped_experiment_goes_on_where_it_was(tmp_path, tokenizer):
    def stop(what, share):
        if share >= 4 / 6:
            raise KeyboardInterrupt

    config = MarkovExperimentConfig(**{**SHORT.__dict__, "measure_at": (0, 1, 5)})
    with pytest.raises(KeyboardInterrupt):
        markov_experiment(SOURCE, tokenizer, config, folder=tmp_path, progress=stop)
    resumed = markov_experiment(SOURCE, tokenizer, config, folder=tmp_path, resume=True)
    assert resumed == markov_experiment(SOURCE, tokenizer, config)


def test_any_causal_language_model_will_do(tokenizer):
    curve = markov_experiment(SOURCE, tokenizer, SHORT, tiny.llama(vocab_size=8))
    assert len(curve.steps) == 3
    with pytest.raises(UserError, match="the model has 4 tokens and the dictionary 8: make a model for it"):
        markov_experiment(SOURCE, tokenizer, SHORT, tiny.llama(vocab_size=4))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": 15}, "width must be a multiple of heads, got 15 and 2"),
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"held_out": 10}, "10 symbols are no window of 16 tokens: set held_out to more"),
    ],
)
def test_wrong_settings_are_refused(changed, words):
    with pytest.raises(UserError, match=words):
        markov_experiment(SOURCE, None, MarkovExperimentConfig(**{**SHORT.__dict__, **changed}))
