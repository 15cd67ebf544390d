"""How much memory a step takes at its worst moment, and which keys of `memory` make it fit.

A step holds the model, what is trained with AdamW's averages, and what the forward pass kept. The
backward pass frees what was kept, last layer first, while gradients come; so the worst moment is at
the depformer and the loss, at one of the layers, or when the optimizer has all gradients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moshi.models.lm import LMModel

from ttt.moshi.training.config import MemoryConfig, MoshiTrainingConfig
from ttt.moshi.training.estimate import pieces
from ttt.moshi.training.estimate.pieces import Piece, Windows
from ttt.moshi.training.estimate.sizes import Sizes

HEAD_BLOCK = 1000
"""Frames of a block of the depformer and the loss where `advice` asks for blocks: of Moshi 7B they
take 3 GB, less than a layer over a whole chapter, and few operations."""


@dataclass(frozen=True)
class TrainingBytes:
    """Bytes by what they are for, at a step's worst moment; their sum lives then.

    Without what the device's libraries and its allocator keep for themselves.
    """

    base: int
    """The frozen model."""
    trained: int
    """What is trained."""
    optimizer: int
    """AdamW's two averages, and the average of the weights where one is kept."""
    gradients: int
    """Those that are there already."""
    kept: int
    """For the rest of the backward pass."""
    working: int
    """What is computed at this moment."""
    moment: str
    """Which one it is, as a sentence says it."""

    @property
    def total(self) -> int:
        """All of it."""
        parts = self.base, self.trained, self.optimizer, self.gradients, self.kept, self.working
        return sum(parts)

    def sentence(self) -> str:
        """All of it in GB (10^9 bytes)."""
        names = "base", "trained", "optimizer", "gradients", "kept", "working"
        parts = ", ".join(f"{name} {getattr(self, name) / 1e9:.1f}" for name in names)
        return f"{self.total / 1e9:.1f} GB at most, {self.moment} ({parts})"


def training_bytes(
    lm: LMModel, config: MoshiTrainingConfig, frames: int, windows: int = 1
) -> TrainingBytes:
    """What a step over a micro-batch of so many windows of so many frames takes.

    Args:
        lm: the base model in the type that it is trained in, without what is to be trained; it may
            be on the meta device.
        config: what is put into it, and what is computed anew.

    Raises:
        UserError: what is to be trained does not fit the model, or is of flavour lact, of which
            no sum is known.
    """
    return _bytes(Sizes.of(lm, config), config, Windows(windows, frames))


@dataclass(frozen=True)
class Advice:
    """Which keys of `memory` make a step fit."""

    memory: MemoryConfig
    """The configured keys and, of the others, those that are needed."""
    needed: dict[str, object]
    """Key of `memory` -> the value that is needed where another one is configured."""
    need: TrainingBytes
    """What the step takes with them."""
    fits: bool
    """False: not even all of them suffice, and fewer windows in a micro-batch, or shorter ones, or
    fewer layers of TTT would."""


def advice(
    lm: LMModel, config: MoshiTrainingConfig, frames: int, windows: int, room: int
) -> Advice:
    """The keys that make a step fit into `room` bytes, those first that cost the least time.

    Only more is computed anew than is configured, never less. Raises UserError as `training_bytes`.
    """
    sizes, ask = Sizes.of(lm, config), Windows(windows, frames)
    found: list[Advice] = []
    for memory in _sparing(config.memory):
        asked = dataclasses.replace(config, memory=memory)
        need = _bytes(sizes, asked, ask)
        needed = {
            field.name: getattr(memory, field.name)
            for field in dataclasses.fields(memory)
            if getattr(memory, field.name) != getattr(config.memory, field.name)
        }
        found.append(Advice(memory, needed, need, need.total <= room))
        if found[-1].fits:
            return found[-1]
    return min(found, key=lambda each: each.need.total)


