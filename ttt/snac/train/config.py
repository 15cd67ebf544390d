"""What a training of the decoder is told of its loss and its arithmetic, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ttt.config import Config

Precision = Literal["float32", "bf16"]
"""What the convolutions run in; losses are float32 in either."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """The training loss: total = sum of weight * term."""

    preset: Literal["default", "seed"] = "default"
    """`default`, or `seed` for the original project's loss, which takes no other setting."""
    n_ffts: tuple[int, ...] = (512, 1024, 2048, 4096)
    """FFT sizes of the STFT terms, in 48 kHz samples; the hop is a quarter."""
    l1_weight: float = 1.0
    """Weight of the mean absolute difference of samples."""
    linear_weight: float = 1.0
    """Weight of the mean absolute difference of STFT magnitudes."""
    log_weight: float = 1.0
    """Weight of the mean absolute difference of log10 STFT magnitudes."""
    mel_weight: float = 1.0
    """Weight of the mean absolute difference of log10 mel magnitudes (FFT size 2048)."""
    mel_bands: int = 80
    """Bands of the mel term, from 0 to 24 kHz."""

    def __post_init__(self) -> None:
        if not self.n_ffts or any(n < 16 or n & (n - 1) for n in self.n_ffts):
            raise ValueError(f"n_ffts must be powers of two from 16 up, got {self.n_ffts}")
        weights = {name: getattr(self, name) for name in _WEIGHTS}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name} must not be negative, got {weight}")
        if not any(weights.values()):
            raise ValueError(f"all of {', '.join(_WEIGHTS)} are 0; set one above 0")
        if not 8 <= self.mel_bands <= 160:
            raise ValueError(f"mel_bands must lie in 8..160, got {self.mel_bands}")
        if self.preset == "seed":
            changed = [name for name in _SETTINGS if getattr(self, name) != _default(name)]
            if changed:
                raise ValueError(
                    f"preset seed is the original's loss verbatim and does not read "
                    f"{', '.join(changed)}; remove it or use preset default"
                )


_WEIGHTS = ("l1_weight", "linear_weight", "log_weight", "mel_weight")
_SETTINGS = ("n_ffts", *_WEIGHTS, "mel_bands")


def _default(name: str) -> object:
    return LossConfig.__dataclass_fields__[name].default
