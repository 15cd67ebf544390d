"""Hops, strides, tokens and samples: the one home of SNAC's time arithmetic.

SNAC quantises one latent frame per `hop_samples` at `sample_rate` with several codebooks whose
strides fall by scale: for snac_24khz 4, 2, 1, so that scale k has `strides[0] // strides[k]`
codes per coarsest token. The coarsest token is the unit of everything in this project: it is
`strides[0] * hop_samples` samples of the codec's audio (2,048 at 24 kHz) and twice as many of
the 48 kHz target (4,096). Nobody else multiplies by a hop.

Shapes: n = number of coarsest tokens; scale k holds n * tokens_per_coarse[k] codes; codes of one
clip are also stored interleaved as [n, sum(tokens_per_coarse)].
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from ttt.errors import UserError

TARGET_RATE = 48_000
"""Sample rate of the decoder we train, in Hz."""

TokenRule = Literal["floor_total", "floor_per_second"]
Count = TypeVar("Count", int, np.ndarray)

Codes = tuple[np.ndarray, ...]
"""int16 codes of one clip by scale, coarsest first: lengths n * tokens_per_coarse[k]."""


@dataclass(frozen=True)
class CodeGeometry:
    """How codes, samples and seconds relate for one codec.

    Hashable and comparable: a cache, a checkpoint and a model agree when their geometries are
    equal.
    """

    sample_rate: int
    """Rate of the audio the codec was made for, in Hz (24,000)."""
    hop_samples: int
    """Samples at `sample_rate` per latent frame (512)."""
    strides: tuple[int, ...]
    """Latent frames per code, by scale, coarsest first (4, 2, 1)."""
    codebook_size: int = 4096
    """Codes run from 0 to codebook_size - 1."""
    attention_window: int | None = None
    """Latent frames of the codec's local attention; None for snac_24khz."""

    def __post_init__(self) -> None:
        if any(self.strides[0] % stride for stride in self.strides):
            raise ValueError(
                f"strides {self.strides}: every stride must divide the coarsest, {self.strides[0]}"
            )

    @classmethod
    def preset(cls, name: str) -> CodeGeometry:
        """`snac_24khz` (the published model) or `seed` (the 441-hop table the seed assumed)."""
        if name not in _PRESETS:
            raise ValueError(f"unknown geometry preset {name!r}; choose from {sorted(_PRESETS)}")
        return _PRESETS[name]

    @classmethod
    def of(cls, snac_model: Any) -> CodeGeometry:
        """The geometry of a loaded `snac.SNAC`, derived from the model, never typed in."""
        return cls(
            sample_rate=int(snac_model.sampling_rate),
            hop_samples=math.prod(int(rate) for rate in snac_model.encoder_rates),
            strides=tuple(int(stride) for stride in snac_model.vq_strides),
            codebook_size=int(snac_model.codebook_size),
            attention_window=snac_model.attn_window_size,
        )

    # -- codes ---------------------------------------------------------------------------------

    @property
    def tokens_per_coarse(self) -> tuple[int, ...]:
        """Codes of each scale per coarsest token: (1, 2, 4) for strides (4, 2, 1)."""
        return tuple(self.strides[0] // stride for stride in self.strides)

    @property
    def codes_per_coarse(self) -> int:
        """Codes of all scales per coarsest token: 7 for strides (4, 2, 1)."""
        return sum(self.tokens_per_coarse)

    def lengths(self, n_coarse: int) -> tuple[int, ...]:
        """Codes of each scale for `n_coarse` coarsest tokens."""
        return tuple(n_coarse * count for count in self.tokens_per_coarse)

    def columns(self) -> tuple[slice, ...]:
        """Where each scale lies in an interleaved row [codes_per_coarse]."""
        edges = [0]
        for count in self.tokens_per_coarse:
            edges.append(edges[-1] + count)
        return tuple(slice(a, b) for a, b in itertools.pairwise(edges))

    def n_coarse_of(self, lengths: tuple[int, ...] | list[int]) -> int:
        """The number of coarsest tokens of codes with these lengths.

        Raises ValueError when the scales do not cover the same time.
        """
        n_coarse = lengths[0] // self.tokens_per_coarse[0]
        if tuple(lengths) != self.lengths(n_coarse):
            raise ValueError(
                f"codes of lengths {tuple(lengths)} do not cover the same time; "
                f"strides {self.strides} need the ratio {self.tokens_per_coarse}"
            )
        return n_coarse

    def interleave(self, scales: Sequence[np.ndarray]) -> np.ndarray:
        """Codes by scale, coarsest first, as rows [n, codes_per_coarse].

        Raises ValueError when the number of scales is another, or they do not cover the same time.
        """
        if len(scales) != len(self.strides):
            raise ValueError(f"holds {len(scales)} codebooks; the decoder has {len(self.strides)}")
        n_coarse = self.n_coarse_of([len(scale) for scale in scales])
        columns = zip(scales, self.tokens_per_coarse, strict=True)
        return np.concatenate([scale.reshape(n_coarse, n) for scale, n in columns], axis=1)

    # -- samples -------------------------------------------------------------------------------

    @property
    def coarse_samples(self) -> int:
        """Samples at the codec's rate per coarsest token: 2,048 for snac_24khz."""
        return self.strides[0] * self.hop_samples

    @property
    def upsampling(self) -> int:
        """48 kHz samples per sample of the codec: 2."""
        return TARGET_RATE // self.sample_rate

    @property
    def coarse_samples_48k(self) -> int:
        """Samples at 48 kHz per coarsest token: 4,096 for snac_24khz."""
        return self.coarse_samples * self.upsampling

    def samples(self, n_coarse: int) -> int:
        """Samples at the codec's rate that `n_coarse` coarsest tokens decode to."""
        return n_coarse * self.coarse_samples

    def samples_48k(self, n_coarse: Count) -> Count:
        """Samples at 48 kHz that `n_coarse` coarsest tokens (or an array of such) decode to."""
        return n_coarse * self.coarse_samples_48k

    def coarse_at_48k(self, sample: int) -> int:
        """The coarsest token that the 48 kHz sample number `sample` belongs to."""
        return sample // self.coarse_samples_48k

    def frames(self, n_coarse: int) -> int:
        """Latent frames in `n_coarse` coarsest tokens."""
        return n_coarse * self.strides[0]

    def n_coarse_covering(self, samples: int) -> int:
        """Coarsest tokens the codec writes for `samples` samples at its own rate (it pads up)."""
        unit = self.coarse_samples
        if self.attention_window is not None:
            unit = self.hop_samples * math.lcm(self.strides[0], self.attention_window)
        return math.ceil(samples / unit) * (unit // self.coarse_samples)

    # -- seconds -------------------------------------------------------------------------------

    def seconds(self, n_coarse: int) -> float:
        """Seconds that `n_coarse` coarsest tokens last."""
        return self.samples(n_coarse) / self.sample_rate

    def tokens(self, seconds: float, rule: TokenRule = "floor_total") -> tuple[int, ...]:
        """Codes of each scale in a segment of `seconds`, coarsest first.

        `floor_total` rounds the whole segment down to coarsest tokens; `floor_per_second` rounds
        one second down and multiplies, as the table of the seed does (whole seconds only).
        """
        if seconds <= 0:
            raise ValueError(f"a segment of {seconds} s holds no token; give a positive length")
        if rule == "floor_total":
            n_coarse = self._coarse_in(seconds)
        elif rule == "floor_per_second":
            if seconds != int(seconds):
                raise ValueError(
                    f"rule floor_per_second needs whole seconds, got {seconds}; use floor_total"
                )
            n_coarse = int(seconds) * self._coarse_in(1)
        else:
            raise ValueError(f"unknown rule {rule!r}; use 'floor_total' or 'floor_per_second'")
        if n_coarse == 0:
            raise ValueError(
                f"a segment of {seconds} s is shorter than one coarsest token "
                f"({self.seconds(1):.4f} s)"
            )
        return self.lengths(n_coarse)

    def _coarse_in(self, seconds: float) -> int:
        # The epsilon keeps 0.3 s * 24,000 from losing a token to binary rounding.
        return math.floor(seconds * self.sample_rate / self.coarse_samples + 1e-9)

    # -- on disk -------------------------------------------------------------------------------

    def to_json(self) -> str:
        """One line of JSON, for schema metadata and config files."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CodeGeometry:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "strides": tuple(fields["strides"])})


_PRESETS = {
    "snac_24khz": CodeGeometry(sample_rate=24_000, hop_samples=512, strides=(4, 2, 1)),
    # The seed's table: the class defaults' 441-sample hop with the first three of four strides.
    "seed": CodeGeometry(sample_rate=24_000, hop_samples=441, strides=(8, 4, 2)),
}


def refuse_unfit(geometry: CodeGeometry) -> None:
    """Raise UserError for a codec that is not at 24 kHz or that uses local attention."""
    if geometry.attention_window is not None:
        raise UserError(
            f"this codec uses local attention over {geometry.attention_window} frames, which the "
            "48 kHz decoder does not support; use one without, such as snac_24khz"
        )
    if geometry.sample_rate * 2 != TARGET_RATE:
        raise UserError(
            f"this codec is at {geometry.sample_rate:,} Hz; the 2x head needs one at "
            f"{TARGET_RATE // 2:,} Hz, such as snac_24khz"
        )
