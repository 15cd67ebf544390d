"""Attention over a window, in blocks of queries: the memory of a whole chapter in training.

The published attention holds every query against every key and masks what lies outside the
window: time and memory grow with the square of the length. A block of queries needs only the keys
of its own frames and of the window before them.

Shapes: B windows, H heads, T frames, D width of a head.
"""

from __future__ import annotations

import torch
from moshi.models.lm import LMModel
from moshi.modules.transformer import (
    StreamingMultiheadAttention,
    apply_weights_per_step,
    expand_repeated_kv,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ttt.errors import UserError
from ttt.moshi.insert import temporal_layers


def block_attention(q: Tensor, k: Tensor, v: Tensor, context: int | None, block: int) -> Tensor:
    """Causal attention in which query t sees the keys t - context + 1 to t.

    Args:
        q, k, v: [B, H, T, D].
        context: keys that a query sees, its own included; None: all up to its own.
        block: queries that are answered together; it changes nothing but rounding.

    Returns:
        [B, H, T, D].

    Raises:
        UserError: context or block is below 1.
    """
    if block < 1 or (context is not None and context < 1):
        raise UserError(f"context={context} and block={block} must both be 1 or more")
    # Pieces that are put together, not slices of the whole: the gradient of a slice is as long as
    # the whole, and there would be one for every block.
    keys, values = k.split(block, dim=2), v.split(block, dim=2)
    masks: dict[tuple[int, int], Tensor] = {}
    answers = []
    for number, queries in enumerate(q.split(block, dim=2)):
        start, count = number * block, queries.shape[2]
        oldest = 0 if context is None else max(0, start - context + 1)
        shape = count, start + count - oldest
        if shape not in masks:
            masks[shape] = _visible(*shape, context, q.device)
        near = [_joined(each, oldest, block, number) for each in (keys, values)]
        answers.append(F.scaled_dot_product_attention(queries, *near, attn_mask=masks[shape]))
    return torch.cat(answers, dim=2)


def _joined(pieces: tuple[Tensor, ...], oldest: int, block: int, last: int) -> Tensor:
    """The keys or values from frame `oldest` to the end of piece `last`."""
    first, skipped = divmod(oldest, block)
    return torch.cat([pieces[first][:, :, skipped:], *pieces[first + 1 : last + 1]], dim=2)


def _visible(queries: int, keys: int, context: int | None, device: torch.device) -> Tensor:
    """[queries, keys] whether a query sees a key, where the last of both are the same frame."""
    frames = torch.arange(keys, device=device)
    back = frames[keys - queries :, None] - frames
    return back >= 0 if context is None else (back >= 0) & (back < context)


def set_attention_block(lm: LMModel, block: int | None) -> None:
    """Let the temporal transformer attend in blocks of queries, or, with None, as it is published.

    Changes nothing but rounding, memory and time, and no name of the model's state. While the
    model streams, and for sequences no longer than a block, the published attention runs.

    Raises:
        UserError: block is below 1; the model is then unchanged.
    """
    if block is not None and block < 1:
        raise UserError(f"attention_block={block} must be 1 or more, or None")
    for layer in temporal_layers(lm):
        attention: nn.Module = layer.self_attn
        vars(attention).pop("block", None)
        attention.__class__ = StreamingMultiheadAttention if block is None else BlockAttention
        if isinstance(attention, BlockAttention) and block is not None:
            attention.block = block


class BlockAttention(StreamingMultiheadAttention):
    """Moshi's attention, in blocks for a whole sequence; made by `set_attention_block`."""

    block: int

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, T, dim] to [B, T, dim]."""
        batch, frames, _ = query.shape
        if self.is_streaming or frames <= self.block or not self.causal:
            return super().forward(query, key, value)
        schedule = self.weights_per_step_schedule
        projected = apply_weights_per_step(self.in_projs, schedule, query, 0)
        of_keys = self.embed_dim // self.kv_repeat
        parts = projected.split([self.embed_dim, of_keys, of_keys], dim=-1)
        width = self.embed_dim // self.num_heads
        q, k, v = (part.unflatten(-1, (-1, width)).transpose(1, 2) for part in parts)
        if self.rope:
            first = torch.zeros(batch, device=query.device, dtype=torch.long)
            q, k = self.rope(q, k, first, time_before_heads=False)
        if self.kv_repeat > 1:
            k, v = (expand_repeated_kv(each, self.kv_repeat) for each in (k, v))
        heard = block_attention(q, k, v, self.context, self.block)
        heard = heard.transpose(1, 2).flatten(2)
        return apply_weights_per_step(self.out_projs, schedule, heard, 0)
