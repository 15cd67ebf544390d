"""A model that returns NaN is named: nothing turns it into silence or into codes of zero."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ttt.audio import flac_bytes, to_int16, write_wav
from ttt.errors import UserError
from ttt.numerics import refuse_nonfinite_audio, refuse_nonfinite_weights
from ttt.snac.decode import StreamingDecoder, decode_pieces, write_decoded
from ttt.snac.evaluate import EvaluationClip, Evaluator
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k, interleaved_to_codes
from ttt.snac.train.validation import _metric_sums

NUMBERS = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "write",
    [
        to_int16,
        lambda audio: flac_bytes(audio, 48_000),
        lambda audio: write_wav("never.wav", audio, 48_000),
        lambda audio: write_wav("never.wav", torch.from_numpy(audio), 48_000),
        lambda audio: refuse_nonfinite_audio(torch.from_numpy(audio), "the decoder"),
    ],
)
def test_no_audio_is_written_of_numbers_that_are_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: float,
    write: Callable[[np.ndarray], object],
) -> None:
    monkeypatch.chdir(tmp_path)
    audio = np.zeros(100, dtype=np.float32)
    write(audio)
    Path("never.wav").unlink(missing_ok=True)
    audio[70] = number
    with pytest.raises(UserError, match="NaN or infinite"):
        write(audio)
    assert not Path("never.wav").exists()
    assert to_int16(np.array([2.0, -2.0])).tolist() == [32767, -32768]


def _broken(number: float) -> Decoder48k:
    """A decoder whose weights are numbers as they are loaded, and whose output is none."""
    decoder = Decoder48k.from_snac(load_codec("tiny").model).eval()
    with torch.no_grad():
        next(iter(decoder.tail.parameters())).fill_(number)
    return decoder


@pytest.mark.parametrize("number", NUMBERS)
def test_a_decoder_that_gives_nan_writes_no_wav(tmp_path: Path, number: float) -> None:
    decoder = _broken(number)
    codes = np.zeros((80, decoder.geometry.codes_per_coarse), dtype=np.int16)
    with pytest.raises(UserError, match=r"the decoder gave .* samples .* NaN or infinite"):
        write_decoded(decoder, codes, tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="the decoder gave"):
        list(decode_pieces(decoder, codes))
    stream = StreamingDecoder(decoder)
    with pytest.raises(UserError, match="the decoder gave"):
        stream.push(interleaved_to_codes(torch.from_numpy(codes)[None], decoder.geometry))
    audio = np.zeros(48_000, dtype=np.float32)
    evaluator = Evaluator(decoder, load_codec("tiny"))
    with pytest.raises(UserError, match="the decoder gave"):
        evaluator.measure(EvaluationClip("a", codes, audio))
    with pytest.raises(UserError, match="the decoder gave"):
        evaluator.passage(EvaluationClip("a", codes, audio), 0.5, {})


def test_a_sound_decoder_still_writes_its_wav(tmp_path: Path) -> None:
    decoder = Decoder48k.from_snac(load_codec("tiny").model).eval()
    codes = np.zeros((3, decoder.geometry.codes_per_coarse), dtype=np.int16)
    write_decoded(decoder, codes, tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").frames == decoder.geometry.samples_48k(3)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weights_that_are_no_numbers_are_named(number: float, dtype: torch.dtype) -> None:
    weights = {"good": torch.ones(2, dtype=dtype), "count": torch.tensor(3)}
    refuse_nonfinite_weights(weights, "place")
    weights["bad.weight"] = torch.tensor([1.0, number, number], dtype=dtype)
    with pytest.raises(UserError, match=r"place: 2 of the 3 values of bad\.weight are NaN or inf"):
        refuse_nonfinite_weights(weights, "place")


def test_a_clip_of_nan_makes_the_validations_mean_none_and_not_better() -> None:
    target = torch.randn(3, 8192, generator=torch.Generator().manual_seed(0))
    estimate = target * 0.9
    total, weight = _metric_sums(estimate, target, [8192] * 3)["l1"]
    estimate[1, 5] = torch.nan
    broken, same_weight = _metric_sums(estimate, target, [8192] * 3)["l1"]
    assert np.isfinite(total)
    assert np.isnan(broken)
    assert weight == same_weight
