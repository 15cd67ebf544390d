"""How loud audio is: integrated loudness by ITU-R BS.1770-4, of one channel at 48 kHz.

A filter weighs frequencies as a head and ears do (K-weighting); blocks of 0.4 s whose power lies
below -70 LUFS, or 10 LU below the mean of the others, do not count, so that pauses make no clip
quieter.

Source: Recommendation ITU-R BS.1770-4 (2015), annex 1, with its coefficients for 48 kHz.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torchaudio.functional import lfilter

RATE = 48_000
"""Samples per second that the filter's coefficients are for."""
BLOCK_SAMPLES = 19_200
"""0.4 s; shorter audio has no loudness."""
_HOP_SAMPLES = BLOCK_SAMPLES // 4
_SHELF = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285),
    (1.0, -1.69065929318241, 0.73248077421585),
)
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_OFFSET = -0.691
_LEAST_LUFS, _BELOW_MEAN_LU = -70.0, -10.0


def loudness_lufs(audio: npt.NDArray[np.floating]) -> float | None:
    """The integrated loudness of mono audio [T] at 48 kHz, full scale 1.

    None where it has none: shorter than 0.4 s, or nothing in it reaches -70 LUFS.
    """
    if len(audio) < BLOCK_SAMPLES:
        return None
    heard = torch.from_numpy(np.asarray(audio, dtype=np.float64))
    for numerator, denominator in (_SHELF, _HIGH_PASS):
        ends = (torch.tensor(each, dtype=torch.float64) for each in (denominator, numerator))
        heard = lfilter(heard, *ends, clamp=False)
    powers = heard.unfold(0, BLOCK_SAMPLES, _HOP_SAMPLES).square().mean(dim=1).numpy()
    counted = powers[_lufs(powers) > _LEAST_LUFS]
    if not len(counted):
        return None
    gate = float(_lufs(counted.mean())) + _BELOW_MEAN_LU
    counted = counted[_lufs(counted) > gate]
    return float(_lufs(counted.mean()))


def _lufs(power: npt.NDArray[np.float64] | np.float64) -> npt.NDArray[np.float64]:
    return _OFFSET + 10 * np.log10(np.maximum(power, math.ulp(0.0)))
