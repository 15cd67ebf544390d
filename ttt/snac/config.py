"""What a decoder and the encoding of audio are told, away from the modules that need torch.

Reading a configuration, and so `--help`, a misspelt key or `--print-config`, must not cost torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from ttt.config import Config

Init = Literal["interp", "noble", "average", "random"]
"""The 2x heads of `ttt.snac.heads` by name."""

CodeLayout = Literal["orpheus", "scales", "interleaved"]
"""How a clip's codes lie in a file (`ttt.snac.code_files`)."""
ORPHEUS_BASE = 128_266
"""Id of code 0 at place 0 of an Orpheus frame."""
ORPHEUS_ORDER = (0, 1, 3, 4, 2, 5, 6)
"""Column of an interleaved row (1 coarse, 2 middle, 4 fine codes) that each place holds."""

ONNX_OPSETS = (18, 19, 20)
"""Versions of ONNX's operations that a decoder is exported in (`ttt.snac.onnx`)."""


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


@dataclass(frozen=True, kw_only=True)
class NoiseFloorConfig(Config):
    """A noise floor of the head: constant noise above 12.3 kHz, fitted after training.

    Its levels are those with the lowest LSD-HF on clips that the decoder was not trained on.
    """

    folds: int = 0
    """Train so many times more, each time without one fold of the training clips, and fit on what
    these decoders make of the folds kept out of them; 0 fits on the validation clips."""
    max_windows: int = 256
    """Fit on at most so many windows of validation.segment_seconds, spread evenly over the clips
    kept out; their audio stays in memory."""
    seed: int = 0
    """Of the noise; the decoder that is exported adds it to all it decodes."""

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds must be 0 or at least 2, got {self.folds}")
        if self.max_windows < max(self.folds, 1):
            raise ValueError(
                f"max_windows must be at least 1 for each fold, got {self.max_windows}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


def fold_number(text: str) -> tuple[int, int]:
    """Which fold of how many: (2, 5) for 2/5. Raises ValueError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    fold, folds = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= fold <= folds or folds < 2:
        raise ValueError(f"a fold is a number and how many there are, such as 2/5, got {text}")
    return fold, folds


DiscriminatorRecipe = Literal["xcodec2", "dac"]
"""Whose discriminators: XCodec2's (which inworld's decoder takes, too) or DAC's."""


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Config):
    """The discriminators: one for each period of samples and one for each FFT size.

    Null takes the recipe's figure. `DiscriminatorConfig().figures` says what they are.
    """

    recipe: DiscriminatorRecipe = "xcodec2"
    """xcodec2 judges magnitudes by small networks, dac bands of complex spectra by larger ones."""
    periods: tuple[int, ...] | None = None
    """Periods in samples; each folds the audio into that many columns."""
    period_channels: int | None = None
    """Channels of the first convolution over periods."""
    period_growth: int | None = None
    """Each further convolution has so many times as many channels."""
    period_max_channels: int | None = None
    """But not more than this."""
    period_kernel: int | None = None
    """Length of the convolutions along a column."""
    period_strides: tuple[int, ...] | None = None
    """Steps of the convolutions along a column, one for each of them."""
    n_ffts: tuple[int, ...] | None = None
    """FFT sizes, with Hann windows."""
    hops_per_fft: int | None = None
    """FFT sizes by their hop: 2 lets half of two windows overlap."""
    spectral_channels: int | None = None
    """Channels of the first convolution over a spectrum."""
    spectral_max_channels: int | None = None
    """xcodec2 doubles the channels with each step down, but not beyond this; dac never does."""
    spectral_strides: tuple[int, ...] | None = None
    """Steps of the convolutions over a spectrum after the first: over time and frequency with
    xcodec2, over frequency alone with dac."""
    band_edges: tuple[float, ...] | None = None
    """Shares of the spectrum at which dac cuts it into bands; xcodec2 judges it whole."""
    target_rms: float = 0.1
    """Both signals are scaled by what brings the true one to this RMS, so that level counts."""
    seed: int = 0
    """Of the first weights."""

    def __post_init__(self) -> None:
        if self.recipe == "xcodec2" and self.band_edges is not None:
            raise ValueError("band_edges is read by recipe dac alone; remove it")
        if self.recipe == "dac" and self.spectral_max_channels is not None:
            raise ValueError("spectral_max_channels is read by recipe xcodec2 alone; remove it")
        figures = self.figures
        for name in ("periods", "n_ffts"):
            if not figures[name] or min(figures[name]) < 2:
                raise ValueError(f"{name} must be numbers from 2 up, got {figures[name]}")
        if any(n % 2 for n in figures["n_ffts"]):
            raise ValueError(f"n_ffts must be even, got {figures['n_ffts']}")
        for name, value in figures.items():
            lowest = min(value, default=1) if name.endswith("strides") else value
            if name.endswith(("channels", "growth", "strides", "kernel", "per_fft")) and lowest < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        edges = figures["band_edges"]
        if self.recipe == "dac" and sorted({0.0, *edges, 1.0}) != [*edges]:
            raise ValueError(f"band_edges must rise from 0 to 1, got {edges}")
        if self.target_rms <= 0:
            raise ValueError(f"target_rms must be above 0, got {self.target_rms}")

    @property
    def figures(self) -> dict[str, Any]:
        """Every key that the recipe has a figure for, and the figure: the recipe's where null."""
        given = {name: getattr(self, name) for name in _RECIPES[self.recipe]}
        return _RECIPES[self.recipe] | {k: v for k, v in given.items() if v is not None}


_RECIPES: dict[str, dict[str, Any]] = {
    "xcodec2": {
        "periods": (2, 3, 5, 7, 11),
        "period_channels": 16,
        "period_growth": 4,
        "period_max_channels": 512,
        "period_kernel": 5,
        "period_strides": (3, 3, 3, 3, 1),
        "n_ffts": (78, 126, 206, 334, 542, 876, 1418, 2296),
        "hops_per_fft": 2,
        "spectral_channels": 32,
        "spectral_max_channels": 512,
        "spectral_strides": (2, 2, 2),
        "band_edges": (),
    },
    "dac": {
        "periods": (2, 3, 5, 7, 11),
        "period_channels": 32,
        "period_growth": 4,
        "period_max_channels": 1024,
        "period_kernel": 5,
        "period_strides": (3, 3, 3, 3, 1),
        "n_ffts": (2048, 1024, 512),
        "hops_per_fft": 4,
        "spectral_channels": 32,
        "spectral_max_channels": 32,
        "spectral_strides": (2, 2, 2, 1),
        "band_edges": (0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
    },
}
