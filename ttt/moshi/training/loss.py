"""The loss of training: the NLL of audio codes, weighted by codebook as moshi-finetune does.

    sum(weight * nll) / sum(weight)

over the codes that a mask counts, where the first codebook weighs more than the others. A step's
loss over several batches or ranks is the sum of their first parts over the sum of their second
ones, never a mean of means: `weighted_nll_sum` and `weighed` give the parts. Text is not in it.

Source: kyutai-labs/moshi-finetune at 2acc879, finetune/loss.py, mode "audio".

Shapes: B windows, K codebooks, T frames, card codes of a codebook.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttt.errors import UserError
from ttt.moshi.streaming.delays import ZERO_TOKEN
from ttt.moshi.streaming.evaluate import negative_log_likelihood


class WeightedSum(NamedTuple):
    """A loss before it is divided."""

    total: Tensor  # [] the sum of weight * nll, in nats
    weight: Tensor  # [] the sum of weights


def weighted_nll(
    logits: Tensor, codes: Tensor, mask: Tensor, first_codebook_weight: float
) -> Tensor:
    """The weighted mean NLL of the codes that count, [], in nats.

    Args:
        logits: [B, K, T, card] of any floating type; computed with in float32, float64 stays.
        codes: [B, K, T] integers. Where the mask is False they, and the logits, may be anything.
        mask: [B, K, T] bool, True where a code counts.
        first_codebook_weight: what codebook 0 counts; the others count 1.

    Raises:
        UserError: no code counts.
    """
    total, weight = weighted_nll_sum(logits, codes, mask, first_codebook_weight)
    if not weight > 0:
        raise UserError(
            f"none of the {codes.numel()} codes counts in this loss: the mask is False everywhere, "
            "or the codebooks that it counts weigh 0; leave such windows out of the batch"
        )
    return total / weight


def weighted_nll_sum(
    logits: Tensor, codes: Tensor, mask: Tensor, first_codebook_weight: float
) -> WeightedSum:
    """The parts of `weighted_nll`; both are 0 where no code counts."""
    # Logits that do not count are often NaN, and 0 * NaN would be their gradient.
    counted = logits.masked_fill(~mask[..., None], 0)
    nll = negative_log_likelihood(counted, codes.long().masked_fill(~mask, ZERO_TOKEN))
    return weighed(nll, mask, first_codebook_weight)


def weighed(nll: Tensor, mask: Tensor, first_codebook_weight: float) -> WeightedSum:
    """The same of an NLL [B, K, T] that is there already, which may be NaN where it does not count.

    Args:
        mask: [B, K or 1, T] bool.
    """
    weights = torch.ones(nll.shape[1], 1, dtype=nll.dtype, device=nll.device)
    weights[0] = first_codebook_weight
    mask = mask.expand_as(nll)
    return WeightedSum(
        (weights * torch.where(mask, nll, 0)).sum(),
        (weights * mask).sum(),
    )
