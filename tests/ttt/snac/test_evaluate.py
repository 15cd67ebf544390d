"""A clip's numbers on hand-made signals and against the published package."""

import numpy as np
import pytest
import torch
from snac import SNAC

from ttt.audio import resample
from ttt.errors import UserError
from ttt.snac.decode import decode_pieces
from ttt.snac.evaluate import EvaluationClip, Evaluator, Unmeasurable
from ttt.snac.evaluation.systems import OURS_WITHOUT_FLOOR
from ttt.snac.evaluation.trick_levels import GRID, Folding, Level, at_level
from ttt.snac.evaluation.tricks import add_trick, white_noise, zero_stuffed
from ttt.snac.geometry import CodeGeometry
from ttt.snac.load import LoadedCodec, weights_sha256
from ttt.snac.metrics import all_metrics
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.verdict import BASELINE, CEILING, OURS, OURS_24K, SILENCE


def _codec(model: SNAC) -> LoadedCodec:
    return LoadedCodec(model, "nano", weights_sha256(model), CodeGeometry.of(model))


def _codes(n_coarse: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 64, (n_coarse, 7)).astype(np.int16)


def _noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(1).standard_normal(samples)).astype(np.float32)


def test_an_untrained_interp_decoder_equals_resampling_exactly(nano_snac: SNAC) -> None:
    evaluator = Evaluator(Decoder48k.from_snac(nano_snac), _codec(nano_snac))
    clip = EvaluationClip("a", _codes(9), _noise(9 * 4096 - 1000))
    row = evaluator.measure(clip)
    assert list(row) == [OURS, BASELINE, CEILING, SILENCE, GRID]
    assert row[OURS] == row[BASELINE]


def test_rows_hold_the_tricks_beside_the_untouched_decoder(nano_snac: SNAC) -> None:
    """Also when the decoder measured is another: the published package's output, by hand."""
    codes, samples = _codes(9), 9 * 4096 - 1000
    truth = torch.from_numpy(_noise(samples))
    scales = interleaved_to_codes(torch.from_numpy(codes)[None], CodeGeometry.of(nano_snac))
    with torch.no_grad(), deterministic(nano_snac):
        audio_24k = nano_snac.decode(scales)[0, 0]
    noise = white_noise("clip", samples)
    image = zero_stuffed(audio_24k)[:samples]
    folding = Folding(-20, falls=True)
    resampled = resample(audio_24k, 24_000, 48_000)[:samples]
    expected = all_metrics(add_trick(resampled, image, noise, folding, -40)[None], truth[None])
    evaluator = Evaluator(Decoder48k.from_snac(nano_snac, init="random"), _codec(nano_snac))
    row = evaluator.measure(EvaluationClip("clip", codes, truth.numpy()))
    found = at_level(row, Level(folding, -40, 0.0, None, at_end=False))
    assert found is not None
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(float(value), abs=0.01), metric
    assert row[SILENCE]["l1"] == pytest.approx(float(truth.abs().mean()))
    assert row[SILENCE]["env_r"] == 0


def test_the_baseline_is_the_published_package_resampled(nano_snac: SNAC) -> None:
    codes, samples = _codes(9), 9 * 4096 - 1000
    audio = Evaluator(Decoder48k.from_snac(nano_snac), _codec(nano_snac)).render(
        EvaluationClip("a", codes, _noise(samples))
    )
    scales = interleaved_to_codes(torch.from_numpy(codes)[None], CodeGeometry.of(nano_snac))
    with torch.no_grad(), deterministic(nano_snac):
        expected = resample(nano_snac.decode(scales), 24_000, 48_000)[0, 0, :samples]
    assert np.abs(audio[BASELINE] - expected.numpy()).max() < 1e-6


def test_a_copy_of_the_truth_has_distance_zero(nano_snac: SNAC) -> None:
    evaluator = Evaluator(Decoder48k.from_snac(nano_snac), _codec(nano_snac))
    codes = _codes(6)
    decoded = torch.cat(list(decode_pieces(Decoder48k.from_snac(nano_snac).eval(), codes)))
    row = evaluator.measure(EvaluationClip("copy", codes, decoded.numpy()))
    for metric in ("lsd", "lsd_lf", "lsd_hf", "l1"):
        assert row[OURS][metric] == 0
    assert row[OURS]["si_sdr"] >= 99


