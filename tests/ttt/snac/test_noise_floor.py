"""A floor is the same noise however a clip is cut, at the levels asked for, and off by one key."""

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ttt.errors import UserError
from ttt.snac import export
from ttt.snac.decode import StreamingDecoder, decode_pieces
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes
from ttt.snac.noise_floor import FloorOrigin, NoiseFloor, white_noise

FLAT = NoiseFloor((-60.0,) * 16)
TILTED = NoiseFloor(tuple(-45.0 - 3 * band for band in range(16)), seed=4)
UNEVEN = NoiseFloor((-70.0, -66.0, -74.0, -62.0, *[-58.0] * 5, -63.0, *[-67.0] * 6))
HALF = NoiseFloor((*[-60.0] * 8, *[None] * 8))
LIKE = torch.zeros(1, dtype=torch.float64)


def splitmix(place: int, start: int) -> float:
    """Steele et al. 2014 with whole numbers of Python, `place` steps of the counter on."""
    mask = (1 << 64) - 1
    z = (start + place * 0x9E3779B97F4A7C15) & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    top = (z ^ (z >> 31)) >> 40
    return math.sqrt(3) * ((top - (top >> 23 << 24)) + 0.5) / 2**23


def start_of(seed: int) -> int:
    mask = (1 << 64) - 1
    z = (seed + 1) * 0xD1342543DE82EF95 & mask
    for _ in range(2):
        z = (z ^ (z >> 32)) * 0xDABA0B6EB09322E3 & mask
    return z ^ (z >> 32)


def band_levels(noise: np.ndarray) -> list[float]:
    """dB of the density in each band, 0 dB that of white noise of RMS 1: Welch, by hand."""
    size = 4096
    window = np.blackman(size)
    frames = np.lib.stride_tricks.sliding_window_view(noise, size)[:: size // 2]
    power = np.mean(np.abs(np.fft.rfft(frames * window)) ** 2, axis=0) / np.sum(window**2)
    hertz = np.arange(size // 2 + 1) * 48_000 / size
    edges = np.linspace(12_600, 24_000, 17)
    edges[-1] += 1
    return [
        10 * math.log10(power[(hertz >= low) & (hertz < high)].mean())
        for low, high in itertools.pairwise(edges)
    ]


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_the_white_noise_is_splitmix_of_the_absolute_sample(seed):
    places = [-1_000_003, -1, 0, 1, 2, 48_000, 10**9, 2**40 + 7, 2**62]
    expected = [splitmix(place, start_of(seed)) for place in places]
    assert white_noise(torch.tensor(places), seed).tolist() == expected


@pytest.mark.parametrize("floor", [FLAT, TILTED, UNEVEN])
def test_sixty_seconds_have_the_levels_asked_for(floor):
    measured = band_levels(floor.noise(0, 60 * 48_000, LIKE).numpy())
    assert measured == pytest.approx(floor.levels_db, abs=0.5)


def test_a_band_without_a_level_and_all_below_12_300_hz_stay_empty():
    noise = HALF.noise(5, 10 * 48_000, LIKE).numpy()
    levels = band_levels(noise)
    assert levels[:8] == pytest.approx([-60] * 8, abs=0.5)
    assert max(levels[9:]) < -110
    power = np.abs(np.fft.rfft(noise * np.blackman(len(noise)))) ** 2
    power /= np.sum(np.blackman(len(noise)) ** 2)
    below = power[:123_000]
    assert 10 * math.log10(below.mean()) < -120
    assert 10 * math.log10(below[:120_000].max()) < -110


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 0), (torch.float32, 0)])
def test_any_cut_gives_the_same_samples(dtype, tolerance):
    like = torch.zeros(1, dtype=dtype)
    whole = TILTED.noise(-4000, 60_000, like)
    draws = np.random.default_rng(0)
    cuts = [
        0,
        1,
        3999,
        4000,
        4001,
        7551,
        7552,
        7553,
        11_552,
        15_104,
        *draws.integers(0, 60_000, 20),
    ]
    for first in map(int, cuts):
        for samples in (0, 1, 4096, int(draws.integers(1, 30_000))):
            piece = TILTED.noise(first - 4000, samples, like)
            expected = whole[first : first + samples]
            assert piece.dtype == dtype
            assert (piece[: len(expected)] - expected).abs().sum() <= tolerance


def test_it_has_no_short_period_and_follows_nothing_of_itself():
    noise = white_noise(torch.arange(1 << 21), 0).numpy()
    assert noise.mean() == pytest.approx(0, abs=5 / math.sqrt(len(noise)))
    assert noise.var() == pytest.approx(1, abs=0.01)
    spectrum = np.fft.rfft(noise, 2 * len(noise))
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[1:1_000_000]
    overlap = len(noise) - np.arange(1, 1_000_000)
    # A million lags of standard deviation 1: the largest is near 4.9.
    assert np.abs(correlation / np.sqrt(overlap)).max() < 6


def test_another_seed_is_another_noise():
    first, second = (white_noise(torch.arange(1 << 20), seed).numpy() for seed in (0, 1))
    spectra = [np.fft.rfft(noise, 1 << 21) for noise in (first, second)]
    correlation = np.fft.irfft(spectra[0] * spectra[1].conj()) / (1 << 20)
    assert np.abs(correlation).max() < 0.01, "nor is it the same noise, later"


