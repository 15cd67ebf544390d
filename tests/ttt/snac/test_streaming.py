"""Pieces put together equal the decode of everything, whatever the pieces."""

import random

import pytest
import torch
from snac import SNAC

from tests.conftest import build_nano_snac
from ttt.errors import UserError
from ttt.snac.decode import StreamingDecoder
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k, deterministic
from ttt.snac.noise_floor import NoiseFloor
from ttt.snac.orpheus import from_codes, to_text

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
    geometry, latents, decoded = model.geometry, Decoder48k.latents, []
    monkeypatch.setattr(
        Decoder48k, "latents", lambda self, codes: decoded.append(codes[0]) or latents(self, codes)
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


def wide_snac() -> SNAC:
    """The nano codec with Orpheus's codebooks."""
    return build_nano_snac(codebook_size=4096)


def by_tokens(decoder, tokens, size):
    """Audio of tokens (ids or text) pushed so many at a time."""
    pieces = [decoder.push_tokens(tokens[at : at + size]) for at in range(0, len(tokens), size)]
    return torch.cat([*pieces, decoder.finish()], dim=-1)


@pytest.mark.parametrize("init", ["interp", "noble", "average", "random"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_token_by_token_equals_the_whole_with_every_head(init, dtype, tolerance):
    model = Decoder48k.from_snac(wide_snac().to(dtype), init=init)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter[parameter == 0] = 0.3
    model.noise_floor = NoiseFloor((-40.0,) * 16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    codes = codes_for(model, 11, 1)
    with deterministic(model):
        whole = model.decode(codes)
    audio = by_tokens(StreamingDecoder(model), from_codes(codes), 1)
    assert audio.shape == whole.shape
    assert (audio - whole).abs().max() < tolerance
    again = by_tokens(StreamingDecoder(model), from_codes(codes), 1)
    assert torch.equal(audio, again)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_ids_and_text_cut_anywhere_give_the_same_audio():
    model = Decoder48k.from_snac(wide_snac(), init="random")
    codes = codes_for(model, 9, 1)
    with deterministic(model):
        whole = model.decode(codes)
    ids, decoder = from_codes(codes), StreamingDecoder(model)
    text = "".join(f"{to_text([each])} " for each in ids)
    for tokens, size in ((ids, 7), (ids, 10), (ids, 999), (text, 1), (text, 37)):
        assert (by_tokens(decoder, tokens, size) - whole).abs().max() < 1e-5
    other = from_codes(codes, 50, (6, 5, 4, 3, 2, 1, 0))
    decoder = StreamingDecoder(model, base=50, order=(6, 5, 4, 3, 2, 1, 0))
    assert (by_tokens(decoder, other, 7) - whole).abs().max() < 1e-5


def test_a_bad_frame_is_named_while_the_stream_goes_on():
    model = Decoder48k.from_snac(wide_snac(), init="random")
    codes = codes_for(model, 9, 1)
    ids, left = from_codes(codes), [0, 1, 2, 4, 5, 6, 7]
    kept = [s.reshape(9, -1)[left].reshape(1, -1) for s in codes]
    with deterministic(model):
        whole = model.decode(kept)
    decoder, pieces = StreamingDecoder(model), []
    for place, each in enumerate([*ids[:23], 5, *ids[24:60]]):
        pieces.append(decoder.push_tokens(each))
        assert len(decoder.bad_frames) == (place >= 34), "known when the next frame is whole"
    audio = torch.cat([*pieces, decoder.finish()], dim=-1)
    assert [str(frame) for frame in decoder.bad_frames] == [
        "frame 3: id 5 is none of 128266 to 156937",
        "frame 8: the utterance ends after 4 of its 7 tokens",
    ]
    assert (audio - whole).abs().max() < 1e-5
    decoder.push_tokens(ids)
    assert decoder.bad_frames == ()
    with pytest.raises(ValueError, match=r"1\.5 is no token"):
        decoder.push_tokens([1.5])
    with pytest.raises(ValueError, match="push at least one coarsest token"):
        StreamingDecoder(model).finish()


def test_a_stream_without_a_whole_frame_is_empty_and_says_why():
    model = Decoder48k.from_snac(wide_snac(), init="random")
    codes = codes_for(model, 3, 1)
    ids, decoder = from_codes(codes), StreamingDecoder(model)
    half = ["frame 0: the utterance ends after 4 of its 7 tokens"]
    lost = ["frame 0: tokens of the places 1 2 3 4 5 6 where 0 to 6 belong"]
    for tokens, bad in (([], []), ("", []), (ids[:4], half), (to_text(ids[:4]), half),
                        (ids[1:7], lost)):  # fmt: skip
        assert decoder.push_tokens(tokens).shape == (1, 1, 0)
        assert decoder.finish().shape == (1, 1, 0)
        assert [str(frame) for frame in decoder.bad_frames] == bad
    other_base = "none of its 21 ids is one of 128266 to 156937; give the base"
    no_token = "text '12' holds no <custom_token_N>"
    for tokens, sentence in ((from_codes(codes, 0), other_base), ("12", no_token)):
        decoder.push_tokens(tokens)
        with pytest.raises(UserError, match=f"^the stream: {sentence}"):
            decoder.finish()
        # A stream of codes that follows is not blamed for it.
        whole = torch.cat([decoder.push(codes), decoder.finish()], dim=-1)
        assert whole.shape[-1] == 3 * 4096
        assert torch.equal(by_tokens(decoder, ids, 21), whole)


def test_codes_beyond_a_small_book_are_bad_frames_and_lose_no_other():
    model = Decoder48k.from_snac(build_nano_snac(), init="random")
    size, codes = model.geometry.codebook_size, codes_for(model, 5, 1)
    assert size == 64
    with deterministic(model):
        whole = model.decode([s.reshape(5, -1)[[0, 1, 3, 4]].reshape(1, -1) for s in codes])
    codes[2][0, 9] = size
    decoder = StreamingDecoder(model)
    for pushed_at_once in (35, 1):
        audio = by_tokens(decoder, from_codes(codes), pushed_at_once)
        assert [str(each) for each in decoder.bad_frames] == ["frame 2: code 64 is none of 0 to 63"]
        assert (audio - whole).abs().max() < 1e-5


def test_low_latency_is_near_the_whole_and_earlier():
    """The published window of four frames, with the tiny codec, whose weights are trained."""
    model = Decoder48k.from_snac(load_codec("tiny").model)
    geometry, n = model.geometry, 40
    frames = random.Random(0).choices(range(geometry.codebook_size), k=7 * n)
    codes = [torch.tensor([frames[:n]]), torch.tensor([frames[n : 3 * n]])]
    codes.append(torch.tensor([frames[3 * n :]]))
    with deterministic(model):
        whole = model.decode(codes)
    decoder, exact, pieces, first = StreamingDecoder(model, low_latency=True), [], [], None
    for count, chunk in enumerate(split(codes, [1] * n, geometry), start=1):
        pieces.append(decoder.push(chunk))
        given = sum(piece.shape[-1] for piece in pieces)
        assert given == max(0, geometry.samples_48k(count) - 6144)
        first = first or (given and count)
    assert first == 2
    audio = torch.cat([*pieces, decoder.finish()], dim=-1)
    assert audio.shape == whole.shape
    error = (audio - whole).square().mean().sqrt() / whole.square().mean().sqrt()
    cut_as_published = _published_loop(model, codes, n)
    exact = whole[..., 4096 : 4096 * (n - 2)]
    theirs = (cut_as_published - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    print(f"low latency {error:.5f}, published cut {theirs:.5f}")
    assert 1e-5 < error < 0.01
    assert error < theirs / 2


def _published_loop(model, codes, n):
    """Four frames decoded for each new one, of which the second is kept."""
    geometry, kept = model.geometry, []
    for last in range(4, n + 1):
        per_scale = zip(codes, geometry.tokens_per_coarse, strict=True)
        window = [scale[:, (last - 4) * k : last * k] for scale, k in per_scale]
        with deterministic(model):
            kept.append(model.decode(window)[..., 4096:8192])
    return torch.cat(kept, dim=-1)
