"""Bandwidths of recordings that were limited in every way that comes to people's disks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ttt.audio import resample, to_int16
from ttt.snac.cache.bandwidth import BandwidthHours, add_facts, bandwidth_hz
from ttt.snac.cache.inputs import ClipInput, LeftOut, PreparedClip
from ttt.synthetic.voice import utterance

Effect = Callable[[np.ndarray], np.ndarray]
RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000)
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module", params=[0, 1])
def voice(request: pytest.FixtureRequest) -> np.ndarray:
    return utterance(request.param, 2.0)


def _through(rate: int, *, sharp: bool) -> Effect:
    def limit(audio: np.ndarray) -> np.ndarray:
        low = resample(torch.from_numpy(np.float32(audio)), 48_000, rate, sharp=sharp)
        return resample(low, rate, 48_000, sharp=sharp).numpy()

    return limit


def _dither(audio: np.ndarray) -> np.ndarray:
    return audio + (RANDOM.random(len(audio)) - RANDOM.random(len(audio))) / 32768


def _hiss(level_db: float) -> Effect:
    return lambda audio: audio + RANDOM.normal(0, 10 ** (level_db / 20), len(audio))


def _held(rate: int) -> Effect:
    """Every sample repeated: the mirror images are nearly as loud as the speech."""

    def limit(audio: np.ndarray) -> np.ndarray:
        low = resample(torch.from_numpy(np.float32(audio)), 48_000, rate, sharp=True).numpy()
        return np.repeat(low, 48_000 // rate)

    return limit


def _lowpass(hertz: float) -> Effect:
    """A brick wall, as MP3 encoders have one."""

    def limit(audio: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(audio)
        spectrum[int(hertz * len(audio) / 48_000) :] = 0
        return np.fft.irfft(spectrum, len(audio))

    return limit


def _floors() -> dict[str, Effect]:
    return {"bare": lambda audio: audio, "dithered": _dither, "hiss -70 dB": _hiss(-70)}


@pytest.mark.parametrize("floor", _floors())
@pytest.mark.parametrize("sharp", [True, False], ids=["sharp", "default"])
@pytest.mark.parametrize("rate", RATES)
def test_resampled_speech_reaches_half_its_old_rate(
    voice: np.ndarray, rate: int, sharp: bool, floor: str
) -> None:
    found = bandwidth_hz(to_int16(_floors()[floor](_through(rate, sharp=sharp)(voice))))
    assert found is not None
    assert 0.9 * rate / 2 <= found <= rate / 2


@pytest.mark.parametrize("rate", [8_000, 12_000, 16_000, 24_000])
def test_mirror_images_of_speech_are_not_sound(voice: np.ndarray, rate: int) -> None:
    assert bandwidth_hz(to_int16(_held(rate)(voice))) == rate // 2


@pytest.mark.parametrize("floor", _floors())
@pytest.mark.parametrize("hertz", [11_000, 16_000, 20_000])
def test_a_low_pass_is_found(voice: np.ndarray, hertz: int, floor: str) -> None:
    found = bandwidth_hz(to_int16(_floors()[floor](_lowpass(hertz)(voice))))
    assert found is not None
    assert abs(found - hertz) <= 500


@pytest.mark.parametrize("effect", [*_floors().values(), lambda audio: audio * 0.05])
def test_speech_of_the_full_band_reaches_its_end(voice: np.ndarray, effect: Effect) -> None:
    found = bandwidth_hz(to_int16(effect(voice)))
    assert found is not None
    assert found >= 20_000


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0.3, 4.0])
def test_a_steady_sound_is_measured_against_its_quietest_band(rate: int, seconds: float) -> None:
    noise = RANDOM.normal(0, 0.1, round(seconds * 48_000))
    found = bandwidth_hz(to_int16(_through(rate, sharp=True)(noise)))
    assert found is not None
    assert 0.9 * rate / 2 <= found <= rate / 2
    assert bandwidth_hz(to_int16(noise)) == 24_000


@pytest.mark.parametrize(
    "audio",
    [
        np.zeros(48_000),
        np.full(48_000, 0.1 / 32768),
        RANDOM.integers(0, 2, 48_000) / 32768,
        RANDOM.normal(0, 0.1, 2000),
        np.zeros(0),
    ],
    ids=["zeros", "below a step", "one step of noise", "too short", "empty"],
)
def test_of_silence_nothing_is_said(audio: np.ndarray) -> None:
    assert bandwidth_hz(to_int16(audio)) is None


def test_a_long_clip_costs_no_more_memory_than_a_minute(voice: np.ndarray) -> None:
    hour = np.tile(to_int16(_through(16_000, sharp=True)(voice)), 300)
    assert bandwidth_hz(hour) in (7_750, 8_000)


def test_recordings(shared_data: Path) -> None:
    """lyra_sample1 claims 48 kHz and was 16 kHz once; a piano has nothing up there to record."""
    found = {
        path.stem: bandwidth_hz(to_int16(soundfile.read(path)[0]))
        for path in sorted((shared_data / "audio48k").glob("*.flac"))
    }
    assert found.pop("lyra_sample1") == 8_000
    piano = found.pop("visqol_moonlight48_stereo")
    assert piano is not None
    assert 10_000 < piano < 16_000
    assert all(reached is not None and reached >= 20_000 for reached in found.values()), found


def _prepared(audio: np.ndarray) -> Callable[[ClipInput], PreparedClip]:
    return lambda clip: PreparedClip(clip_id=clip.clip_id, audio=to_int16(audio))


def test_clips_below_the_minimum_are_left_out_with_what_they_reach(voice: np.ndarray) -> None:
    clip = ClipInput(clip_id="a/b.wav", speaker="a")
    narrow = _prepared(_through(16_000, sharp=True)(voice))
    with pytest.raises(LeftOut) as left_out:
        add_facts(narrow, 16_000, clip)
    assert left_out.value.reason == "narrow band"
    assert left_out.value.note in (
        "reaches 7,750 Hz, input.min_bandwidth_hz is 16,000",
        "reaches 8,000 Hz, input.min_bandwidth_hz is 16,000",
    )
    assert left_out.value.seconds == 2.0
    with pytest.raises(LeftOut, match="its bandwidth is unknown"):
        add_facts(_prepared(np.zeros(48_000)), 16_000, clip)
    facts = add_facts(_prepared(voice), 16_000, clip).facts
    assert facts is not None
    assert (facts.speaker, facts.bandwidth_hz) == ("a", 24_000)
    facts = add_facts(narrow, None, clip).facts
    assert facts is not None
    assert facts.bandwidth_hz in (7_750, 8_000)


@pytest.mark.parametrize(
    ("bandwidths", "share", "sentence"),
    [
        ([24e3, 16e3, 8e3], 2 / 3, "bandwidth: 66.7% of the hours reach 16 kHz"),
        (
            [24e3, 8e3, np.nan],
            0.5,
            "bandwidth: 50.0% of the hours reach 16 kHz; of 33.3% it is unknown",
        ),
        (
            [np.nan] * 3,
            None,
            "bandwidth: unknown; how many hours reach 16 kHz was not measured while caching",
        ),
    ],
)
def test_hours_are_added_up_and_the_unknown_is_said(
    bandwidths: list[float], share: float | None, sentence: str
) -> None:
    hours = BandwidthHours.of(np.full(3, 48_000 * 3600), np.array(bandwidths))
    assert hours.share_reaching_16_khz == (None if share is None else pytest.approx(share))
    assert hours.reaching_16_khz + hours.below_16_khz + hours.unknown == pytest.approx(3)
    assert hours.sentence() == sentence
