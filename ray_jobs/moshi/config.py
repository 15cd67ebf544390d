"""What the jobs of Moshi are told: who listens, and what fills the streams."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ttt.config import Config


@dataclass(frozen=True, kw_only=True)
class BaseModelConfig(Config):
    """A Moshi without what is trained in it, and its codec."""

    weights: str = "kyutai/moshiko-pytorch-bf16"
    """Moshi: a hub name, a folder in its layout, or tiny."""
    mimi: str | None = None
    """Codec: a hub name, a folder, or tiny; null takes the one beside weights. synthetic takes a
    cache of chapters whose codes no Mimi made."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights; TTT states are float32 in either."""
    lm_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of Moshi's model that replace those of its config.json, such as context."""


@dataclass(frozen=True, kw_only=True)
class ChapterModelsConfig(BaseModelConfig):
    """Who listens: the base model, and the same with TTT layers."""

    ttt: str | None = None
    """Folder of TTT layers written by save_ttt; null evaluates the base model alone."""
    ttt_weights: str | None = None
    """Base model below the TTT layers where it was trained with them; null takes weights."""
    lora: str | None = None
    """Folder of moshi-finetune's LoRA, fused into the base model before it is heard, with TTT or
    without; null takes the base as it is."""
    baseline: bool = True
    """Evaluate the base model; false leaves it to another run (see --compare)."""

    def __post_init__(self) -> None:
        if self.ttt is None and not self.baseline:
            raise ValueError("baseline is false and ttt is null: there is no model to evaluate")
        if self.ttt is None and self.ttt_weights is not None:
            raise ValueError("ttt_weights needs ttt, the folder of the layers that go into it")


@dataclass(frozen=True, kw_only=True)
class InnerControlsConfig(Config):
    """Controls of how TTT layers learn: each one set adds a model to the run."""

    updates_off: bool = False
    """Also with TTT layers that do not learn."""
    ascent: bool = False
    """Also with steps that go the other way, up the inner loss."""
    query_is_key: bool = False
    """Also with every query replaced by its token's own key."""
    inner_steps: int | None = None
    """Also with so many inner steps for each answer, two or more; several times as slow."""

    def __post_init__(self) -> None:
        if self.inner_steps is not None and self.inner_steps < 2:
            raise ValueError("inner_steps must be 2 or more, or null: one is what a model does")

    @property
    def of_inner_loop(self) -> tuple[str, ...]:
        """The keys that are set of those that change how a layer learns."""
        names = [field.name for field in fields(InnerControlsConfig)]
        return tuple(name for name in names if getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class StreamsConfig(Config):
    """What fills Moshi's streams beside the recording; see ttt.moshi.streaming.streams."""

    text: Literal["own", "pad", "masked", "silence_codes"] = "own"
    """Text: own (the model's argmax), pad, masked (none), or silence_codes (an old confusion)."""
    other: Literal["silence", "masked", "zero_id", "audio"] = "silence"
    """The other voice: silence, masked (none), zero_id (code 0), or audio (the recording)."""
    voice: Literal["moshi", "user"] = "moshi"
    """Which voice the recording is; user needs a model that predicts the user's codes."""

    @property
    def needs_silence(self) -> bool:
        """Whether Mimi has to say what silence is."""
        return self.other == "silence" or self.text == "silence_codes"
