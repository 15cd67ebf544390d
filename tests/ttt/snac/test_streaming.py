"""Pieces put together equal the decode of everything, whatever the pieces."""

import pytest
import torch

from ttt.snac.decode import StreamingDecoder
from ttt.snac.model import Decoder48k, deterministic

CHUNKS = pytest.mark.parametrize("chunks", [[1] * 13, [13], [2, 0, 5, 1, 0, 5], [12, 1], [4, 9]])


def codes_for(model, n_coarse, batch):
    size = model.geometry.codebook_size
    return [torch.randint(0, size, (batch, n)) for n in model.geometry.lengths(n_coarse)]


def split(codes, chunks, geometry):
    done = 0
    for n in chunks:
        per_scale = zip(codes, geometry.tokens_per_coarse, strict=True)
        yield [scale[:, done * k : (done + n) * k] for scale, k in per_scale]
        done += n


def stream(model, codes, chunks):
    decoder = StreamingDecoder(model)
    pieces = [decoder.push(chunk) for chunk in split(codes, chunks, model.geometry)]
    return torch.cat([*pieces, decoder.finish()], dim=-1)


@CHUNKS
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("batch", [1, 3])
def test_pieces_equal_the_whole(nano_snac, chunks, dtype, tolerance, batch):
    model = Decoder48k.from_snac(nano_snac.to(dtype), init="random")
    codes = codes_for(model, 13, batch)
    with deterministic(model):
        whole = model.decode(codes)
    pieces = stream(model, codes, chunks)
    assert pieces.shape == whole.shape
    assert pieces.dtype == dtype
    assert (pieces - whole).abs().max() < tolerance


@pytest.mark.parametrize("n_coarse", [1, 2, 3])
def test_streams_shorter_than_the_reach(nano_snac, n_coarse):
    model = Decoder48k.from_snac(nano_snac)
    codes = codes_for(model, n_coarse, 1)
    with deterministic(model):
        whole = model.decode(codes)
    assert (stream(model, codes, [1] * n_coarse) - whole).abs().max() < 1e-5


def test_audio_comes_as_soon_as_it_is_final_and_old_codes_are_forgotten(nano_snac, monkeypatch):
    model = Decoder48k.from_snac(nano_snac)
    geometry, decode, decoded = model.geometry, model.decode, []
    monkeypatch.setattr(
        model, "decode", lambda codes, **at: decoded.append(codes[0]) or decode(codes, **at)
    )
    decoder = StreamingDecoder(model)
    given = 0
    for n, chunk in enumerate(split(codes_for(model, 30, 1), [1] * 30, geometry), start=1):
        given += decoder.push(chunk).shape[-1]
        assert given == max(0, geometry.samples_48k(n) - model.reach_samples_48k)
    given += decoder.finish().shape[-1]
    assert given == geometry.samples_48k(30)
    # Reach on both sides is 5 coarsest tokens, the new one and two cut ones come on top.
    assert max(codes.shape[1] for codes in decoded) <= 8


def test_finish_starts_over(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    decoder = StreamingDecoder(model)
    codes = codes_for(model, 5, 2)
    first = torch.cat([decoder.push(codes), decoder.finish()], dim=-1)
    again = torch.cat([decoder.push(codes), decoder.finish()], dim=-1)
    assert torch.equal(first, again)
    one = [scale[:1] for scale in codes]
    assert torch.cat([decoder.push(one), decoder.finish()], dim=-1).shape[0] == 1


def test_wrong_chunks_are_refused_and_leave_the_stream_as_it_was(nano_snac):
    model = Decoder48k.from_snac(nano_snac)
    codes = codes_for(model, 6, 2)
    with deterministic(model):
        whole = model.decode(codes)
    decoder = StreamingDecoder(model)
    with pytest.raises(ValueError, match="push at least one coarsest token"):
        decoder.finish()
    chunks = list(split(codes, [4, 2], model.geometry))
    pieces = [decoder.push(chunks[0])]
    with pytest.raises(ValueError, match="do not cover the same time"):
        decoder.push([chunks[1][0], chunks[1][1], chunks[1][2][:, 1:]])
    with pytest.raises(ValueError, match="scale 0 holds codes"):
        decoder.push([scale + 64 for scale in chunks[1]])
    with pytest.raises(ValueError, match="2 streams were begun, this chunk has 1"):
        decoder.push([scale[:1] for scale in chunks[1]])
    pieces += [decoder.push(chunks[1]), decoder.finish()]
    assert (torch.cat(pieces, dim=-1) - whole).abs().max() < 1e-5
