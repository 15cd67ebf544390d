"""A voice made of arithmetic: full-band, speech-like clips from a seed.

The demo, the tests and the tiny codec need 48 kHz speech that fills the band up to 24 kHz, and
may not download any. `utterance` speaks random syllables with one speaker's larynx and vocal
tract; `write_corpus` fills a folder with clips by several speakers. It is no language and no
speech synthesis: it has what a bandwidth-extending decoder feeds on, namely pitch, formants,
fricatives, plosives, pauses, and high frequencies that follow from the low ones (harmonics that
continue upward, breath that pulses with the voice, fricatives whose colour is the phone's).

The model is source and filter. Two sources, a glottal pulse train and noise, are shaped frame by
frame in the frequency domain by smooth envelopes that glide from phone to phone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from ttt.synthetic.phones import Score, Voice, syllables

Signal = NDArray[np.float32]


def utterance(seed: int, seconds: float, rate: int = 48_000, speaker: int | None = None) -> Signal:
    """Speech-like audio [round(seconds * rate)], float32 within [-1, 1].

    The same arguments give the same bytes. `speaker` chooses the voice (any number from 0); None
    draws one from the seed. Raises ValueError when the length or the rate is too small.
    """
    if seconds < 0.1:
        raise ValueError(f"an utterance of {seconds} s is too short; ask for 0.1 s or more")
    if rate < 16_000:
        raise ValueError(f"a rate of {rate} Hz has no room for fricatives; use 16,000 or more")
    rng = np.random.default_rng([seed, 0])
    voice = Voice.of(int(rng.integers(1_000)) if speaker is None else speaker)
    samples = round(seconds * rate)
    score = Score(syllables(rng, voice, seconds))
    time = np.arange(samples) / rate

    pulses, openness = _glottal_source(rng, voice, time, rate)
    breath = rng.standard_normal(samples, dtype=np.float32) * (0.25 + openness)
    loudness = score.track("voicing", time) * _phrase_loudness(rng, time)
    voiced = pulses * loudness
    breathed = breath * (loudness * voice.breath + 0.35 * score.track("aspiration", time))
    hiss = rng.standard_normal(samples, dtype=np.float32) * score.track("frication", time)

    frames = _Frames(samples, rate)
    tract = _tract_gain(score, voice, frames)
    audio = frames.filter(
        (voiced, tract * _voice_tilt(voice, frames.hertz)),
        (breathed, tract * _breath_colour(frames.hertz)),
        (hiss, _fricative_gain(score, voice, frames)),
    )
    room_noise = 10 ** rng.uniform(-4.2, -3.4)
    audio += room_noise * rng.standard_normal(samples, dtype=np.float32)
    peak = rng.uniform(0.4, 0.9)
    return (audio * (peak / np.abs(audio).max())).astype(np.float32)


def write_corpus(
    folder: str | Path,
    clips: int,
    seed: int,
    seconds: tuple[float, float] = (2.0, 6.0),
    speakers: int = 8,
) -> list[Path]:
    """Write `clips` 48 kHz FLAC files as `folder/speaker-000/clip-00000.flac` and return them.

    Lengths are uniform in `seconds`. Clips share `speakers` voices, drawn from the seed, in turn.
    """
    rng = np.random.default_rng([seed, 1])
    voices = rng.permutation(1_000)[:speakers]
    paths = []
    for clip in range(clips):
        voice = int(voices[clip % speakers])
        audio = utterance(int(rng.integers(2**31)), float(rng.uniform(*seconds)), speaker=voice)
        path = Path(folder) / f"speaker-{voice:03d}" / f"clip-{clip:05d}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, audio, 48_000, subtype="PCM_16")
        paths.append(path)
    return paths


def _phrase_loudness(rng: np.random.Generator, time: NDArray[np.float64]) -> Signal:
    """Slow loudness changes of +-3 dB [T]."""
    knots = np.arange(0, time[-1] + 1, 0.4)
    return (10 ** (np.interp(time, knots, rng.uniform(-3, 3, len(knots))) / 20)).astype(np.float32)


def _glottal_source(
    rng: np.random.Generator, voice: Voice, time: NDArray[np.float64], rate: int
) -> tuple[Signal, Signal]:
    """The derivative of the glottal flow [T] and how open the glottis is, from 0 to 1 [T].

    The flow is Rosenberg's (1971): a raised-cosine opening and a quarter-cosine closing that
    ends at once. The jump in the derivative at closure is what fills the band up to 24 kHz;
    spreading it over two samples keeps it from folding back.
    """
    knots = np.arange(0, time[-1] + 1, 0.15)
    melody = np.cumsum(rng.normal(0, 0.7, len(knots))) * voice.pitch_range
    melody -= np.convolve(melody, np.ones(7) / 7, mode="same") * 0.7
    fast = np.arange(0, time[-1] + 1, 0.006)
    wobble = rng.normal(0, voice.jitter, len(fast))
    declination = -voice.pitch_range * 0.5 * ((time / 2.5) % 1.0)
    octaves = np.interp(time, knots, melody) + np.interp(time, fast, wobble) + declination
    pitch = voice.pitch_hertz * 2.0 ** np.clip(octaves, -0.8, 0.8)
    step = pitch / rate
    phase = np.cumsum(step) % 1.0

    opening, closing = 0.42, 0.16
    rise = np.pi / opening * np.sin(np.pi * phase / opening) / 2
    fall = -np.pi / (2 * closing) * np.sin(np.pi * (phase - opening) / (2 * closing))
    closure = opening + closing
    flow = np.where(phase < opening, rise, np.where(phase < closure, fall, 0.0))
    jump = np.pi / (2 * closing)
    ahead = np.clip((phase - closure) / step, 0, 1)
    behind = np.clip((closure - phase) / step, 0, 1)
    flow -= np.where((phase >= closure) & (ahead < 1), jump * (1 - ahead) ** 2 / 2, 0.0)
    flow += np.where((phase < closure) & (behind < 1), jump * (1 - behind) ** 2 / 2, 0.0)
    openness = np.sin(np.pi * np.clip(phase / closure, 0, 1)) ** 2
    return (flow / jump).astype(np.float32), openness.astype(np.float32)


class _Frames:
    """Overlapping frames of 20 ms for filters that change with time."""

    def __init__(self, samples: int, rate: int) -> None:
        self._samples = samples
        self._hop = rate // 100
        self._size = 2 * self._hop
        self._count = samples // self._hop + 2
        self.time = np.arange(self._count) * self._hop / rate
        self.hertz = np.fft.rfftfreq(2 * self._size, 1 / rate).astype(np.float32)

    def filter(self, *sources: tuple[NDArray[Any], NDArray[Any]]) -> Signal:
        """The sum of all sources [T], each shaped by its gains [frames, bins]."""
        spectrum = 0
        for source, gain in sources:
            spectrum = spectrum + np.fft.rfft(self._cut(source), 2 * self._size) * gain
        shaped = np.fft.irfft(spectrum).astype(np.float32)
        # Gains have zero phase: a frame rings to both sides, so the later half of its buffer is
        # what came before it.
        shaped = np.roll(shaped, self._hop, axis=1).reshape(self._count, 4, self._hop)
        audio = np.zeros((self._count + 3, self._hop), dtype=np.float32)
        for part in range(4):
            audio[part : part + self._count] += shaped[:, part]
        start = 2 * self._hop
        return audio.ravel()[start : start + self._samples]

    def _cut(self, source: Signal) -> Signal:
        padded = np.zeros((self._count + 1) * self._hop, dtype=np.float32)
        padded[self._hop : self._hop + self._samples] = source
        halves = padded.reshape(self._count + 1, self._hop)
        window = np.sin(np.pi * (np.arange(self._size) + 0.5) / self._size) ** 2
        return np.concatenate([halves[:-1], halves[1:]], axis=1) * window.astype(np.float32)


def _tract_gain(score: Score, voice: Voice, frames: _Frames) -> Signal:
    """The vocal tract [frames, bins]: three moving formants, and fixed weaker ones above."""
    decibels = np.zeros((len(frames.time), len(frames.hertz)), dtype=np.float32)
    for name, width, height in (("f1", 110, 19), ("f2", 140, 20), ("f3", 200, 17)):
        centre = score.track(name, frames.time)[:, None] * np.float32(voice.tract_scale)
        decibels += np.float32(height) / (1 + ((frames.hertz - centre) / np.float32(width)) ** 2)
    spacing = 1050 * voice.tract_scale
    above = np.clip((frames.hertz - 3000 * voice.tract_scale) / 800, 0, 1)
    ripple = 5.0 * np.cos(2 * np.pi * frames.hertz / spacing) * np.exp(-frames.hertz / 9000)
    return 10 ** ((decibels + (above * ripple).astype(np.float32)) / np.float32(20))


def _voice_tilt(voice: Voice, hertz: Signal) -> Signal:
    """Gain of the glottal pulses [bins], on top of the 6 dB per octave they fall by themselves."""
    octaves = np.log2(np.maximum(hertz, 300.0) / 300.0)
    return (10 ** (voice.tilt_db_per_octave * octaves / 20)).astype(np.float32)


def _breath_colour(hertz: Signal) -> Signal:
    """Gain of breath noise [bins]: weak below 2 kHz, slowly falling above 6 kHz."""
    rising = np.clip(np.maximum(hertz, 50.0) / 2000, 0.0, 1.0)
    return (rising / np.sqrt(1 + (hertz / 9000) ** 4)).astype(np.float32)


def _fricative_gain(score: Score, voice: Voice, frames: _Frames) -> Signal:
    """Gain of the noise at a constriction [frames, bins]: onset, peak and fall of the phone."""
    hertz = np.maximum(frames.hertz, 30.0)
    scale = voice.tract_scale**0.7
    low, peak = (
        score.track(name, frames.time)[:, None] * np.float32(scale)
        for name in ("low_hertz", "peak_hertz")
    )
    fall = score.track("fall_db_per_octave", frames.time)[:, None]
    octaves = np.log2(hertz / peak)
    below = np.log2(low / peak)
    decibels = np.where(octaves > 0, fall * octaves, 14 * np.maximum(-octaves / below, -4))
    return 10 ** (decibels.astype(np.float32) / np.float32(20))