def test_two_processes_make_the_same_bytes():
    script = (
        "import torch; torch.manual_seed({0}); torch.set_num_threads({0});"
        "from ttt.snac.noise_floor import NoiseFloor;"
        "floor = NoiseFloor(tuple(-45.0 - 3 * b for b in range(16)), seed=4);"
        "print(floor.noise(12_345, 9000, torch.zeros(1)).numpy().tobytes().hex())"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", script.format(n)], check=True, capture_output=True, text=True
        ).stdout.strip()
        for n in (1, 2)
    ]
    here = TILTED.noise(12_345, 9000, torch.zeros(1)).numpy().tobytes().hex()
    assert texts == [here, here]


def with_floor(snac, dtype=torch.float32, floor=TILTED):
    model = Decoder48k.from_snac(snac.to(dtype), init="random").eval()
    model.noise_floor = floor
    return model


def random_codes(n_coarse: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (n_coarse, 7)).astype(np.int16)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("piece_coarse", [1, 2, 5, 64])
def test_pieces_and_streams_equal_the_whole(nano_snac, dtype, tolerance, piece_coarse):
    model, codes = with_floor(nano_snac, dtype), random_codes(23)
    tensors = interleaved_to_codes(torch.from_numpy(codes)[None], model.geometry)
    with deterministic(model):
        whole = model.decode(tensors)
        plain = model.forward(tensors)[0]
    assert (whole - plain)[0, 0].std() > 1e-4, "the floor is there"
    pieces = torch.cat(list(decode_pieces(model, codes, piece_coarse)))
    assert (pieces - whole[0, 0]).abs().max() < tolerance
    stream, heard = StreamingDecoder(model), []
    for start in range(0, 23, piece_coarse):
        chunk = torch.from_numpy(codes[start : start + piece_coarse])[None]
        heard.append(stream.push(interleaved_to_codes(chunk, model.geometry)))
    assert (torch.cat([*heard, stream.finish()], dim=-1) - whole).abs().max() < tolerance


def test_slices_of_a_batch_begin_each_at_its_own_place(nano_snac):
    model, codes = with_floor(nano_snac, torch.float64), random_codes(30)
    geometry = model.geometry
    tensors = interleaved_to_codes(torch.from_numpy(codes)[None], geometry)
    starts = [0, 4, 11]
    slices = torch.stack([torch.from_numpy(codes[start : start + 16]) for start in starts])
    places = [geometry.samples_48k(start) for start in starts]
    reach = model.reach_samples_48k
    with deterministic(model):
        whole = model.decode(tensors)[0, 0]
        batch = model.decode(interleaved_to_codes(slices, geometry), first_sample=places)[:, 0]
        with pytest.raises(ValueError, match="is shorter"):
            model.decode(interleaved_to_codes(slices, geometry), first_sample=places[:2])
    for row, place in zip(batch, places, strict=True):
        inner = row[reach:-reach]
        assert len(inner) > 10_000
        assert (inner - whole[place + reach : place + len(row) - reach]).abs().max() < 1e-12


def test_deterministic_leaves_the_floor_and_training_knows_nothing_of_it(nano_snac):
    model, codes = with_floor(nano_snac), random_codes(5)
    tensors = interleaved_to_codes(torch.from_numpy(codes)[None], model.geometry)
    with deterministic(model):
        first, second = model.decode(tensors), model.decode(tensors)
        plain, audio_24k = model.forward(tensors)
        assert torch.equal(first, second)
        expected = plain[0, 0] + TILTED.noise(0, plain.shape[-1], plain)
        assert torch.equal(first[0, 0], expected)
        assert torch.equal(model.decode_both(tensors)[1], audio_24k)
    assert "noise_floor" not in " ".join(model.state_dict())


def test_an_export_carries_it_and_one_key_switches_it_off(nano_snac, tmp_path):
    origin = FloorOrigin(windows=7, folds=5, lsd_hf_without=1.9, lsd_hf_with=1.6)
    floor = dataclasses.replace(HALF, seed=2, origin=origin)
    model, codes = with_floor(nano_snac, floor=floor), random_codes(4)
    tensors = interleaved_to_codes(torch.from_numpy(codes)[None], model.geometry)
    model.save_pretrained(tmp_path / "with")
    assert export.read_config(tmp_path / "with").noise_floor == floor
    loaded = Decoder48k.from_pretrained(tmp_path / "with")
    off = Decoder48k.from_pretrained(tmp_path / "with", noise_floor=False)
    with deterministic(model), deterministic(loaded), deterministic(off):
        assert torch.equal(loaded.decode(tensors), model.decode(tensors))
        assert torch.equal(off.decode(tensors), model.forward(tensors)[0])
    loaded.save_pretrained(tmp_path / "again")
    again, before = (tmp_path / name / "config.json" for name in ("again", "with"))
    assert again.read_bytes() == before.read_bytes()
    model.noise_floor = None
    model.save_pretrained(tmp_path / "without")
    assert "noise_floor" not in json.loads((tmp_path / "without" / "config.json").read_text())
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    "spoilt, said",
    [
        ({"levels_db": [-60.0] * 15}, "a noise floor has 16 levels, got 15"),
        ({"levels_db": [None] * 16}, "not all null"),
        ({"levels_db": [3.0] * 16}, "at most 0 dB"),
        ({"levels_db": [float("-inf")] * 16}, "finite"),
        ({"levels_db": ["loud"] * 16}, "damaged"),
        ({"origin": {"windows": 3}}, "damaged"),
    ],
)
def test_a_damaged_floor_is_one_sentence(nano_snac, tmp_path, spoilt, said):
    with_floor(nano_snac).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["noise_floor"] |= spoilt
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=said) as refused:
        Decoder48k.from_pretrained(tmp_path)
    assert "config.json: damaged" in str(refused.value)
