"""A span heard by the streaming evaluation, and what is measured of it.

Shapes: Q codebooks, T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Unpack

import numpy as np
import torch
from moshi.models.lm import LMModel
from torch import Tensor

from ttt.codebook_weights import CodebookWeights, mixture
from ttt.moshi.insert import ttt_layers
from ttt.moshi.streaming.evaluate import Evaluation
from ttt.moshi.streaming.streams import StreamChoices, Streams
from ttt.numerics import exact_float32
from ttt.statistics.position_bins import edges_within
from ttt.training.trainee import Row


@dataclass(frozen=True, eq=False)
class HeardSpan:
    """What a model made of a span."""

    nll: Tensor
    """[Q, T] float32 nats, on the CPU."""
    fast_weight_change: dict[int, float]
    """TTT layer -> how far its committed fast weights had moved at the end: |W - W0| / |W0|."""


Hear = Callable[[LMModel, Tensor], HeardSpan]
"""Hears the codes [Q, T] of one span."""


def hear_span(
    lm: LMModel, codes: Tensor, *, chunk: int, **streams: Unpack[StreamChoices]
) -> HeardSpan:
    """Hear one span as an evaluation hears a chapter that is alone in its group.

    Args:
        codes: [Q, T] integers.
        chunk: steps per pass; in bfloat16 part of what a loss is.
        streams: as `Streams` takes them; silence of T frames or more.

    Raises:
        UserError: what does not fit the model, a loss that is not a number, too little memory.
    """
    with exact_float32(), Evaluation(Streams(lm, codes[None], **streams), chunk=chunk) as heard:
        nll = torch.cat([block.nll for block in heard], dim=2)[0]
        layers = ttt_layers(lm)
        change = heard.session.fast_weight_change()[:, 0].tolist() if layers else []
    return HeardSpan(nll, dict(zip(layers, change, strict=True)))


def measure_span(nll: Tensor, window: int, weights: CodebookWeights) -> Row:
    """The losses of one span, in nats; a measure that it is too short for is not there.

    mean, in_window (frames before `window`) and beyond_window (those from it on) are weighted as
    the project weighs codebooks; semantic and acoustic are of the frames beyond the window.
    """
    exact = nll.numpy().astype(np.float64)
    loss = np.asarray(mixture(weights, len(exact))) @ exact
    measures = {"mean": float(loss.mean()), "in_window": float(loss[:window].mean())}
    if len(loss) > window:
        beyond = exact[:, window:]
        measures["beyond_window"] = float(loss[window:].mean())
        measures["semantic"] = float(beyond[0].mean())
        measures["acoustic"] = float(beyond[1:].mean())
    return measures


def curve_of(nll: Tensor, weights: CodebookWeights) -> Row:
    """The mean loss of every bin of an octave that a span fills, by its first frame: from_16."""
    exact = nll.numpy().astype(np.float64)
    loss = np.asarray(mixture(weights, len(exact))) @ exact
    bins = pairwise(edges_within(len(loss), bins_per_octave=1))
    return {f"from_{low}": float(loss[low:high].mean()) for low, high in bins}
