"""The training loss against a slow loop and against moshi-finetune's formula."""

import math

import pytest
import torch
from torch.nn import functional as F

from ttt.codebook_weights import FIRST_CODEBOOK_WEIGHT, mixture
from ttt.errors import UserError
from ttt.moshi.training import weighted_nll, weighted_nll_sum
from ttt.moshi.training.loss import weighed

CARD = 11


def drawn(dtype=torch.float32, batch=2, codebooks=4, frames=9, share=0.7):
    generator = torch.Generator().manual_seed(1)
    shape = (batch, codebooks, frames)
    logits = torch.randn(*shape, CARD, generator=generator, dtype=torch.float64).to(dtype)
    codes = torch.randint(CARD, shape, generator=generator)
    return logits, codes, torch.rand(shape, generator=generator) < share


def by_loop(logits, codes, mask, first):
    """One code after the other, in Python's numbers."""
    total = weight = 0.0
    for b, k, t in mask.nonzero().tolist():
        row = logits[b, k, t].tolist()
        highest = max(row)
        log_sum = highest + math.log(sum(math.exp(value - highest) for value in row))
        counts = first if k == 0 else 1.0
        total += counts * (log_sum - row[int(codes[b, k, t])])
        weight += counts
    return total, weight


def by_finetune(logits, codes, mask, first):
    """The published audio loss, in few words: CE of every code in float32, then weighted."""
    weights = mask.float() * torch.tensor([first] + [1.0] * (codes.shape[1] - 1))[:, None]
    target = torch.where(mask, codes, 0)
    losses = F.cross_entropy(logits.float().flatten(0, 2), target.flatten(), reduction="none")
    losses = torch.where(weights.flatten() > 0, losses * weights.flatten(), 0)
    return losses.sum() / weights.sum()


@pytest.mark.parametrize("first", (100.0, 1.0, 0.25))
def test_it_is_the_weighted_mean(first):
    logits, codes, mask = drawn(torch.float64)
    total, weight = by_loop(logits, codes, mask, first)
    assert float(weighted_nll(logits, codes, mask, first)) == pytest.approx(
        total / weight, rel=1e-13
    )
    sums = weighted_nll_sum(logits, codes, mask, first)
    assert [float(each) for each in sums] == pytest.approx([total, weight], rel=1e-13)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("first", (100.0, 1.0))
def test_value_and_gradient_are_those_of_moshi_finetune(dtype, first):
    logits, codes, mask = drawn(dtype)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss, published = (
        weighted_nll(ours, codes, mask, first),
        by_finetune(theirs, codes, mask, first),
    )
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(published.detach()), rel=1e-6)
    loss.backward()
    published.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)


def test_what_does_not_count_may_be_anything():
    logits, codes, mask = drawn(torch.float64)
    expected = weighted_nll(logits, codes, mask, 100.0)
    spoiled = codes.clone()
    spoiled[~mask] = torch.tensor([-1, CARD, -2, 10**6]).repeat(codes.numel())[: int((~mask).sum())]
    noisy = logits.masked_fill(~mask[..., None], torch.nan).requires_grad_()
    loss = weighted_nll(noisy, spoiled, mask, 100.0)
    assert torch.equal(loss.detach(), expected)
    loss.backward()
    assert not noisy.grad[~mask].any()
    assert noisy.grad[mask].abs().sum() > 0
    assert noisy.grad.isfinite().all()


def test_a_code_that_counts_and_is_none_is_an_error():
    logits, codes, _ = drawn()
    codes[1, 2, 3] = CARD
    with pytest.raises(IndexError):
        weighted_nll(logits, codes, torch.ones_like(codes, dtype=torch.bool), 100.0)


@pytest.mark.parametrize("counted", (0, 1))
def test_a_loss_of_nothing_is_refused(counted):
    logits, codes, mask = drawn()
    mask[:, counted:] = False
    with pytest.raises(UserError, match="none of the 72 codes counts in this loss: the mask is"):
        weighted_nll(logits, codes, mask, 0.0)


def test_a_step_is_the_sum_of_its_batches():
    logits, codes, mask = drawn(torch.float64, batch=5)
    parts = [
        weighted_nll_sum(logits[rows], codes[rows], mask[rows], 100.0)
        for rows in (slice(0, 1), slice(1, 5))
    ]
    total, weight = (sum(each) for each in zip(*parts, strict=True))
    whole = weighted_nll(logits, codes, mask, 100.0)
    assert float(total / weight) == pytest.approx(float(whole), rel=1e-13)
    means = [part.total / part.weight for part in parts]
    assert abs(float(sum(means) / 2 - whole)) > 1e-3


def test_an_nll_is_weighed_by_frame():
    _, _, mask = drawn()
    nll = torch.rand(2, 4, 9).masked_fill(~mask[:, :1], torch.nan)
    total, weight = weighed(nll, mask[:, :1], 100.0)
    kept = nll.masked_fill(~mask[:, :1], 0)
    assert float(total) == pytest.approx(float(100 * kept[:, 0].sum() + kept[:, 1:].sum()))
    assert float(weight) == 103 * int(mask[:, 0].sum())


@pytest.mark.parametrize("name", ("moshi", "uniform"))
def test_training_weighs_as_the_evaluation_does(name):
    nll = torch.rand(1, 8, 1, dtype=torch.float64)
    total, weight = weighed(nll, torch.ones(1, 1, 1, dtype=torch.bool), FIRST_CODEBOOK_WEIGHT[name])
    headline = torch.tensor(mixture(name, 8), dtype=torch.float64) @ nll[0, :, 0]
    assert float(total / weight) == pytest.approx(float(headline), rel=1e-14)
