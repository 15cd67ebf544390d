"""Pieces equal the whole decode, files hold what was decoded."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from snac import SNAC

from ttt.audio import to_int16
from ttt.errors import UserError
from ttt.snac.decode import decode_pieces, write_decoded
from ttt.snac.model import Decoder48k, deterministic, interleaved_to_codes


def _codes(n_coarse: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 64, (n_coarse, 7)).astype(np.int16)


@pytest.mark.parametrize("piece_coarse", [1, 5, 64])
def test_pieces_are_the_whole_decode(nano_snac: SNAC, piece_coarse: int) -> None:
    decoder = Decoder48k.from_snac(nano_snac, init="random").eval()
    codes = _codes(17)
    pieces = torch.cat(list(decode_pieces(decoder, codes, piece_coarse)))
    with deterministic(decoder):
        whole = decoder.decode(
            interleaved_to_codes(torch.from_numpy(codes)[None], decoder.geometry)
        )
    assert pieces.shape == (17 * 4096,)
    assert (pieces - whole[0, 0]).abs().max() < 1e-5


def test_a_file_holds_the_real_samples_and_no_padding(nano_snac: SNAC, tmp_path: Path) -> None:
    decoder = Decoder48k.from_snac(nano_snac).eval()
    codes, n_samples = _codes(70), 70 * 4096 - 1234
    path = tmp_path / "speaker" / "clip.wav"
    assert write_decoded(decoder, codes, path, n_samples) == n_samples / 48_000
    audio, rate = soundfile.read(path, dtype="int16")
    whole = torch.cat(list(decode_pieces(decoder, codes, 70))).numpy()
    assert rate == 48_000
    assert audio.shape == (n_samples,)
    assert np.abs(audio.astype(int) - to_int16(whole)[:n_samples]).max() <= 1
    assert [file.name for file in path.parent.iterdir()] == ["clip.wav"]
    write_decoded(decoder, _codes(3), tmp_path / "all.wav")
    assert soundfile.info(tmp_path / "all.wav").frames == 3 * 4096


def test_memory_does_not_grow_with_the_clip(nano_snac: SNAC) -> None:
    decoder = Decoder48k.from_snac(nano_snac).eval()
    largest = [
        max(len(piece) for piece in decode_pieces(decoder, _codes(n_coarse), 8))
        for n_coarse in (40, 80)
    ]
    assert largest[0] == largest[1]


def test_a_failed_decode_leaves_no_file(nano_snac: SNAC, tmp_path: Path) -> None:
    decoder = Decoder48k.from_snac(nano_snac).eval()
    codes = _codes(4)
    codes[3, 6] = 64
    with pytest.raises(ValueError, match="this codec has 0 to 63"):
        write_decoded(decoder, codes, tmp_path / "bad.wav")
    (tmp_path / "file").write_text("")
    with pytest.raises((UserError, OSError)):
        write_decoded(decoder, _codes(2), tmp_path / "file" / "bad.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
