"""What a training of the decoder is told of its losses and its arithmetic, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ttt.config import Config
from ttt.snac.config import DiscriminatorConfig
from ttt.training.config import AdamWConfig

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
    multi_mel_weight: float = 0.0
    """Weight of the mean absolute difference of log10 mel magnitudes, summed over several scales;
    15 beside discriminators, as those who publish them have it."""
    multi_mel_n_ffts: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    """FFT sizes of those scales; the hop is a quarter."""
    multi_mel_bands: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    """Bands of each of those scales, from 0 to 24 kHz."""
    band_level_weight: float = 0.0
    """Weight of the mean absolute difference of log10 band powers above the codec's 12 kHz: how
    much energy there is, where the other terms see each bin; .5 in the recipes that use it."""
    band_level_n_ffts: tuple[int, ...] = (512, 2048, 8192)
    """FFT sizes of the band powers, over which the term is the mean; the hop is a quarter."""
    band_level_bands: int = 16
    """Equal bands from 12 to 24 kHz in which powers are compared."""

    def __post_init__(self) -> None:
        for name in ("n_ffts", "multi_mel_n_ffts", "band_level_n_ffts"):
            sizes = getattr(self, name)
            if not sizes or any(n < 16 or n & (n - 1) for n in sizes):
                raise ValueError(f"{name} must be powers of two from 16 up, got {sizes}")
        if len(self.multi_mel_bands) != len(self.multi_mel_n_ffts) or min(self.multi_mel_bands) < 1:
            raise ValueError(
                f"multi_mel_bands must be one number from 1 up for each of multi_mel_n_ffts, got "
                f"{self.multi_mel_bands}"
            )
        weights = {name: getattr(self, name) for name in _WEIGHTS}
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"{name} must not be negative, got {weight}")
        if not any(weights.values()):
            raise ValueError(f"all of {', '.join(_WEIGHTS)} are 0; set one above 0")
        if not 8 <= self.mel_bands <= 160:
            raise ValueError(f"mel_bands must lie in 8..160, got {self.mel_bands}")
        # Every band then has a bin of the shortest FFT at least.
        most = min(self.band_level_n_ffts) // 4
        if not 1 <= self.band_level_bands <= most:
            raise ValueError(
                f"band_level_bands must lie in 1..{most}, a quarter of the smallest of "
                f"band_level_n_ffts, got {self.band_level_bands}"
            )
        if self.preset == "seed":
            changed = [name for name in _SETTINGS if getattr(self, name) != _default(name)]
            if changed:
                raise ValueError(
                    f"preset seed is the original's loss verbatim and does not read "
                    f"{', '.join(changed)}; remove it or use preset default"
                )


_WEIGHTS = (
    "l1_weight", "linear_weight", "log_weight", "mel_weight", "multi_mel_weight",
    "band_level_weight",
)  # fmt: skip
_SETTINGS = (
    "n_ffts", *_WEIGHTS, "mel_bands", "multi_mel_n_ffts", "multi_mel_bands", "band_level_n_ffts",
    "band_level_bands",
)  # fmt: skip


def _default(name: str) -> object:
    return LossConfig.__dataclass_fields__[name].default


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig(AdamWConfig):
    """The adversarial phase: discriminators learn beside the decoder and then teach it.

    It begins at a step; for `hold_steps` the discriminators learn alone, then what they say enters
    the decoder's loss over `ramp_steps`.
    """

    discriminators: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The networks."""
    start_from: str | None = None
    """A folder or URI export/discriminators whose weights they begin with; null begins afresh."""
    first_epoch: int = 1
    """The epoch it begins with, from 1."""
    first_step: int | None = None
    """A step of the run (from 0) that it begins with instead."""
    hold_steps: int = 1000
    """Steps in which the discriminators learn and the decoder does not hear of them yet."""
    ramp_steps: int = 1000
    """Steps over which both weights rise to their values after that."""
    weight: float = 1.0
    """Weight of the adversarial term (least squares, summed over the networks)."""
    feature_weight: float = 1.0
    """Weight of the mean absolute difference of the networks' feature maps, summed over them."""
    lr: float = 1.0e-4
    """Highest learning rate of the discriminators' AdamW."""
    final_lr: float = 2.0e-5
    """What it falls to at the end of the run, on a cosine."""
    lr_rise_steps: int = 1
    """Steps over which it rises first."""
    betas: tuple[float, float] = (0.8, 0.9)
    """Their AdamW's decay of the first and the second moment."""
    r1_gamma: float | None = None
    """Weight of a penalty on their slope at recorded audio (lazy R1), 10 for one that is too sure;
    null has none."""
    r1_every: int = 16
    """The penalty is taken in every so many steps, so many times as strong."""
    give_up_after: int | None = 3
    """After so many validations in a row whose guards fail under the adversarial loss, training
    goes back to the best checkpoint and on without discriminators; null never does."""
    collapse_steps: int = 1000
    """Discriminators whose loss stays the same for so many steps are warned of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_epoch < 1:
            raise ValueError(f"first_epoch must be at least 1, got {self.first_epoch}")
        if self.first_step is not None and self.first_epoch != 1:
            raise ValueError("first_epoch and first_step are both set; set one of them")
        for name in ("first_step", "hold_steps", "weight", "feature_weight"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("ramp_steps", "lr_rise_steps", "r1_every", "give_up_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.collapse_steps < 2:
            raise ValueError(f"collapse_steps must be at least 2, got {self.collapse_steps}")
        for name in ("lr", "final_lr", "r1_gamma"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, got {value}")


BestBy = Literal["loss", "guarded"]
"""What makes a validation the best: the lowest loss, or, of those whose guards hold, LSD-HF."""
