"""The tiny encoder: the same layers for every vocabulary, and a tokenizer that frames its texts."""

import pytest
import torch

from tokenry.recipes.testbeds.tiny_encoder import BEGIN, END, EncoderSizes, encoder_tokenizer, tiny_encoder

TEXTS = ["the cat sat on the mat", "the dog sat on the log"] * 8
SIZES = EncoderSizes(layers=1, width=16, heads=2, feed_forward=16, positions=64)


def test_texts_are_framed_and_classified():
    tokenizer = encoder_tokenizer(TEXTS, 280)
    subject = tiny_encoder(tokenizer, ["cat", "dog"], multi_label=True, sizes=SIZES)
    ids = subject.encode(TEXTS[:1])[0]
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-1]]) == [BEGIN, END]
    assert subject.labels == ("cat", "dog")
    assert subject.multi_label
    assert subject.probabilities(TEXTS).shape == (16, 2)


@pytest.mark.newer("transformers")
def test_the_layers_do_not_depend_on_the_vocabulary():
    made = [
        tiny_encoder(encoder_tokenizer(TEXTS, size), ["a", "b"], sizes=SIZES).model for size in (265, 290)
    ]
    for part in ("classifier", "head", "model.layers"):
        one, other = (model.get_submodule(part).state_dict() for model in made)
        assert all(torch.equal(one[name], other[name]) for name in one)
