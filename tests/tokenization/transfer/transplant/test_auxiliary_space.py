"""The spaces in which tokens are compared: from the model, from characters, from any function or array."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import CODE, byte_level
from tokenry.core.errors import UserError
from tokenry.tokenization.transfer.transplant.auxiliary_space import (
    SpelledTokens,
    auxiliary_space,
    character_ngrams,
    sentence_encoder,
)
from tokenry.tokenization.transfer.transplant.vocabulary_match import match_vocabularies

OLD, NEW = byte_level(), byte_level(CODE)
MATCHED = match_vocabularies(OLD, NEW)
MODEL = tiny_model(len(OLD))
UNIQUE = [number for number, text in enumerate(MATCHED.new_texts) if text and MATCHED.shared[number] < 0]


def tokens(ids):
    pieces = [[piece for piece in MATCHED.pieces[number].tolist() if piece >= 0] for number in ids]
    return SpelledTokens([MATCHED.new_texts[number] for number in ids], pieces, ids)


def space(auxiliary, **options):
    return auxiliary_space(auxiliary, MATCHED, MODEL, **options)


def test_the_space_of_embeddings_is_the_mean_of_the_pieces_rows_relative_to_all():
    rows = MODEL.get_input_embeddings().weight.detach()
    texts = [number for number, text in enumerate(MATCHED.old_texts) if text]
    found = space("embeddings").vectors(tokens(UNIQUE))
    expected = torch.stack([rows[pieces].mean(dim=0) for pieces in tokens(UNIQUE).pieces])
    assert torch.allclose(found, expected - rows[texts].mean(dim=0), atol=1e-6)
    assert torch.allclose(space("embeddings", centred=False).vectors(tokens(UNIQUE)), expected, atol=1e-6)


def test_hidden_states_are_the_mean_over_the_pieces_after_the_second_layer():
    pieces = tokens(UNIQUE[:1]).pieces[0]
    with torch.no_grad():
        states = MODEL(torch.tensor([pieces]), output_hidden_states=True).hidden_states[2][0]
    found = space("hidden", centred=False).vectors(tokens(UNIQUE[:1]))[0]
    assert torch.allclose(found, states.mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("name", ["hidden", "embeddings", "characters"])
def test_other_tokens_beside_it_never_change_a_tokens_vector(name):
    made = space(name)
    alone, together = made.vectors(tokens(UNIQUE[-1:])), made.vectors(tokens(UNIQUE))
    assert torch.allclose(alone[0], together[-1], atol=1e-5)


@pytest.mark.parametrize("name", ["hidden", "embeddings", "characters"])
def test_tokens_that_are_no_text_have_no_vector(name):
    old = space(name).old
    known = torch.tensor([text is not None for text in MATCHED.old_texts])
    assert (old[~known] == 0).all()
    assert (old[known] != 0).any(dim=1).sum() > 0.9 * known.sum()


def test_looking_at_hidden_states_leaves_the_model_as_it_was():
    hooks = MODEL.model.layers[1]._forward_hooks
    before = dict(hooks)
    space("hidden")
    assert dict(hooks) == before


def test_a_function_sees_every_text_once_and_in_batches_of_about_one_length():
    seen = []

    def encode(strings):
        seen.append(strings)
        return np.array([[len(string), string.count("a") + 1.0] for string in strings])

    made = space(encode)
    made.vectors(tokens(UNIQUE))
    made.vectors(tokens(UNIQUE))
    every = [string for batch in seen for string in batch]
    assert len(every) == len(set(every))
    assert all(list(map(len, batch)) == sorted(map(len, batch)) for batch in seen)
    assert made.old[OLD.convert_tokens_to_ids("a")].tolist() == [1, 2]


def test_the_same_text_has_one_vector_in_both_vocabularies():
    made = space(lambda strings: np.array([[hash(string) % 1000, 1.0] for string in strings]))
    shared = [n for n in range(len(NEW)) if MATCHED.shared[n] >= 0 and MATCHED.new_texts[n]]
    known = SpelledTokens([MATCHED.new_texts[n] for n in shared], [[0]] * len(shared), shared)
    assert made.vectors(known).equal(made.old[MATCHED.shared[shared]])


def test_an_array_of_a_donor_gives_old_tokens_the_vectors_of_the_new_ones_they_equal():
    donor = torch.randn(len(NEW), 5)
    made = space(donor.numpy())
    shared = (MATCHED.shared >= 0).nonzero()[:, 0]
    assert made.old[MATCHED.shared[shared]].equal(donor[shared])
    assert int((made.old != 0).any(dim=1).sum()) == len(shared)
    assert made.vectors(tokens(UNIQUE)).equal(donor[UNIQUE])


def test_vectors_that_were_computed_before_are_used_again():
    computed = space("characters")
    every = SpelledTokens(MATCHED.new_texts, [[0]] * len(NEW), range(len(NEW)))
    again = space((computed.old, computed.vectors(every)))
    assert again.vectors(tokens(UNIQUE)).equal(computed.vectors(tokens(UNIQUE)))


def test_characters_put_words_of_one_stem_together():
    texts = ["tower", "towers", " tower", "cat", "cats", "sat", "log", "dog"]
    vectors = torch.tensor(character_ngrams(texts)(texts))
    similarity = torch.nn.functional.cosine_similarity(vectors[:1], vectors)
    assert similarity[1:3].min() > similarity[3:].max()


def test_a_sentence_encoder_is_the_mean_over_the_tokens_without_the_padding(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path)
    encode = sentence_encoder(tmp_path)
    together = encode(["the cat sat", "cat"])
    assert together.shape == (2, 8)
    assert torch.allclose(together[1], encode(["cat"])[0], atol=1e-5)


def test_a_folder_without_a_sentence_encoder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no sentence encoder .*: name a folder with config\.json"):
        sentence_encoder(tmp_path)


@pytest.mark.parametrize(
    ("auxiliary", "words"),
    [
        ("fasttext", "auxiliary must be one of hidden, embeddings, characters, got 'fasttext'"),
        (np.ones((3, 4)), rf"of the shape \(3, 4\) were given for {len(NEW)} tokens"),
        (np.full((len(NEW), 4), np.nan), f"{len(NEW)} auxiliary vectors are not finite"),
        (lambda strings: np.ones((1, 4)), r"of the shape \(1, 4\) were given for"),
        (lambda strings: np.full((len(strings), 4), np.inf), "are not finite"),
        (
            (np.ones((len(OLD), 4)), np.ones((len(NEW), 5))),
            "old tokens have 4 dimensions and those of new tokens 5",
        ),
    ],
)
def test_auxiliary_vectors_that_do_not_fit_are_refused(auxiliary, words):
    with pytest.raises(UserError, match=words):
        space(auxiliary)


def test_a_function_whose_dimensions_change_is_refused():
    counts = iter(range(2, 1000))
    made = space(lambda strings: np.ones((len(strings), next(counts))))
    with pytest.raises(UserError, match="gave vectors of 2 and of 3 numbers"):
        made.vectors(tokens(UNIQUE))