def _sparing(memory: MemoryConfig) -> Iterator[MemoryConfig]:
    """What is configured, and more and more beside it: the depformer is the smallest part of what
    is computed anew, then what TTT learns, then the layers."""
    blocks = memory.head_block or HEAD_BLOCK
    groups = memory.checkpoint_mini_batches or "auto"
    yield memory
    blocked = dataclasses.replace(memory, head_block=blocks)
    grouped = dataclasses.replace(memory, checkpoint_mini_batches=groups)
    yield from (blocked, grouped)
    yield dataclasses.replace(blocked, checkpoint_mini_batches=groups)
    yield dataclasses.replace(memory, checkpoint_layers=True)
    yield dataclasses.replace(blocked, checkpoint_layers=True)
    yield dataclasses.replace(grouped, checkpoint_layers=True)
    yield dataclasses.replace(blocked, checkpoint_layers=True, checkpoint_mini_batches=groups)


def _bytes(sizes: Sizes, config: MoshiTrainingConfig, windows: Windows) -> TrainingBytes:
    layers = [*_layers(sizes, config.memory, windows)]
    heads = pieces.heads(sizes, config.memory, windows)
    kept = sum(each.kept for each in layers)
    gradients = sizes.trained_bytes
    moments = [
        (0, kept + heads.kept, heads.extra, "at the depformer and the loss"),
        *_at_layers(sizes, layers),
        (gradients, 0, 0, "when the optimizer moves the weights"),
    ]
    worst = max(moments, key=lambda moment: sum(moment[:3]))
    copies = 2 if config.optim.ema_decay is None else 3
    told = windows.rows * 17 * 8 * 3  # the streams as they are heard and predicted
    return TrainingBytes(
        base=sizes.base_bytes,
        trained=sizes.trained_bytes,
        optimizer=copies * sizes.trained_bytes,
        gradients=worst[0],
        kept=worst[1] + told,
        working=worst[2],
        moment=worst[3],
    )


def _at_layers(sizes: Sizes, layers: Sequence[Piece]) -> Iterator[tuple[int, int, int, str]]:
    """Gradients, what is kept, and what a layer takes at the backward pass of each, last to
    first."""
    each = sizes.trained_bytes / len(layers)
    for number in reversed(range(len(layers))):
        place = f"at the backward pass of layer {sizes.first_layer + number}"
        came = round(each * (len(layers) - 1 - number))
        kept = sum(layer.kept for layer in layers[: number + 1])
        yield came, kept, layers[number].extra, place


def _layers(sizes: Sizes, memory: MemoryConfig, windows: Windows) -> Iterator[Piece]:
    """The layers through which a gradient runs; the others keep nothing."""
    for index in range(sizes.first_layer, sizes.layers):
        learns = index in sizes.ttt_layers
        attends = index > sizes.first_layer or bool(sizes.lora_rank)
        yield _layer(sizes, memory, windows, learns=learns, attends=attends)


def _layer(
    sizes: Sizes, memory: MemoryConfig, windows: Windows, *, learns: bool, attends: bool
) -> Piece:
    attention = pieces.attention(sizes, memory, windows) if attends else Piece(0, 0)
    parts, groups = [attention, pieces.feed_forward(sizes, windows)], None
    if learns and sizes.ttt is not None:
        if memory.checkpoint_mini_batches:
            groups = pieces.learning_in_groups(sizes, sizes.ttt, memory, windows)
        else:
            parts.append(pieces.learning(sizes, sizes.ttt, windows))
    input_bytes = windows.rows * sizes.dim * sizes.dtype.itemsize
    if not memory.checkpoint_layers:
        whole = [*parts, groups] if groups else parts
        return Piece(sum(each.kept for each in whole), max(each.extra for each in whole))
    if groups:  # In pieces, each of which is computed anew by itself.
        work = max(groups.extra, *(each.anew for each in parts))
        return Piece(input_bytes + groups.kept, work)
    whole = sum(each.kept for each in parts)
    return Piece(input_bytes, whole + max(each.extra for each in parts))
