"""Scorers of prompts: what each is by definition, windows, batches, and what is refused."""

import pytest
import torch
from tokenizers import processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tests import tiny
from tests.tiny.models import made
from tests.tiny.tokenizers import chatml_tokenizer, word_piece
from tokenry.attribution import attribute, decompx, globenc
from tokenry.attribution.globenc import min_max
from tokenry.compression.text import (
    AttributionScorer,
    BottomScorer,
    RandomScorer,
    SelfInformation,
    TokenClassifierScorer,
    decompx_scorer,
    globenc_scorer,
    lexrank,
    released_decompx_scorer,
)
from tokenry.core.errors import UserError
from tokenry.core.text.sentences import sentences
from tokenry.core.text.words import words_of

TEXT = "the cat sat on the mat. the dog sat on the log! other towers and the cats?"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def with_special_tokens(tokenizer):
    begin, end = tokenizer.unk_token, tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, end)],
    )
    tokenizer.pad_token = end
    return tokenizer


TOKENIZER = with_special_tokens(word_piece())
CLASSIFIER = made(BertForSequenceClassification, BertConfig(vocab_size=len(TOKENIZER), num_labels=3, **SIZES))
KEEPER = made(BertForTokenClassification, BertConfig(vocab_size=len(TOKENIZER), num_labels=2, **SIZES))
BYTES = chatml_tokenizer()
WRITER = tiny.llama(vocab_size=len(BYTES))
SCORERS = {
    "globenc": globenc_scorer(CLASSIFIER, TOKENIZER),
    "decompx": decompx_scorer(CLASSIFIER, TOKENIZER),
    "every class": AttributionScorer(CLASSIFIER, TOKENIZER, "decompx", label="every"),
    "linear": AttributionScorer(WRITER, BYTES, "decompx:method=linear"),
    "self-information": SelfInformation(WRITER, BYTES),
    "token classifier": TokenClassifierScorer(KEEPER, TOKENIZER),
    "random": RandomScorer(),
    "bottom": BottomScorer(RandomScorer()),
}


@pytest.mark.parametrize("name", SCORERS)
def test_every_word_has_a_score_that_does_not_depend_on_the_batch(name):
    scorer = SCORERS[name]
    alone = scorer.score([TEXT])[0]
    assert "".join(TEXT[start:end] for start, end in alone.spans) == TEXT.replace(" ", "")
    assert len(alone) == len(alone.scores)
    assert bool(alone.scores.isfinite().all())
    assert len(set(alone.scores.tolist())) > 1
    batch = scorer.score(["and other mats", TEXT, ""])
    torch.testing.assert_close(batch[1].scores, alone.scores, rtol=1e-4, atol=1e-5)
    assert batch[1].spans == alone.spans
    assert len(batch[2]) == 0


def test_globenc_scores_are_scaled_summed_scaled_again_and_weighed_by_lexrank():
    expected = []
    for sentence, weight in zip(sentences(TEXT), lexrank(sentences(TEXT)), strict=True):
        words = words_of(TOKENIZER, sentence)
        pieces = min_max(globenc(CLASSIFIER, words.input_ids[None]).scores[0])
        total = min_max(torch.cat([words.total(pieces), pieces[words.of_token < 0]]))[: len(words)]
        expected.append(total * weight)
    torch.testing.assert_close(SCORERS["globenc"].score([TEXT])[0].scores, torch.cat(expected))


@pytest.mark.parametrize("label", [0, 2, "predicted", "every"])
def test_decompx_is_of_the_predicted_class_unless_another_is_named(label):
    text = "the cat sat on the mats"
    words = words_of(TOKENIZER, text)
    found = decompx(CLASSIFIER, words.input_ids[None])
    parts = found.classifier[0]
    column = {"predicted": parts[:, int(found.logits.argmax())], "every": parts.abs().sum(-1)}
    expected = words.total(min_max(column.get(label, parts[:, label] if isinstance(label, int) else parts)))
    scorer = AttributionScorer(CLASSIFIER, TOKENIZER, "decompx", label=label)
    torch.testing.assert_close(scorer.score([text])[0].scores, expected)


def test_the_released_code_asks_for_class_0():
    released = released_decompx_scorer(CLASSIFIER, TOKENIZER)
    of_class_0 = AttributionScorer(CLASSIFIER, TOKENIZER, "decompx", label=0)
    assert torch.equal(released.score([TEXT])[0].scores, of_class_0.score([TEXT])[0].scores)
    assert not torch.equal(released.score([TEXT])[0].scores, SCORERS["decompx"].score([TEXT])[0].scores)


def test_a_language_model_reads_the_whole_text():
    words = words_of(BYTES, TEXT)
    scores = attribute(WRITER, words.input_ids[None], None, "decompx:method=linear").scores[0]
    torch.testing.assert_close(SCORERS["linear"].score([TEXT])[0].scores, words.total(min_max(scores)))


def test_self_information_is_the_mean_nll_of_a_word_in_its_sentence():
    sentence = sentences(TEXT)[1]
    words = words_of(BYTES, sentence, add_special_tokens=False)
    ids = torch.cat([torch.tensor([BYTES.bos_token_id]), words.input_ids])[None]
    with torch.no_grad():
        log_p = WRITER(input_ids=ids).logits[0, :-1].log_softmax(-1)
    nll = -log_p.gather(1, ids[0, 1:, None])[:, 0]
    scored = SCORERS["self-information"].score([TEXT])[0]
    start = len(words_of(BYTES, sentences(TEXT)[0]))
    torch.testing.assert_close(scored.scores[start : start + len(words)], words.total(nll, "mean"))


