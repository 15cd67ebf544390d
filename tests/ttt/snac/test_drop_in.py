"""Somebody's streaming loop, written against snac.SNAC, runs with our decoder in its place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from snac import SNAC
from torch import nn

from tests.conftest import build_nano_snac
from ttt.audio import resample
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.orpheus import from_codes


def orpheus_loop(model: nn.Module, ids: list[int]) -> np.ndarray:
    """The published way: a window of 28 tokens after every seventh, its second frame kept.

    As in Orpheus-TTS's decoder.py, whose 2048:4096 are here the model's own samples of a frame.
    """
    device = next(model.parameters()).device
    samples, buffer, heard = 4 * int(model.hop_length), [], []
    for count, token in enumerate(ids, start=1):
        buffer.append(token - 128_266 - 4096 * ((count - 1) % 7))
        if count % 7 or count < 28:
            continue
        codes_0, codes_1, codes_2 = [], [], []
        for i in range(4):
            frame = buffer[-28 + 7 * i :][:7]
            codes_0.append(frame[0])
            codes_1 += [frame[1], frame[4]]
            codes_2 += [frame[2], frame[3], frame[5], frame[6]]
        codes = [
            torch.tensor(c, device=device, dtype=torch.int32).unsqueeze(0)
            for c in (codes_0, codes_1, codes_2)
        ]
        with torch.inference_mode():
            audio_hat = model.decode(codes)
        heard.append(audio_hat[:, :, samples : 2 * samples].detach().cpu().numpy())
    return np.concatenate(heard, axis=-1)


@pytest.fixture(scope="module")
def snac_model() -> SNAC:
    return build_nano_snac(codebook_size=4096)


def test_one_loop_runs_with_both(snac_model: SNAC, tmp_path: Path) -> None:
    Decoder48k.from_snac(snac_model).save_pretrained(tmp_path)
    ours = Decoder48k.from_pretrained(tmp_path).eval().to("cpu")
    assert isinstance(ours, nn.Module)
    assert (ours.sampling_rate, ours.hop_length) == (48_000, 1024)
    assert (snac_model.sampling_rate, snac_model.hop_length) == (24_000, 512)
    torch.manual_seed(1)
    codes = [torch.randint(4096, (1, 9 * k)) for k in (1, 2, 4)]
    with deterministic(snac_model), deterministic(ours):
        theirs, audio = (orpheus_loop(model, from_codes(codes)) for model in (snac_model, ours))
        window = [c[:, : 4 * k] for c, k in zip(codes, (1, 2, 4), strict=True)]
        doubled = resample(snac_model.decode(window), 24_000, 48_000)[..., 4096:8192]
    assert theirs.shape == (1, 1, 6 * 2048)
    assert audio.shape == (1, 1, 6 * 4096)
    # A head that has not been trained yet is the codec's audio at twice the rate.
    assert np.abs(audio[..., :4096] - doubled.detach().numpy()).max() < 1e-6
    assert np.corrcoef(audio[0, 0, ::2], theirs[0, 0])[0, 1] > 0.95


def test_hops_follow_the_codec() -> None:
    ours = Decoder48k.from_snac(build_nano_snac(encoder_rates=[2, 4, 4], decoder_rates=[4, 4, 2]))
    codes = [torch.zeros(2, 3 * k, dtype=torch.long) for k in (1, 2, 4)]
    assert ours.decode(codes).shape == (2, 1, 3 * 4 * ours.hop_length)
    assert type(ours.hop_length) is int
