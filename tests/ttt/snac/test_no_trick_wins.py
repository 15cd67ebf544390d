"""No trick is called better than resampling, and what is better is.

Tricks have seeds of their own, apart from those that the rows' levels are fitted with, and lie
between the levels tried there. On the synthetic voice, and on recorded clips where they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional
from torch import Tensor

from ttt.audio import resample
from ttt.snac.cache.encode import ClipEncoder
from ttt.snac.config import EncodeConfig
from ttt.snac.evaluate import EvaluationClip, Evaluator
from ttt.snac.load import LoadedCodec, load_codec
from ttt.snac.metrics import all_metrics
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes
from ttt.snac.verdict import BASELINE, OURS, summarize
from ttt.synthetic.voice import utterance


@dataclass(frozen=True)
class Corpus:
    """Measured clips of one length, [clips, T], and their rows."""

    rows: list[dict]
    truth: Tensor
    resampled: Tensor
    audio_24k: Tensor

    def verdict(self, audio: Tensor) -> dict:
        """Of this audio in place of ours."""
        metrics = {name: v.tolist() for name, v in all_metrics(audio, self.truth).items()}
        rows = [
            {**row, OURS: {name: values[clip] for name, values in metrics.items()}}
            for clip, row in enumerate(self.rows)
        ]
        return summarize(rows, 0, 300)["verdict"]

    def hiss(self, decibels: float) -> Tensor:
        generator = torch.Generator().manual_seed(987_654_321)
        noise = torch.randn(self.truth.shape, generator=generator)
        return 10 ** (decibels / 20) * _high_pass(noise)

    def folding(self, decibels: float) -> Tensor:
        stuffed = torch.zeros_like(self.truth)
        stuffed[:, ::2] = 2 * self.audio_24k
        return 10 ** (decibels / 20) * _high_pass(stuffed)

    def at_width(self, width: int) -> Tensor:
        return torchaudio.functional.resample(
            self.audio_24k, 24_000, 48_000, lowpass_filter_width=width
        )

    def linear(self) -> Tensor:
        between = (self.audio_24k + self.audio_24k.roll(-1, 1)) / 2
        return torch.stack([self.audio_24k, between], dim=2).flatten(1)

    def linear_shifted(self) -> Tensor:
        return torch.nn.functional.interpolate(
            self.audio_24k[:, None], scale_factor=2, mode="linear", align_corners=False
        )[:, 0]


def _high_pass(audio: Tensor) -> Tensor:
    """Another filter than the product's: 2,001 taps, windowed."""
    edge = 12_300 / 24_000
    offset = torch.arange(-1000, 1001, dtype=torch.float64)
    taps = -edge * torch.sinc(edge * offset) * torch.kaiser_window(2001, periodic=False, beta=9.0)
    taps[1000] += 1
    return torchaudio.functional.fftconvolve(audio, taps.float()[None], mode="same")


def _measured(codec: LoadedCodec, truths: list[np.ndarray]) -> Corpus:
    evaluator = Evaluator(Decoder48k.from_snac(codec.model), codec)
    encoder = ClipEncoder(codec.model, EncodeConfig())
    rows, resampled, audio_24k = [], [], []
    for number, truth in enumerate(truths):
        low = resample(torch.from_numpy(truth), 48_000, 24_000, sharp=True)
        (scales,) = encoder.encode([low.numpy()])
        n_coarse = codec.geometry.n_coarse_of([len(scale) for scale in scales])
        codes = np.concatenate([scale.reshape(n_coarse, -1) for scale in scales], axis=1)
        clip = EvaluationClip(f"clip{number}", codes, truth)
        rows.append(evaluator.measure(clip))
        resampled.append(torch.from_numpy(evaluator.render(clip)[BASELINE]))
        per_scale = interleaved_to_codes(torch.from_numpy(codes)[None], codec.geometry)
        with torch.no_grad(), deterministic(codec.model):
            audio_24k.append(codec.model.decode(per_scale)[0, 0, : len(low)])
    truth = torch.from_numpy(np.stack(truths))
    return Corpus(rows, truth, torch.stack(resampled), torch.stack(audio_24k))


@pytest.fixture(scope="module")
def voice() -> Corpus:
    return _measured(load_codec("tiny"), [utterance(4_000 + clip, 1.5) for clip in range(8)])


@pytest.fixture(scope="module")
def recorded(shared_data: Path) -> Corpus:
    truths = []
    for path in sorted((shared_data / "audio48k").glob("*.flac")):
        audio, _ = soundfile.read(path, dtype="float32")
        middle = len(audio) // 2
        truths.append(audio[middle - 48_000 : middle + 48_000].copy())
    return _measured(load_codec("tiny"), truths)


