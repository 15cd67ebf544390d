"""How much memory an evaluation takes beyond the model's weights, computed before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
from moshi.models.lm import LMModel
from moshi.modules.gating import ActivationGating
from torch import nn

from ttt.layers import TTTLayer
from ttt.moshi.insert import StreamingTTT, temporal_layers, ttt_layers
from ttt.moshi.streaming.evaluate import chunks_per_block

_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes beyond the weights, whatever the length of the chapter."""

    rings: int
    """Keys and values of all layers, for the window and one chunk."""
    ttt: int
    """What TTT layers have learnt, and what taking a chunk back needs."""
    working: int
    """The most that one chunk's tensors take at the same time, or what saving the state takes: an
    upper bound."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.rings + self.ttt + self.working


def memory_need(lm: LMModel, batch: int, chunk: int, max_steps: int | None = None) -> MemoryNeed:
    """What an `Evaluation` of `batch` recordings takes; the model may be on the meta device.

    Args:
        max_steps: steps of the longest recording, for rings no longer than that; None: any length.
    """
    token = 2 * batch * lm.dim * lm.dtype.itemsize
    capacities = _capacities(lm, chunk, max_steps)
    rings = sum(token * capacity for capacity in capacities)
    learnt = list(ttt_layers(lm).values())
    ttt = sum(each.layer.state_bytes(batch, rollback_tokens=chunk) for each in learnt)
    working = [_attention(lm, batch, chunk, max(capacities)), _feed_forward(lm, batch, chunk)]
    # Steps are taken back while the logits that ask for it are there.
    taking_back = max((taking_back_bytes(each.layer, batch) for each in learnt), default=0)
    working += [_text_head(lm, batch, chunk) + taking_back, _depformer(lm, batch, chunk)]
    working += [_state_on_its_way(token * max(capacities) // 2, learnt, batch)]
    working += [learning_bytes(each.layer, batch, chunk, lm.dtype) for each in learnt]
    return MemoryNeed(rings, ttt, max(working))


def _capacities(lm: LMModel, chunk: int, max_steps: int | None) -> list[int]:
    contexts = [int(layer.self_attn.context or 0) for layer in temporal_layers(lm)]
    return [min(context, max_steps or context) + chunk for context in contexts]


def _attention(lm: LMModel, batch: int, chunk: int, capacity: int) -> int:
    """Projections, their rotation in float32, the mask, and scores where no fused kernel runs."""
    heads = temporal_layers(lm)[0].self_attn.num_heads
    projections = chunk * lm.dim * (6 * lm.dtype.itemsize + 8 * _FLOAT32)
    mask = chunk * capacity * 16  # differences of int64 positions, and booleans of them
    scores = 2 * heads * chunk * capacity * _FLOAT32
    unpacked = 2 * capacity * lm.dim * _FLOAT32 if lm.dtype.itemsize < _FLOAT32 else 0
    return batch * (projections + mask + scores + unpacked)


def _feed_forward(lm: LMModel, batch: int, chunk: int) -> int:
    gating = cast(nn.Module | None, temporal_layers(lm)[0].gating)
    return batch * chunk * lm.dtype.itemsize * (4 * lm.dim + 4 * _hidden(gating, lm.dim))


def _text_head(lm: LMModel, batch: int, chunk: int) -> int:
    """Logits in the model's type and in float32, and the head in float32 a slice at a time."""
    logits = batch * chunk * lm.text_linear.out_features * (lm.dtype.itemsize + 2 * _FLOAT32)
    return logits + min(4096, lm.text_linear.out_features) * lm.dim * _FLOAT32


def _state_on_its_way(half_ring: int, learnt: Sequence[StreamingTTT], batch: int) -> int:
    """What saving takes on the device: one layer's keys or values at a time, or one TTT layer's."""
    return max([half_ring, *(each.layer.state_bytes(batch) for each in learnt)])


def _depformer(lm: LMModel, batch: int, chunk: int) -> int:
    """The logits are held once per codebook, together, and as log-probabilities, and one head in
    float32."""
    rows = batch * chunk * chunks_per_block(batch, chunk)
    size, width = lm.dtype.itemsize, cast(nn.Linear, lm.linears[0]).in_features
    exact = max(_FLOAT32, size)
    logits = lm.dep_q * lm.card * 3 * exact
    assert lm.depformer is not None  # Evaluation refuses a model without.
    gating = cast(nn.ModuleList, lm.depformer.layers[0].gating)[0]
    layer = (16 * lm.dep_q * width + 4 * _hidden(gating, width)) * size
    head = min(4096, lm.card) * width * _FLOAT32
    return head + rows * (lm.dim * size + max(logits + lm.dep_q * width * size, layer))


def learning_bytes(layer: TTTLayer, batch: int, chunk: int, dtype: torch.dtype) -> int:
    """The most that a TTT layer takes beyond its state while it hears a chunk.

    Of every token queries, keys, the two halves of its gradient, the answer and what is made of it,
    two of them twice where streams and heads are laid in a row; of the model's type the layer's
    input, its projections, its output before and after the norm and the sum. One mini-batch's
    hidden values and their gradients, and one copy of the weights, which are moved while the marked
    ones and those before the move are still there; two more where every answer has its own.
    """
    config, exact = layer.config, layer.state_dtype.itemsize
    of_token = config.dim * (8 * exact + 7 * dtype.itemsize)
    weights = layer.state_bytes(batch) - _tapes(layer, batch, config.mini_batch_size)
    copies = 3 if layer.controls.inner_steps > 1 else 1
    return batch * chunk * of_token + layer.learning_bytes(batch) + copies * weights


def taking_back_bytes(layer: TTTLayer, batch: int) -> int:
    """The most that a TTT layer takes beyond its state while steps are taken back.

    Weights are moved anew from the marked ones: twice theirs, and a mini-batch's scaled inputs;
    where gradients are taken only then, once more theirs, and a mini-batch's gradients.
    """
    tapes = _tapes(layer, batch, layer.config.mini_batch_size)
    weights = layer.state_bytes(batch) - tapes
    if layer.learns_at_commit:
        return 3 * weights + 2 * tapes + layer.learning_bytes(batch)
    return 2 * weights + tapes


def _tapes(layer: TTTLayer, batch: int, tokens: int) -> int:
    """What a state keeps of so many tokens."""
    after = layer.state_bytes(batch, rollback_tokens=tokens + 1)
    return after - layer.state_bytes(batch, rollback_tokens=1)


def _hidden(gating: nn.Module | None, width: int) -> int:
    """Width between the two maps of a feed-forward block."""
    return gating.linear_out.in_features if isinstance(gating, ActivationGating) else 4 * width
