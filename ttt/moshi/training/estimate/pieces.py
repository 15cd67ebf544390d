"""What a piece of the model holds while it is trained over windows, by the sum of its tensors.

A product with a frozen matrix keeps nothing, since only its input's gradient is asked for; a norm
keeps what it is given and what it multiplies with; a layer of TTT keeps the small models' weights
after every mini-batch, and these are most of it.

Shapes: B windows, T frames, D width of the model, F width inside the feed-forward block, d width of
the depformer, H heads, Q codebooks of a voice, b frames of a mini-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from ttt.moshi.training.config import MemoryConfig
from ttt.moshi.training.estimate.sizes import Sizes, TTTSizes
from ttt.moshi.training.memory import group_frames


@dataclass(frozen=True)
class Piece:
    """Bytes of one piece."""

    kept: int
    """For the backward pass."""
    extra: int
    """The most beyond that, while it is computed forward or backward."""

    @property
    def anew(self) -> int:
        """What computing it anew and its backward pass take."""
        return self.kept + self.extra


@dataclass(frozen=True)
class Windows:
    """Equally long windows that are trained on together."""

    count: int
    frames: int

    @property
    def rows(self) -> int:
        """Frames of all of them."""
        return self.count * self.frames


def attention(sizes: Sizes, memory: MemoryConfig, windows: Windows) -> Piece:
    """A layer's norm and attention."""
    rows, item = windows.rows, sizes.dtype.itemsize
    block = memory.attention_block or sizes.context or windows.frames
    pairs, keys = pairs_and_keys(windows.frames, sizes.context, block)
    of_row = sizes.dim * (sizes.norm_bytes + 2 * item)  # norm; queries and answers
    of_row += 4 * (sizes.heads + sizes.dim // sizes.heads)  # sums of the softmax; rotations
    kept = rows * of_row + windows.count * keys * 2 * sizes.dim * item + pairs * item
    if windows.frames <= block:  # Values are part of a whole with queries and keys as projected.
        kept += rows * 2 * sizes.dim * item
    if "in_projs" in sizes.lora_targets and sizes.lora_rank:
        kept += rows * (sizes.dim + sizes.lora_rank) * item
    if "out_projs" in sizes.lora_targets and sizes.lora_rank:
        kept += rows * (sizes.dim + sizes.lora_rank) * item
    # Queries and keys as they are turned, partly in float32.
    return Piece(kept, rows * 7 * sizes.dim * item)


def feed_forward(sizes: Sizes, windows: Windows) -> Piece:
    """A layer's second norm and feed-forward block."""
    rows, item = windows.rows, sizes.dtype.itemsize
    kept = sizes.dim * sizes.norm_bytes + 3 * sizes.hidden * item
    if "gating" in sizes.lora_targets and sizes.lora_rank:
        kept += (sizes.dim + sizes.hidden + 2 * sizes.lora_rank) * item
    # The gradients of both halves, each as wide as both, and their sum; and what came in.
    return Piece(rows * kept, rows * (8 * sizes.hidden + 2 * sizes.dim) * item)


def learning(sizes: Sizes, ttt: TTTSizes, windows: Windows) -> Piece:
    """A TTT layer that keeps all its mini-batches."""
    item, exact, dim = sizes.dtype.itemsize, sizes.exact, sizes.dim
    # Of every token: what the maps took in and gave, their gradients, what the last norm and the
    # gate were given; of the values between the maps as many again.
    values = (14 + 5 * ttt.standardises) * dim + 7 * ttt.inner
    overlaps = 2 * ttt.maps * ttt.mini_batch * ttt.heads
    of_row = (values + overlaps) * exact + 3 * dim * item
    casts = 0
    if item < exact:
        of_row += dim * exact
        casts = ttt.matrices * item
    moved = windows.count * ttt.weights_bytes * (windows.frames // ttt.mini_batch)
    extra = windows.rows * 4 * dim * exact + ttt.matrices // 4 * exact
    return Piece(windows.rows * of_row + moved + casts, extra)


def learning_in_groups(
    sizes: Sizes, ttt: TTTSizes, memory: MemoryConfig, windows: Windows
) -> Piece:
    """A TTT layer that keeps what it had learnt between groups of mini-batches."""
    group = min(group_frames(ttt.mini_batch, memory, windows.frames), windows.frames)
    groups = -(-windows.frames // group)
    tokens = ttt.mini_batch * (2 * sizes.dim + 2 * ttt.inner) * sizes.exact
    states = windows.count * groups * (ttt.weights_bytes + tokens)
    # What came in, what it answers, and both together.
    kept = windows.rows * 3 * sizes.dim * sizes.dtype.itemsize + states
    return Piece(kept, learning(sizes, ttt, Windows(windows.count, group)).anew)


def heads(sizes: Sizes, memory: MemoryConfig, windows: Windows) -> Piece:
    """The last norm, the depformer and the loss."""
    rows, item, dep = windows.rows, sizes.dtype.itemsize, sizes.depformer
    logits = dep.codebooks * dep.card * sizes.exact
    layer = dep.width * (2 * dep.norm_bytes + 4 * item) + 3 * dep.hidden * item + 4 * dep.heads
    of_row = dep.codebooks * dep.layers * layer + logits
    if dep.has_last_norms:
        of_row += dep.codebooks * dep.width * dep.norm_bytes
    # Heads in float32, one for each codebook.
    casts = dep.codebooks * dep.card * dep.width * sizes.exact if item < sizes.exact else 0
    norm = rows * sizes.dim * sizes.norm_bytes
    if memory.head_block is None:
        return Piece(rows * of_row + norm + casts, rows * 2 * logits)
    block = windows.count * min(memory.head_block, windows.frames)
    return Piece(norm + rows * sizes.dim * item, block * (of_row + 2 * logits) + casts)


def pairs_and_keys(frames: int, context: int | None, block: int) -> tuple[int, int]:
    """How many pairs of a query and a key are looked at, masked ones included, and how many keys
    all blocks together have."""
    if frames <= block:
        return frames * frames, frames
    pairs = keys = 0
    for start in range(0, frames, block):
        count = min(block, frames - start)
        near = count + (start if context is None else min(start, context - 1))
        pairs, keys = pairs + count * near, keys + near
    return pairs, keys
