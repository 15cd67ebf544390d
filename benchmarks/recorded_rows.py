"""Metrics of seconds of recorded audio, as a population that `benchmarks.coverage` draws from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ttt.audio import read_audio, resample, through_rate
from ttt.snac.load import load_codec
from ttt.snac.metrics import METRICS, all_metrics, si_sdr
from ttt.snac.model import Decoder48k, deterministic
from ttt.statistics.intervals import Floats
from ttt.synthetic.voice import utterance

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "audio48k"
SPOKEN = 30
"""Utterances of the synthetic voice where the recorded clips are not."""


@cache
def recorded_rows() -> dict[str, Floats]:
    """Metric -> [seconds, 2]: of an estimate, and of the tiny codec's output resampled.

    The estimate adds to the latter its own band mirrored above 12 kHz, 20 dB lower. SI-SDR, which
    a tiny codec has none of (-40 dB), is that of true audio at 24 kHz resampled, and interpolated.
    """
    torch.set_num_threads(1)
    codec = load_codec("tiny").model
    decoder = Decoder48k.from_snac(codec, init="interp").eval()
    found: dict[str, list[list[float]]] = {name: [] for name in METRICS}
    for second in _seconds():
        with torch.inference_mode(), deterministic(codec), deterministic(decoder):
            codes = codec.encode(resample(second, 48_000, 24_000, sharp=True)[None, None])
            baseline = decoder.decode(codes)[0, :, : len(second)]
            mirrored = baseline * (1 - 2 * (torch.arange(len(second)) % 2))
        both = [all_metrics(x, second[None]) for x in (baseline + 0.1 * mirrored, baseline)]
        for name, rows in found.items():
            rows.append([float(metrics[name]) for metrics in both])
        low = resample(second, 48_000, 24_000, sharp=True)[None]
        drawn = torch.nn.functional.interpolate(low[None], size=len(second), mode="linear")[0]
        limited = through_rate(second[None], 48_000, 24_000)
        found["si_sdr"][-1] = [float(si_sdr(x, second[None])) for x in (limited, drawn)]
    rows = {name: np.array(rows) for name, rows in found.items()}
    return {name: row[np.isfinite(row).all(axis=1)] for name, row in rows.items()}


def _seconds() -> Iterator[torch.Tensor]:
    """Every second of the recorded clips that is not silent; of the synthetic voice without."""
    if RECORDED.is_dir():
        clips = [read_audio(path)[0].mean(axis=0) for path in sorted(RECORDED.glob("*.flac"))]
    else:
        clips = [utterance(seed, 4.0, speaker=seed) for seed in range(SPOKEN)]
    for clip in clips:
        for start in range(0, len(clip) - 47_999, 48_000):
            second = torch.from_numpy(np.ascontiguousarray(clip[start : start + 48_000]))
            if second.square().mean() > 1e-8:
                yield second


def origin() -> str:
    """Whose rows these are, for the name of a world."""
    return "recorded" if RECORDED.is_dir() else "synthetic voice's"
