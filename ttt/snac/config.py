"""What a decoder and the encoding of audio are told, away from the modules that need torch.

Reading a configuration, and so `--help`, a misspelt key or `--print-config`, must not cost torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ttt.config import Config

Init = Literal["interp", "noble", "average", "random"]
"""The 2x heads of `ttt.snac.heads` by name."""


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(Config):
    """How much audio the encoder takes at once; it bounds memory, not what is encoded."""

    max_batch_seconds: float = 60.0
    """Seconds of audio in one batch of equally long clips; full-size SNAC needs 20 MB each."""
    chunk_seconds: float = 60.0
    """Clips longer than this are encoded in chunks of this length, with context on both sides."""

    def __post_init__(self) -> None:
        for name in ("max_batch_seconds", "chunk_seconds"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1 second, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class AlignConfig(Config):
    """How a restored target is aligned with the source that is encoded."""

    max_lag_seconds: float = 0.5
    """The target may be early or late by at most this; beyond, the clip is left out."""
    min_correlation: float = 0.3
    """Clips whose correlation (0 to 1) peaks below this are left out: "lag not found"."""

    def __post_init__(self) -> None:
        if not 0 < self.max_lag_seconds <= 10:
            raise ValueError(
                f"max_lag_seconds must be above 0 and at most 10, got {self.max_lag_seconds}"
            )
        if not 0 < self.min_correlation < 1:
            raise ValueError(f"min_correlation must be between 0 and 1, got {self.min_correlation}")
