"""Statistics of rows of logits from one pass, against full logits in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.core.tensors.losses import OutputHead, token_statistics
from tokenry.core.tensors.row_statistics import RowStatistics, row_entropy, row_nll, row_statistics

ALL = ("nll", "entropy", "rank", "second_moment", "log_squares", "mean_logit", "top")


def head_of(vocabulary=50, dim=8, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return OutputHead(nn.Linear(dim, vocabulary, bias=False, dtype=dtype), vocabulary, **options)


def data(rows=11, vocabulary=50, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(rows, 8, dtype=dtype) * 3, torch.randint(0, vocabulary, (rows,))


def expected(logits, targets, top_k):
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    of_target = logits.gather(1, targets[:, None])
    known = torch.where(p > 0, log_p, 0.0)
    return RowStatistics(
        -log_p.gather(1, targets[:, None])[:, 0],
        -(p * known).sum(-1),
        (logits > of_target).sum(-1),
        (p * known.square()).sum(-1),
        p.square().sum(-1).log(),
        logits.double().mean(-1),
        *torch.topk(logits, top_k),
    )


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0, "scale": 2.0}, {"temperature": 0.5}])
@pytest.mark.parametrize("chunk", [1, 120, 10_000])
@torch.no_grad()
def test_one_pass_says_what_full_logits_say(options, chunk):
    head, (rows, targets) = head_of(**options), data()
    found = row_statistics(rows, targets, head, ALL, top_k=7, chunk_elements=chunk)
    for name, value, right in zip(
        RowStatistics._fields, found, expected(head.logits(rows), targets, 7), strict=True
    ):
        torch.testing.assert_close(value, right, msg=name)


def test_logits_of_all_rows_never_exist_at_once(monkeypatch):
    sizes, scratch_logits = [], OutputHead.scratch_logits

    def seen(head, rows):
        logits = scratch_logits(head, rows)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(OutputHead, "scratch_logits", seen)
    head, (rows, targets) = head_of(), data(rows=12)
    row_statistics(rows, targets, head, ALL, top_k=3, chunk_elements=150)
    assert sizes == [150] * 4


@settings(max_examples=40, deadline=None)
@given(wanted=st.sets(st.sampled_from(ALL)), seed=st.integers(0, 99))
def test_what_is_asked_together_is_what_is_asked_alone(wanted, seed):
    torch.manual_seed(seed)
    head, rows, targets = head_of(dtype=torch.float32), torch.randn(5, 8) * 5, torch.randint(0, 50, (5,))
    together = row_statistics(rows, targets, head, wanted, top_k=3)
    for name in ALL:
        fields = [field for field in RowStatistics._fields if field.startswith(name)]
        for field in fields:
            value = getattr(together, field)
            if name not in wanted:
                assert value is None
            elif field == "nll":
                assert torch.equal(value, row_nll(rows, targets, head))
            else:
                assert torch.equal(
                    value, getattr(row_statistics(rows, targets, head, {name}, top_k=3), field)
                )


def test_columns_of_minus_infinity_have_no_probability_and_give_no_nan():
    head, (rows, targets) = head_of(dtype=torch.float32), data(dtype=torch.float32)

    class Masked(nn.Module):
        def forward(self, rows):
            return head.module(rows).index_fill(-1, torch.arange(10, 50), float("-inf"))

    found = row_statistics(rows, targets % 10, OutputHead(Masked(), 50), ALL, top_k=4)
    logits = Masked()(rows)
    for value, right in zip(found, expected(logits, targets % 10, 4), strict=True):
        torch.testing.assert_close(value, right, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_no_rows_have_no_statistics():
    found = row_statistics(
        torch.empty(0, 8, dtype=torch.float64), torch.empty(0, dtype=torch.long), head_of(), ALL, top_k=2
    )
    assert found.nll.shape == found.rank.shape == (0,)
    assert found.top_ids.shape == (0, 2)


def test_the_head_runs_once_per_chunk():
    calls = itertools.count()
    head = head_of()
    plain = head.module.forward

    def counted(rows):
        next(calls)
        return plain(rows)

    head.module.forward = counted
    row_statistics(*data(), head, ALL, top_k=3)
    assert next(calls) == 1


def test_statistics_of_tokens_are_aligned_to_them():
    model = tiny.llama()
    head = OutputHead(model.lm_head, 64)
    hidden, labels = torch.randn(2, 6, 32), torch.randint(0, 64, (2, 6))
    tokens = torch.rand(2, 6) > 0.5
    tokens[:, 0] = False
    with torch.no_grad():
        found = token_statistics(hidden, labels, head, tokens, ["nll", "rank"])
        log_p = model.lm_head(hidden[:, :-1]).log_softmax(-1)
    nll = -log_p.gather(-1, labels[:, 1:, None])[..., 0]
    torch.testing.assert_close(found["nll"][:, 1:][tokens[:, 1:]], nll[tokens[:, 1:]])
    assert bool(found["nll"][~tokens].isnan().all() & found["rank"][~tokens].isnan().all())
    assert token_statistics(hidden, labels, head, tokens, []) == {}


def test_what_needs_a_target_or_more_tokens_is_refused():
    rows, targets = data()
    with pytest.raises(UserError, match="nll and rank are about a target of each row: give targets"):
        row_statistics(rows, None, head_of(), ["rank"])
    with pytest.raises(UserError, match="top_k is 51, and the vocabulary has 50 tokens"):
        row_statistics(rows, targets, head_of(), ["top"], top_k=51)
    with pytest.raises(
        UserError,
        match="a row statistic must be one of nll, entropy, rank, second_moment, log_squares, mean_logit, top, cross_entropy, cross_second_moment, got 'nil'",
    ):
        row_statistics(rows, targets, head_of(), ["nil"])
    assert row_entropy(rows, head_of()).shape == (11,)


@pytest.mark.parametrize("chunk", [1, 120, 10_000])
@pytest.mark.parametrize("others", [50, 57, 41])
def test_cross_statistics_are_those_of_the_references_distribution(chunk, others):
    head, (rows, targets) = head_of(), data()
    torch.manual_seed(2)
    reference = torch.randn(11, 5, dtype=torch.float64), OutputHead(nn.Linear(5, others).double(), others)
    wanted = ("nll", "cross_entropy", "cross_second_moment", "entropy")
    targets = targets.clamp(max=min(50, others) - 1)
    found = row_statistics(rows, targets, head, wanted, reference=reference, chunk_elements=chunk)
    with torch.no_grad():
        shared = min(50, others)
        log_p = head.logits(rows)[:, :shared].log_softmax(-1)
        q = reference[1].logits(reference[0])[:, :shared].softmax(-1)
    torch.testing.assert_close(found.cross_entropy, -(q * log_p).sum(-1))
    torch.testing.assert_close(found.cross_second_moment, (q * log_p.square()).sum(-1))
    torch.testing.assert_close(found.nll, -log_p.gather(1, targets[:, None])[:, 0])
    torch.testing.assert_close(found.entropy, -(log_p.exp() * log_p).sum(-1))


def test_cross_statistics_without_a_reference_are_refused():
    rows, targets = data()
    with pytest.raises(UserError, match="cross statistics compare two models: give the rows and the head"):
        row_statistics(rows, targets, head_of(), ("cross_entropy",))
