"""What training TTT layers or LoRA in Moshi is told. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ttt.codebook_weights import CodebookWeights
from ttt.config import Config
from ttt.layers.config import Flavour, check_flavour
from ttt.training.config import OptimizerConfig

Group = Literal["ttt", "gate", "lora"]
GROUPS: tuple[Group, ...] = ("ttt", "gate", "lora")
"""What has a learning rate of its own: TTT layers, their gates, LoRA."""
LoRATarget = Literal["in_projs", "out_projs", "gating"]
LORA_TARGETS: tuple[LoRATarget, ...] = ("in_projs", "out_projs", "gating")
"""Linears of the temporal transformer: attention's projections, and the feed-forward block."""

MATCHED_WITHIN_PERCENT = 1.0
"""How far the numbers of parameters of a run and its matched control may be apart."""


@dataclass(frozen=True, kw_only=True)
class TTTLayersConfig(Config):
    """Which layers get TTT, and of which shape."""

    layers: tuple[int, ...]
    """Layers of the temporal transformer, counted from 0."""
    kind: Literal["linear", "mlp"] = "mlp"
    """The small model that learns while it listens: one affine map, or an MLP (two with a GELU
    between, in lact a SwiGLU)."""
    flavour: Flavour = "ttt_lm"
    """Which published layer to be: ttt-lm-pytorch's, ttt-video-dit's made causal, or LaCT's, whose
    frames are answered by what the chunks before their own have taught."""
    num_heads: int | None = None
    """Heads, each with a small model of its own; null takes as many as attention has (lact 4 as
    published)."""
    mini_batch_size: int = 16
    """Frames that share one point of linearisation (ttt_lm 16, video_dit 64, lact 2,048 as
    published, and there no more)."""
    base_lr: float = 1.0
    """Inner learning rate before the learnt gate (ttt_lm 1.0, video_dit 0.1, lact 0.001 as
    published)."""
    rope_theta: float | None = 10_000.0
    """Base of the rotary embedding of keys and queries inside a mini-batch; null turns none, as
    lact asks."""
    momentum: bool = False
    """lact: steps go on in the direction of those before, by a learnt share (published: on)."""
    gate: float = 0.1
    """Where the gates start; 0 leaves the model's output as it was."""
    attention_context: int | None = None
    """Frames that attention of these layers reaches back; null leaves it as it is."""

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers must name one or more, each once, got {list(self.layers)}")
        for name in ("num_heads", "mini_batch_size", "base_lr", "rope_theta", "attention_context"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        check_flavour(self)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(Config):
    """LoRA in the temporal transformer."""

    rank: int | Literal["match"] = 128
    """Width of the low-rank part; match takes the rank with the number of parameters nearest to
    that of the TTT layers in `match`."""
    match: TTTLayersConfig | None = None
    """The TTT layers that rank: match is the control of; they are counted, not inserted."""
    scaling: float = 2.0
    """Factor on the low-rank part."""
    targets: tuple[LoRATarget, ...] = LORA_TARGETS
    """Linears that get LoRA: in_projs and out_projs of attention, gating (both of the feed-forward
    block)."""

    def __post_init__(self) -> None:
        if (self.rank == "match") != (self.match is not None):
            raise ValueError("rank: match and match belong together: give both or neither")
        if self.rank != "match" and self.rank < 1:
            raise ValueError(f"rank must be match, 1 or more, got {self.rank}")
        if self.scaling <= 0:
            raise ValueError(f"scaling must be above 0, got {self.scaling}")
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets must name one or more, each once, got {list(self.targets)}")


@dataclass(frozen=True, kw_only=True)
class WindowStageConfig(Config):
    """A stretch of the run with windows of one length."""

    frames: int
    """Frames of a window, 12.5 a second."""
    steps: int
    """Optimizer steps of the stage."""
    frames_per_step: int
    """Frames of a step over all workers, a multiple of frames: level memory and level noise."""

    def __post_init__(self) -> None:
        for name in ("frames", "steps", "frames_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.frames_per_step % self.frames:
            raise ValueError(
                f"frames_per_step {self.frames_per_step} is not a multiple of frames {self.frames}"
            )

    @property
    def windows_per_step(self) -> int:
        """Windows of a step over all workers."""
        return self.frames_per_step // self.frames


@dataclass(frozen=True, kw_only=True)
class PeakRatesConfig(Config):
    """The highest learning rate of each group of parameters."""

    ttt: float = 1.0e-4
    """TTT layers without their gates."""
    gate: float = 1.0e-4
    """The gates of TTT layers."""
    lora: float = 2.0e-6
    """LoRA (moshi-finetune's rate)."""

    def __post_init__(self) -> None:
        for group in GROUPS:
            if getattr(self, group) <= 0:
                raise ValueError(f"{group} must be above 0, got {getattr(self, group)}")


@dataclass(frozen=True, kw_only=True)
class MoshiOptimConfig(OptimizerConfig):
    """AdamW over all groups, its schedule over the whole run, clipping, an average of weights."""

    peak_rates: PeakRatesConfig = field(default_factory=PeakRatesConfig)
    """Highest learning rates, by group."""
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    """How rates rise to their peak: one_cycle by half a cosine, cosine in a straight line; both
    fall by half a cosine."""
    warmup_fraction: float = 0.05
    """Share of all steps in which rates rise."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay of the first and the second moment."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(Config):
    """What is computed anew in the backward pass, or bit by bit, to save memory.

    No key changes a result but by rounding.
    """

    attention_block: int | None = None
    """Frames whose attention is computed at once; null takes the model's window."""
    checkpoint_layers: bool = False
    """Compute each layer of the temporal transformer anew in the backward pass; about a third
    slower, and what a layer keeps of a frame is its input alone."""
    checkpoint_mini_batches: int | Literal["auto"] = 0
    """Mini-batches of a TTT layer computed anew together; auto takes the square root of all, 0
    keeps them all."""
    head_block: int | None = None
    """Frames that the depformer and the loss take at once, computed anew in the backward pass; null
    takes all and keeps them."""
    frames_per_micro_batch: int | None = None
    """Windows go through the model together up to so many frames, which is faster where windows are
    short; null takes them one by one."""

    def __post_init__(self) -> None:
        for name in ("attention_block", "head_block", "frames_per_micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, or null, got {value}")
        asked = self.checkpoint_mini_batches
        if asked != "auto" and asked < 0:
            raise ValueError(f"checkpoint_mini_batches must be auto, 0 or more, got {asked}")


@dataclass(frozen=True, kw_only=True)
class SpansConfig(Config):
    """Which frames of held-out chapters every validation hears."""

    span_frames: int = 6000
    """Frames from a chapter's beginning that are heard, 12.5 a second; more than attention reaches
    back, since the loss beyond that decides. A shorter chapter is heard whole."""
    most_spans: int = 16
    """Chapters that are heard at most, speakers taking turns."""

    def __post_init__(self) -> None:
        for name in ("span_frames", "most_spans"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class MoshiTrainingConfig(Config):
    """What is trained in a frozen Moshi, on what, and how."""

    ttt: TTTLayersConfig | None = None
    """TTT layers to insert and train; null trains none."""
    lora: LoRAConfig | None = None
    """LoRA to insert and train, before TTT; null trains none."""
    stages: tuple[WindowStageConfig, ...]
    """Stretches of the run, one after the other under one schedule; the longest windows last."""
    optim: MoshiOptimConfig = field(default_factory=MoshiOptimConfig)
    weights: CodebookWeights = "moshi"
    """The loss: moshi (100:1 for the semantic codebook) or uniform (mean of all)."""
    text: Literal["own", "pad", "masked"] = "own"
    """Text: own (what the base model chose, as cached with the codes), pad, or masked (none)."""
    other: Literal["silence", "masked", "zero_id"] = "silence"
    """The other voice: silence, masked (none), or zero_id (code 0)."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    seed: int = 0
    """Of what is drawn: the inserted parameters."""

    def __post_init__(self) -> None:
        if self.ttt is None and self.lora is None:
            raise ValueError("ttt and lora are both null: there is nothing to train")
        if not self.stages:
            raise ValueError("stages must name at least one")
        longest, ttt = max(stage.frames for stage in self.stages), self.ttt
        if ttt is not None and ttt.flavour == "lact" and longest <= ttt.mini_batch_size:
            raise ValueError(
                f"ttt.mini_batch_size {ttt.mini_batch_size} is no shorter than the longest windows "
                f"of stages, {longest} frames: with flavour lact their frames would be answered "
                "before anything is learnt; lower it or lengthen the windows"
            )
