"""What the synthetic voice says: speakers, phones, and syllables laid out in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Voice:
    """What stays the same while one speaker speaks."""

    pitch_hertz: float
    pitch_range: float
    tract_scale: float
    """Formants relative to an average tract: short tracts have larger values."""
    tilt_db_per_octave: float
    breath: float
    jitter: float
    syllable_seconds: float

    @classmethod
    def of(cls, speaker: int) -> Voice:
        """The voice of speaker number `speaker`, for ever the same."""
        rng = np.random.default_rng([speaker, 2])
        pitch = float(np.exp(rng.uniform(np.log(85), np.log(260))))
        return cls(
            pitch_hertz=pitch,
            pitch_range=rng.uniform(0.12, 0.3),
            # High voices come with short tracts.
            tract_scale=0.9 + 0.28 * (np.log(pitch / 85) / np.log(3.1)) + rng.normal(0, 0.03),
            tilt_db_per_octave=rng.uniform(-4.0, -1.2),
            breath=10 ** rng.uniform(-2.3, -1.6),
            jitter=rng.uniform(0.004, 0.012),
            syllable_seconds=rng.uniform(0.16, 0.26),
        )


@dataclass(frozen=True)
class Phone:
    """The targets that the tracks glide to while a phone lasts."""

    seconds: float
    f1: float = 500.0
    f2: float = 1500.0
    f3: float = 2500.0
    voicing: float = 0.0
    aspiration: float = 0.0
    frication: float = 0.0
    low_hertz: float = 3000.0
    """Where the noise of a fricative sets in."""
    peak_hertz: float = 6000.0
    fall_db_per_octave: float = -8.0
    """How the noise falls above its peak."""
    glide_seconds: float = 0.035


class Score:
    """Phones laid out in time, read as tracks: each target held, with glides between."""

    def __init__(self, phones: list[Phone]) -> None:
        self._phones = phones
        ends = np.cumsum([phone.seconds for phone in phones])
        starts = ends - [phone.seconds for phone in phones]
        glides = np.minimum([p.glide_seconds for p in phones], [0.8 * p.seconds for p in phones])
        self._knots = np.stack([starts + glides / 2, ends - glides / 2], axis=1).ravel()

    def track(self, name: str, time: NDArray[np.float64]) -> NDArray[np.float32]:
        """The value of one target at `time` [T] in seconds."""
        targets = np.repeat([getattr(phone, name) for phone in self._phones], 2)
        return np.interp(time, self._knots, targets).astype(np.float32)


def syllables(rng: np.random.Generator, voice: Voice, seconds: float) -> list[Phone]:
    """Phones that fill `seconds`: breath groups of a few syllables with pauses between."""
    phones = [Phone(seconds=rng.uniform(0.03, 0.12))]
    while sum(phone.seconds for phone in phones) < seconds:
        for _ in range(rng.integers(3, 9)):
            pace = voice.syllable_seconds * rng.uniform(0.7, 1.4)
            vowel = _VOWELS[rng.integers(len(_VOWELS))]
            phones += _consonant(rng, pace, vowel)
            phones.append(_vowel(rng, pace, vowel))
            if rng.random() < 0.35:
                phones += _consonant(rng, pace, vowel)
        phones.append(Phone(seconds=rng.uniform(0.15, 0.5), glide_seconds=0.05))
    return phones


# Formants of eight vowels of an average adult (Peterson and Barney 1952, rounded), in Hz.
_VOWELS = (
    (300, 2300, 3000),
    (400, 2000, 2700),
    (550, 1850, 2500),
    (690, 1660, 2450),
    (730, 1100, 2450),
    (570, 840, 2400),
    (440, 1020, 2250),
    (310, 870, 2250),
)
_SONORANTS = (  # m, n, l, r, w, j: formants and loudness relative to a vowel
    (250, 1100, 2200, 0.35),
    (260, 1500, 2500, 0.35),
    (360, 1100, 2700, 0.55),
    (400, 1150, 1600, 0.55),
    (300, 700, 2200, 0.55),
    (280, 2250, 3000, 0.55),
)
_FRICATIVES = (  # s, sh, f, th, x: onset, peak, fall in dB per octave, level
    (3600, 7000, -10.0, 0.40),
    (1800, 3400, -10.0, 0.34),
    (1200, 8500, -6.0, 0.10),
    (1500, 9500, -7.0, 0.08),
    (900, 1900, -9.0, 0.20),
)
_BURSTS = (  # p, t, k: the same for the noise of a plosive's release
    (300, 900, -7.0, 0.45),
    (2500, 4500, -6.0, 0.60),
    (900, 2100, -8.0, 0.50),
)


def _vowel(rng: np.random.Generator, pace: float, vowel: tuple[float, float, float]) -> Phone:
    f1, f2, f3 = (formant * rng.normal(1, 0.04) for formant in vowel)
    return Phone(
        seconds=0.6 * pace, f1=f1, f2=f2, f3=f3, voicing=rng.uniform(0.7, 1.0), glide_seconds=0.05
    )


def _consonant(
    rng: np.random.Generator, pace: float, vowel: tuple[float, float, float]
) -> list[Phone]:
    """One consonant before or after `vowel`, whose formants the noises share."""
    f1, f2, f3 = vowel
    kind = rng.random()
    if kind < 0.30:
        f1, f2, f3, loudness = _SONORANTS[rng.integers(len(_SONORANTS))]
        return [Phone(seconds=0.35 * pace, f1=f1, f2=f2, f3=f3, voicing=loudness)]
    if kind < 0.65:
        low, peak, fall, level = _FRICATIVES[rng.integers(len(_FRICATIVES))]
        voiced = rng.random() < 0.35
        return [
            Phone(
                seconds=0.5 * pace, f1=300, f2=0.5 * (f2 + 1700), f3=f3,
                voicing=0.25 if voiced else 0.0, frication=level * (0.5 if voiced else 1.0),
                low_hertz=low, peak_hertz=peak, fall_db_per_octave=fall, glide_seconds=0.02,
            )
        ]  # fmt: skip
    if kind < 0.72:
        return [Phone(seconds=0.35 * pace, f1=f1, f2=f2, f3=f3, aspiration=0.35)]
    low, peak, fall, level = _BURSTS[rng.integers(len(_BURSTS))]
    voiced = rng.random() < 0.5
    noise = {"low_hertz": low, "peak_hertz": peak, "fall_db_per_octave": fall}
    closure = Phone(
        seconds=0.3 * pace, f1=200, f2=f2, f3=f3, voicing=0.06 if voiced else 0.0,
        glide_seconds=0.008, **noise,
    )  # fmt: skip
    burst = Phone(
        seconds=0.014, f1=300, f2=f2, f3=f3, frication=level, glide_seconds=0.003, **noise
    )
    if voiced:
        return [closure, burst]
    return [closure, burst, Phone(seconds=0.04, f1=f1, f2=f2, f3=f3, aspiration=0.4)]
