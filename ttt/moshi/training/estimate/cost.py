"""How much arithmetic a frame of training takes, and how many hours of a GPU that is.

A product with a matrix of n values takes 2 n operations of a frame forward. Backward, a frozen
matrix takes as many again, for the gradient of its input; a trained one, and every product of two
computed tensors, twice as many. What is computed anew takes its forward pass once more. Layers
before the first trained one are heard forward alone. Sums, norms and activations are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from moshi.models.lm import LMModel

from ttt.moshi.training.config import LoRATarget, MemoryConfig, MoshiTrainingConfig
from ttt.moshi.training.estimate.pieces import pairs_and_keys
from ttt.moshi.training.estimate.sizes import Sizes, TTTSizes

FRAMES_PER_HOUR = 45_000
"""12.5 a second."""
H100_BF16 = 989e12
"""Operations a second of an H100's tensor cores, as published, without sparsity."""
H100_FLOAT32 = 67e12
"""The same in float32, in which TTT learns."""


@dataclass(frozen=True)
class FrameFlops:
    """Operations of one frame, forward, computed anew and backward."""

    temporal: float
    """The temporal transformer's own matrices."""
    attention: float
    """Queries with keys and values, those that a mask hides counted."""
    depformer: float
    """With inputs and heads."""
    lora: float
    projections: float
    """Of TTT layers."""
    fast_weights: float
    """What TTT learns and answers, in float32."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.on_tensor_cores + self.fast_weights

    @property
    def on_tensor_cores(self) -> float:
        """What is computed in the model's type."""
        return self.temporal + self.attention + self.depformer + self.lora + self.projections


def frame_flops(lm: LMModel, config: MoshiTrainingConfig, frames: int) -> FrameFlops:
    """Operations that a frame of windows of so many frames takes in the mean.

    Args and errors are those of `training_bytes`.
    """
    sizes, memory = Sizes.of(lm, config), config.memory
    block = memory.attention_block or sizes.context or frames
    pairs, _ = pairs_and_keys(frames, sizes.context, block)
    layers = [_layer(sizes, memory, index) for index in range(sizes.layers)]
    depformer = 2 * sizes.depformer.parameters * (2 + (memory.head_block is not None))
    return FrameFlops(
        temporal=2 * sum(each.products for each in layers),
        attention=4 * sizes.dim * pairs / frames * sum(each.looks for each in layers),
        depformer=depformer,
        lora=2 * sizes.lora_parameters * (3 + memory.checkpoint_layers),
        projections=2 * sum(each.projections for each in layers),
        fast_weights=sum(each.learning for each in layers),
    )


def gpu_hours(
    flops: FrameFlops,
    hours: float,
    share: float,
    *,
    peak: float = H100_BF16,
    float32_peak: float = H100_FLOAT32,
) -> float:
    """Hours of a GPU that reaches a share of its peak, for so many hours of sound.

    Nothing but arithmetic: eager PyTorch on few windows waits for its launches, and longer.
    """
    seconds = flops.on_tensor_cores / peak + flops.fast_weights / float32_peak
    return hours * FRAMES_PER_HOUR * seconds / share / 3600


@dataclass(frozen=True)
class _Layer:
    """What a frame takes of a temporal layer, forward, computed anew and backward."""

    products: int
    """With its own matrices, in values."""
    looks: float
    """At keys, where one is forward."""
    projections: float
    """Of TTT, in values."""
    learning: int


def _layer(sizes: Sizes, memory: MemoryConfig, index: int) -> _Layer:
    own = sizes.matrices
    attention, block = own.attention_in + own.attention_out, own.block_in + own.block_out
    if index < sizes.first_layer:
        return _Layer(attention + block, 1, 0, 0)
    attends = index > sizes.first_layer or sizes.lora_rank > 0  # with a gradient before it
    ttt = sizes.ttt if index in sizes.ttt_layers else None
    in_pieces = ttt is not None and bool(memory.checkpoint_mini_batches)
    products, looks = attention + 2 * block + attends * attention, 1 + 2.5 * attends
    # What is computed anew ends with the last tensor that is kept, before the last product.
    if memory.checkpoint_layers:
        products += own.block_in + own.block_out * _has_lora(sizes, "gating")
        if attends or not in_pieces:
            ends = in_pieces and not _has_lora(sizes, "out_projs")
            products += own.attention_in if ends else attention
            looks += 1
    if ttt is None:
        return _Layer(products, looks, 0, 0)
    anew = 0.75 if memory.checkpoint_mini_batches else float(memory.checkpoint_layers)
    inputs = 1 if attends else 0.25
    learning = _learning(ttt) * (3 + (anew > 0))
    return _Layer(products, looks, ttt.matrices * (2 + inputs + anew), learning)


def _has_lora(sizes: Sizes, target: LoRATarget) -> bool:
    return sizes.lora_rank > 0 and target in sizes.lora_targets


def _learning(ttt: TTTSizes) -> int:
    """Operations of one frame forward: a key is answered and its gradient taken, which the first
    map does not hand on; a query is answered, and looks at the mini-batch's tokens; weights move.
    """
    answers = 2 * (2 * ttt.weights)
    gradient = 2 * (ttt.weights - ttt.first_weights)
    moves = 2 * ttt.weights
    width = 2 * (ttt.dim + ttt.inner)  # of all maps' inputs and outputs together
    return answers + gradient + moves + 2 * ttt.mini_batch * width