def test_true_audio_below_12_khz_survives_24_khz_and_above_does_not(nano_snac: SNAC) -> None:
    evaluator = Evaluator(Decoder48k.from_snac(nano_snac), _codec(nano_snac))
    time = np.arange(8 * 4096) / 48_000

    def ceiling(hertz: float) -> dict[str, float | None]:
        tone = (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        return evaluator.measure(EvaluationClip("tone", _codes(8), tone))[CEILING]

    assert ceiling(3_000)["si_sdr"] > 40
    lost = ceiling(18_100)  # 18,000 would repeat after 8 samples, none of them typical
    assert lost["si_sdr"] < 0
    assert lost["l1"] == pytest.approx(0.5 * 2 / np.pi, rel=0.02)


def test_tuned_24k_output_is_a_row_of_its_own(nano_snac: SNAC) -> None:
    decoder = Decoder48k.from_snac(nano_snac)
    with torch.no_grad():
        decoder.tail[0].alpha.add_(0.3)
    codes = _codes(6)
    clip = EvaluationClip("a", codes, _noise(6 * 4096))
    audio = Evaluator(decoder, _codec(nano_snac)).render(clip)
    scales = interleaved_to_codes(torch.from_numpy(codes)[None], decoder.geometry)
    with deterministic(decoder):
        expected = resample(decoder.decode_24k(scales), 24_000, 48_000)[0, 0]
    assert np.abs(audio[OURS_24K] - expected.numpy()).max() < 1e-6
    assert np.abs(audio[OURS_24K] - audio[BASELINE]).max() > 1e-4


def test_a_decoder_with_a_floor_has_a_row_with_and_one_without(nano_snac: SNAC) -> None:
    decoder = Decoder48k.from_snac(nano_snac, init="random").eval()
    clip = EvaluationClip("a", _codes(23), _noise(23 * 4096 - 700))
    plain = Evaluator(decoder, _codec(nano_snac))
    expected, without = plain.measure(clip), plain.render(clip)[OURS]
    assert OURS_WITHOUT_FLOOR not in expected
    decoder.noise_floor = NoiseFloor(tuple(-50.0 - band for band in range(16)), seed=7)
    head = decoder.head
    evaluator = Evaluator(decoder, _codec(nano_snac))
    assert decoder.head is head, "the decoder is left as it is"
    row, audio = evaluator.measure(clip), evaluator.render(clip)
    assert list(row) == [OURS, OURS_WITHOUT_FLOOR, BASELINE, CEILING, SILENCE, GRID]
    assert row[OURS_WITHOUT_FLOOR] == expected[OURS]
    assert np.array_equal(audio[OURS_WITHOUT_FLOOR], without)
    pieces = torch.cat(list(decode_pieces(decoder, clip.codes)))[: len(without)]
    assert np.array_equal(audio[OURS], pieces.numpy()), "it is what a user decodes"
    floor = decoder.noise_floor.noise(0, len(without), torch.zeros(1)).numpy()
    assert np.abs(audio[OURS] - without - floor).max() < 1e-6
    for other in (BASELINE, CEILING, SILENCE, GRID):
        assert row[other] == expected[other]


def test_measuring_twice_gives_the_same_numbers(nano_snac: SNAC) -> None:
    evaluator = Evaluator(Decoder48k.from_snac(nano_snac, init="random"), _codec(nano_snac))
    clip = EvaluationClip("a", _codes(6), _noise(6 * 4096))
    first = evaluator.measure(clip)
    torch.manual_seed(99)
    assert evaluator.measure(clip) == first


def test_silence_has_no_si_sdr_and_short_clips_are_refused(nano_snac: SNAC) -> None:
    evaluator = Evaluator(Decoder48k.from_snac(nano_snac), _codec(nano_snac))
    silent = evaluator.measure(EvaluationClip("s", _codes(4), np.zeros(4 * 4096, np.float32)))
    assert silent[OURS]["si_sdr"] is None
    assert silent[OURS]["lsd"] is not None
    with pytest.raises(Unmeasurable, match="too short: 4,095 samples, at least 4,096 are needed"):
        evaluator.measure(EvaluationClip("x", _codes(1), np.zeros(4095, np.float32)))


def test_a_decoder_of_another_codec_is_refused(nano_snac: SNAC) -> None:
    decoder = Decoder48k.from_snac(nano_snac)
    decoder.codec_sha256 = "0" * 64
    with pytest.raises(UserError, match=r"made from a codec with weights .* name the codec"):
        Evaluator(decoder, _codec(nano_snac))