def test_a_token_classifier_reads_as_many_sentences_as_fit():
    words = words_of(TOKENIZER, TEXT)
    with torch.no_grad():
        keep = KEEPER(input_ids=words.input_ids[None]).logits[0].softmax(-1)[:, 1]
    torch.testing.assert_close(
        SCORERS["token classifier"].score([TEXT])[0].scores, words.total(keep, "mean"), rtol=1e-4, atol=1e-5
    )
    short = TokenClassifierScorer(KEEPER, TOKENIZER, max_tokens=10)
    assert [part.text for part in short.parts(TEXT)] == sentences(TEXT)


def test_what_is_longer_than_the_model_is_cut_into_windows():
    sizes = {**SIZES, "max_position_embeddings": 20, "vocab_size": len(TOKENIZER), "pad_token_id": 1}
    model = made(RobertaForSequenceClassification, RobertaConfig(**sizes))
    scorer = decompx_scorer(model, TOKENIZER)
    long = "the cat sat on " * 12 + "x" * 60
    assert "".join(part.text for part in scorer.parts(long)) == long
    scored = scorer.score([long])[0]
    assert "".join(long[start:end] for start, end in scored.spans) == long.replace(" ", "")
    assert bool(scored.scores.isfinite().all())


def test_sentences_that_texts_share_are_read_once(monkeypatch):
    scorer = decompx_scorer(CLASSIFIER, TOKENIZER)
    read = []
    own = scorer._of_tokens

    def kept(ids, mask):
        read.extend(row[real].tolist() for row, real in zip(ids, mask, strict=True))
        return own(ids, mask)

    monkeypatch.setattr(scorer, "_of_tokens", kept)
    scorer.score([TEXT, f"{sentences(TEXT)[0]}the mat."])
    assert sorted(read) == sorted(TOKENIZER([*sentences(TEXT), "the mat."])["input_ids"])


@pytest.mark.parametrize("method", ["globenc", "decompx", "decompx:method=linear"])
def test_sentences_are_scored_together_as_alone(method):
    scorer = AttributionScorer(CLASSIFIER, TOKENIZER, method)
    alone = [scorer.score([sentence])[0].scores for sentence in sentences(TEXT)]
    torch.testing.assert_close(scorer.score([TEXT])[0].scores, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_model_in_training_is_read_without_dropout_and_stays_in_training():
    model = made(BertForSequenceClassification, BertConfig(vocab_size=len(TOKENIZER), num_labels=3, **SIZES))
    scorer = globenc_scorer(model.train(), TOKENIZER)
    assert torch.equal(scorer.score([TEXT])[0].scores, scorer.score([TEXT])[0].scores)
    assert model.training


def test_bottom_is_the_scorer_upside_down_and_random_goes_by_seed_and_text():
    assert torch.equal(SCORERS["bottom"].score([TEXT])[0].scores, -SCORERS["random"].score([TEXT])[0].scores)
    first, again, other = (RandomScorer(seed).score([TEXT])[0].scores for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(RandomScorer(tokenizer=TOKENIZER).score([TEXT])[0]) == len(first)


def slow_tokenizer():
    slow = word_piece()
    slow.__class__ = type("SlowTokenizer", (PreTrainedTokenizerFast,), {"is_fast": False})
    return slow


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SelfInformation(WRITER, slow_tokenizer()), "SlowTokenizer is a slow tokenizer without offsets"),
        (lambda: SelfInformation(CLASSIFIER, TOKENIZER), "BertForSequenceClassification"),
        (lambda: TokenClassifierScorer(CLASSIFIER, TOKENIZER), "no token classifier with the two classes drop and keep"),
        (lambda: AttributionScorer(CLASSIFIER, TOKENIZER, label="all"), "label must be one of predicted, every"),
        (lambda: AttributionScorer(CLASSIFIER, TOKENIZER, sentence_weights="tf"), "sentence_weights must be one of none, lexrank"),
        (lambda: AttributionScorer(WRITER, BYTES, "decompx", label=1), "label is a class"),
        (lambda: globenc_scorer(WRITER, BYTES).score([TEXT]), "globenc takes apart encoder classifiers"),
        (lambda: AttributionScorer(CLASSIFIER, TOKENIZER, "decompx", label=3).score([TEXT]), "class 3 is out of range"),
        (lambda: AttributionScorer(CLASSIFIER, TOKENIZER, "decompx:bias=mean").score([TEXT]), "bias must be one of"),
        (lambda: AttributionScorer(CLASSIFIER, TOKENIZER, max_tokens=2), "max_tokens must be at least 8"),
        (lambda: lexrank([]), "there are no sentences"),
        (lambda: lexrank(["a"], threshold=2), "threshold must be in [0, 1]"),
    ],
)  # fmt: skip
def test_what_cannot_score_is_refused(make, words):
    with pytest.raises(UserError) as refused:
        make()
    assert words in str(refused.value)