@pytest.fixture(params=["voice", "recorded"])
def corpus(request: pytest.FixtureRequest) -> Corpus:
    return request.getfixturevalue(request.param)


LEVELS = range(-100, -56, 4)


def _tricks(corpus: Corpus) -> Iterator[tuple[str, Tensor]]:
    plain = corpus.resampled
    hisses = {decibels: corpus.hiss(decibels) for decibels in LEVELS}
    for decibels, hiss in hisses.items():
        yield f"hiss {decibels}", plain + hiss
    for decibels in (*LEVELS, *range(-56, 4, 8)):
        folding = corpus.folding(decibels)
        yield f"folding {decibels}", plain + folding
        if decibels in hisses:
            yield f"both {decibels}", plain + folding + hisses[decibels]
    for folding_db in (-36, -22):
        folding = corpus.folding(folding_db)
        for decibels, hiss in hisses.items():
            yield f"folding {folding_db}, hiss {decibels}", plain + folding + hiss


def _resamplers(corpus: Corpus) -> Iterator[tuple[str, Tensor]]:
    yield "linear interpolation", corpus.linear()
    yield "linear interpolation, half a sample later", corpus.linear_shifted()
    yield "held samples", corpus.audio_24k.repeat_interleave(2, dim=1)
    for width in (1, 2, 3, 4, 5, 8, 16, 64):
        yield f"width {width}", corpus.at_width(width)
    yield "sharp", resample(corpus.audio_24k, 24_000, 48_000, sharp=True)
    yield "half level", corpus.resampled / 2
    yield "twice the level", corpus.resampled * 2
    yield "resampling itself", corpus.resampled
    yield "silence", torch.zeros_like(corpus.truth)
    yield "half level and hiss", corpus.resampled / 2 + corpus.hiss(-80)
    for decibels in (-96, -90, -84, -72):
        hiss = corpus.hiss(decibels)
        yield f"linear interpolation, hiss {decibels}", corpus.linear() + hiss
        yield f"the same later, hiss {decibels}", corpus.linear_shifted() + hiss
    yield "width 4 and hiss", corpus.at_width(4) + corpus.hiss(-84)


@pytest.mark.parametrize("made", [_tricks, _resamplers])
def test_no_trick_is_better(
    corpus: Corpus, made: Callable[[Corpus], Iterator[tuple[str, Tensor]]]
) -> None:
    verdicts = {name: corpus.verdict(audio) for name, audio in made(corpus)}
    assert len(verdicts) > 15
    assert [name for name, verdict in verdicts.items() if verdict["kind"] == "good"] == []


def test_hiss_still_wins_lsd_and_the_heading_says_what_it_lacks(voice: Corpus) -> None:
    verdict = voice.verdict(voice.resampled + voice.hiss(-68))
    assert verdict["kind"] == "mixed"
    assert verdict["heading"].startswith("Lower LSD than resampling, but ")
    assert "above 12 kHz" in verdict["heading"]


def test_silence_passes_the_guard_of_l1_and_the_sentence_says_so(corpus: Corpus) -> None:
    """On these rows: the tiny codec's waveform is further from the truth than no sound at all."""
    silent = corpus.truth.abs().mean(dim=1)
    resampled = (corpus.resampled - corpus.truth).abs().mean(dim=1)
    told = [s for s in corpus.verdict(corpus.resampled)["sentences"] if s.startswith("L1 ")]
    says = re.search("Silence (passes|would pass) it", told[0]) is not None
    assert says == bool(silent.mean() / resampled.mean() < 1.005)
    (lf,) = (s for s in corpus.verdict(corpus.resampled)["sentences"] if s.startswith("LSD-LF "))
    assert "silence" not in lf.lower()


def test_what_is_better_is_called_so(corpus: Corpus) -> None:
    """The truth with a little noise, and with its octave 3 dB too weak."""
    generator = torch.Generator().manual_seed(5)
    noise = 10 ** (-95 / 20) * torch.randn(corpus.truth.shape, generator=generator)
    weaker = corpus.truth - (1 - 10 ** (-3 / 20)) * _high_pass(corpus.truth)
    for audio in (corpus.truth + noise, weaker):
        verdict = corpus.verdict(audio)
        assert (verdict["kind"], verdict["heading"]) == ("good", "Better than resampling")


def test_what_is_no_number_is_never_better(voice: Corpus) -> None:
    """The truth itself, but NaN in one clip."""
    broken = voice.truth.clone()
    broken[3, 100] = math.nan
    assert voice.verdict(broken)["kind"] != "good"
    loud = voice.truth.clone()
    loud[3, 100] = math.inf
    assert voice.verdict(loud)["kind"] != "good"
