"""Streamed codes are the whole file's; what is kept is found again, for the same content only."""

import hashlib
import json
import multiprocessing
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from moshi.utils import compile as compile_module

from ttt.audio import Piece, read_audio, resample
from ttt.errors import UserError
from ttt.eval.chapters.find import find_chapters
from ttt.eval.config import ChapterConfig
from ttt.moshi import codes as codes_module
from ttt.moshi.codes import (
    codes_sha256,
    decode_codes,
    encode_recording,
    mimi_sha256,
    silence_codes,
)
from ttt.moshi.tiny import tiny_mimi
from ttt.numerics import exact_float32
from ttt.synthetic.voice import utterance

SHA = "a" * 64


@pytest.fixture(scope="module")
def mimi():
    # In float64, so that codes can be compared exactly: rounding decides no nearest neighbour.
    return tiny_mimi(seed=1, context=30).double()


def _pieces(path: Path, *spans: tuple[int, int]) -> list[Piece]:
    info = soundfile.info(path)
    return [Piece(str(path), a, b, info.samplerate) for a, b in spans or [(0, info.frames)]]


def _write(path: Path, seconds: float, rate: int, channels: int = 1) -> Path:
    audio = np.concatenate([utterance(k, seconds / 5, rate, speaker=k) for k in range(5)])
    soundfile.write(path, np.stack([audio] * channels, axis=1), rate, subtype="PCM_16")
    return path


def _whole(mimi, path: Path) -> np.ndarray:
    audio, rate = read_audio(path)
    mono = resample(torch.from_numpy(audio.mean(axis=0)), rate, mimi.sample_rate)
    with torch.no_grad():
        return mimi.encode(mono[None, None].double())[0].numpy()


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_streamed_codes_are_those_of_the_whole_file(mimi, tmp_path: Path, rate: int) -> None:
    path = _write(tmp_path / "x.flac", 35.03, rate, channels=2)
    streamed = encode_recording(mimi, "x", _pieces(path), None, SHA)
    whole = _whole(mimi, path)
    assert streamed.codes.dtype == np.int16
    assert streamed.codes.shape == whole.shape == (8, 438)  # 437.9 frames, the last filled up
    # The resampler works in float32, whole and in blocks alike; 44.1 kHz rounds differently.
    assert (streamed.codes == whole).mean() > 0.999
    assert len(streamed.joins) == 0
    for book in streamed.codes:
        assert len(np.unique(book)) > 32  # of 64: codes that vary, in every codebook


def test_the_published_ring_would_lose_keys(mimi, tmp_path: Path) -> None:
    path = _write(tmp_path / "x.flac", 20.0, 24_000)
    audio, _ = read_audio(path)
    chunks = torch.from_numpy(audio)[None].double().split(25 * 1920, dim=-1)
    with torch.no_grad(), mimi.streaming(1):
        stock = torch.cat([mimi.encode(chunk) for chunk in chunks], dim=-1)[0].numpy()
    whole = _whole(mimi, path)
    assert (stock == whole).mean() < 0.95
    assert np.array_equal(encode_recording(mimi, "x", _pieces(path), None, SHA).codes, whole)


def test_blocks_resample_like_the_whole(tmp_path: Path) -> None:
    for rate in (8_000, 22_050, 24_000, 44_100):
        path = tmp_path / f"{rate}.wav"
        noise = np.random.default_rng(rate).uniform(-0.5, 0.5, round(62.007 * rate))
        soundfile.write(path, noise, rate)
        audio, actual = read_audio(path)
        piece = Piece(str(path), 0, audio.shape[1], actual)
        made = np.concatenate(list(codes_module._piece_audio(piece, 24_000)))
        whole = resample(torch.from_numpy(audio[0]), actual, 24_000).numpy()
        assert made.shape == whole.shape
        assert np.abs(made - whole).max() < 2e-6


def test_joins_are_where_pieces_meet_and_nothing_is_reset_there(mimi, tmp_path: Path) -> None:
    path = _write(tmp_path / "x.wav", 10.0, 24_000)
    middle = 100_000  # inside frame 52
    parts = encode_recording(mimi, "x", _pieces(path, (0, middle), (middle, 240_000)), None, SHA)
    assert parts.joins.tolist() == [52]
    assert np.array_equal(parts.codes, _whole(mimi, path))


def test_codes_are_kept_by_content(mimi, tmp_path: Path, monkeypatch) -> None:
    path, cache = _write(tmp_path / "x.flac", 3.0, 16_000), tmp_path / "cache"
    first = encode_recording(mimi, "x", _pieces(path), cache, SHA)
    moved = path.rename(tmp_path / "y.flac")

    def never(*_: object) -> None:
        raise AssertionError("encoded again")

    with monkeypatch.context() as patched:
        patched.setattr(codes_module, "_encode_stream", never)
        again = encode_recording(mimi, "x", _pieces(moved), cache, SHA)
        for other in (_pieces(moved, (0, 16_000)),):
            with pytest.raises(AssertionError, match="encoded again"):
                encode_recording(mimi, "x", other, cache, SHA)
        with pytest.raises(AssertionError, match="encoded again"):
            encode_recording(mimi, "x", _pieces(moved), cache, "b" * 64)
    assert np.array_equal(first.codes, again.codes)
    assert first.sha256 == again.sha256 == codes_sha256(torch.from_numpy(first.codes).long())
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(UserError, match=r"damaged .* delete it to encode again"):
        encode_recording(mimi, "x", _pieces(moved), cache, SHA)


def test_the_hash_tells_weights_apart(mimi) -> None:
    assert mimi_sha256(mimi) == mimi_sha256(tiny_mimi(seed=1, context=30).double())
    assert mimi_sha256(mimi) != mimi_sha256(tiny_mimi(seed=2, context=30).double())


def test_silence_is_made_once_and_shorter_ones_are_prefixes(mimi, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(codes_module, "_SILENCE_AT_LEAST", 64)
    made = []
    encode = codes_module._encode_stream
    monkeypatch.setattr(codes_module, "_encode_stream", lambda *a: made.append(1) or encode(*a))
    short = silence_codes(mimi, 10, tmp_path, SHA)
    longer = silence_codes(mimi, 64, tmp_path, SHA)
    assert len(made) == 1
    longest = silence_codes(mimi, 65, tmp_path, SHA)
    assert len(made) == 2
    assert [x.shape for x in (short, longer, longest)] == [(8, 10), (8, 64), (8, 65)]
    assert np.array_equal(longest[:, :64], longer)
    with torch.no_grad():
        whole = mimi.encode(torch.zeros(1, 1, 65 * mimi.frame_size, dtype=torch.float64))[0].numpy()
    assert np.array_equal(longest, whole)
    silence_codes(mimi, 5, tmp_path, "c" * 64)
    assert len(made) == 3  # another Mimi


def _make_silence(folder: str, results) -> None:
    torch.set_num_threads(1)
    made = silence_codes(tiny_mimi(seed=1, bins=8, context=30), 40, folder, SHA)
    results.put((os.getpid(), made.tobytes()))


def test_workers_that_ask_together_get_the_same_silence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(codes_module, "_SILENCE_AT_LEAST", 64)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [
        context.Process(target=_make_silence, args=(str(tmp_path), results)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    made = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert len({pid for pid, _ in made}) == 2
    assert len({content for _, content in made}) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".safetensors"]


def test_the_recorded_chapters_give_varied_codes(mimi, shared_data: Path) -> None:
    config = ChapterConfig(root=str(shared_data / "librilight_mini"), concatenate_seconds=200)
    (chapter,), _ = find_chapters(config)
    encoded = encode_recording(mimi, "x", chapter.pieces, None, SHA)
    assert encoded.codes.shape == (8, 1392)
    assert encoded.joins.tolist() == [659]
    seconds = json.loads(json.dumps(chapter.seconds))
    assert encoded.codes.shape[1] == int(np.ceil(seconds * 12.5))
    assert len(np.unique(encoded.codes[0])) > 16


def _killed_while_writing(folder: str) -> None:
    torch.set_num_threads(1)
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # The file is written, not named.
    silence_codes(tiny_mimi(seed=1, bins=8, context=30), 70, folder, SHA)


def test_a_killed_writer_leaves_the_old_silence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(codes_module, "_SILENCE_AT_LEAST", 64)
    mimi = tiny_mimi(seed=1, bins=8, context=30)
    before = silence_codes(mimi, 64, tmp_path, SHA)
    writer = multiprocessing.get_context("fork").Process(
        target=_killed_while_writing, args=(str(tmp_path),)
    )
    writer.start()
    writer.join(timeout=60)
    assert writer.exitcode == -signal.SIGKILL
    assert list(tmp_path.glob(".silence-*.tmp"))
    with monkeypatch.context() as patched:
        patched.setattr(codes_module, "_encode_stream", lambda *_: pytest.fail("made again"))
        assert np.array_equal(silence_codes(mimi, 64, tmp_path, SHA), before)
    assert np.array_equal(silence_codes(mimi, 70, tmp_path, SHA)[:, :64], before)


def test_decoded_codes_are_audio(mimi, tmp_path: Path) -> None:
    silent = silence_codes(mimi, 12, tmp_path, SHA)
    audio = decode_codes(mimi, torch.from_numpy(silent))
    assert audio.shape == (12 * mimi.frame_size,)
    assert audio.dtype == np.float32
    assert np.isfinite(audio).all()


def _refused(path: Path, rate: int, mimi, cache: Path) -> str:
    samples = soundfile.info(path).frames
    pieces = (Piece(str(path), 0, samples, rate),)
    with pytest.raises(UserError) as refused:
        encode_recording(mimi, "x", pieces, cache, SHA)
    assert not list(cache.glob("*"))
    return str(refused.value)


@pytest.mark.parametrize("rate", [22_051, 44_101])
def test_a_rate_without_a_practical_ratio_is_the_chapters_reason(
    mimi, tmp_path: Path, rate: int
) -> None:
    path = _write(tmp_path / "x.wav", 1.0, rate)
    found = _refused(path, rate, mimi, tmp_path / "cache")
    assert found == f"{path}: {rate:,} Hz has no practical ratio to 24,000 Hz; resample it first"


@pytest.mark.parametrize("factor", [-1.0, -0.9])
def test_channels_that_cancel_are_the_chapters_reason(mimi, tmp_path: Path, factor: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40 * 24_000)
    both = np.stack([noise, noise], axis=1)
    both[31 * 24_000 :, 1] *= factor  # From the second block on.
    soundfile.write(tmp_path / "x.wav", both, 24_000)
    found = _refused(tmp_path / "x.wav", 24_000, mimi, tmp_path / "cache")
    assert "x.wav: its 2 channels cancel when they are mixed" in found


def _computing(device: str, dtype: torch.dtype) -> SimpleNamespace:
    parameter = SimpleNamespace(device=torch.device(device), dtype=dtype)
    return SimpleNamespace(parameters=lambda: iter([parameter]), num_codebooks=8)


def test_kept_codes_are_found_by_who_computes_them_alike_only(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.flac", 1.0, 16_000)
    chapter, content = _pieces(path), hashlib.sha256(path.read_bytes()).hexdigest()

    def key(device: str, dtype: torch.dtype = torch.float32) -> str:
        return codes_module._content_key(_computing(device, dtype), chapter, SHA)

    # As it was before device and precision were asked: kept codes of a CPU are found again.
    before = json.dumps([1, SHA, 8, [[content, 0, 16_000]]])
    assert key("cpu") == hashlib.sha256(before.encode()).hexdigest()
    with exact_float32():
        names = {key(device) for device in ("cpu", "cuda", "cuda:0", "cuda:3", "xpu")}
        assert len(names) == 3
        assert key("cuda:0") == key("cuda:3")
        assert len({key("cuda"), key("cuda", torch.bfloat16), key("cpu", torch.bfloat16)}) == 3
        exact = key("cuda")
    torch.backends.cudnn.allow_tf32 = True
    assert key("cuda") != exact
    assert key("cpu") == hashlib.sha256(before.encode()).hexdigest()


def test_silence_is_kept_by_who_computes_it(mimi, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(codes_module, "_SILENCE_AT_LEAST", 4)
    silence_codes(tiny_mimi(seed=1, context=30), 4, tmp_path, SHA)
    silence_codes(mimi, 4, tmp_path, SHA)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"silence-{SHA[:16]}-8-cpu-float64.safetensors",
        f"silence-{SHA[:16]}-8.safetensors",
    ]


def test_nothing_of_mimi_is_compiled(mimi, tmp_path: Path, monkeypatch) -> None:
    """On a GPU alone the package compiles by itself, for which it needs a C compiler."""
    disabled = []

    def spied(name: str):
        method = getattr(mimi, name)

        def call(*arguments):
            disabled.append(compile_module._compile_disabled)
            return method(*arguments)

        return call

    for name in ("encode", "decode"):
        monkeypatch.setattr(mimi, name, spied(name))
    monkeypatch.setattr(codes_module, "_SILENCE_AT_LEAST", 4)
    encoded = encode_recording(mimi, "x", _pieces(_write(tmp_path / "x.wav", 3, 24_000)), None, SHA)
    decode_codes(mimi, torch.from_numpy(encoded.codes))
    silence_codes(mimi, 4, tmp_path, SHA)
    assert len(disabled) >= 4
    assert all(disabled)
    assert not compile_module._compile_disabled


def test_no_cuda_graph_is_captured(mimi, tmp_path: Path, monkeypatch) -> None:
    """On a GPU the package would capture two in the second chunk of every recording."""
    monkeypatch.delenv("NO_CUDA_GRAPH", raising=False)
    init, captures = compile_module.CUDAGraphed.__init__, []

    def as_on_a_gpu(self, func, warmup_steps=1, disable=False):
        init(self, func, warmup_steps, disable=False)

    def capture():
        captures.append(1)
        raise AssertionError("a graph is captured")

    monkeypatch.setattr(compile_module.CUDAGraphed, "__init__", as_on_a_gpu)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", capture)
    monkeypatch.setattr(codes_module, "_SILENCE_AT_LEAST", 64)
    path = _write(tmp_path / "x.wav", 7, 24_000)
    encoded = encode_recording(mimi, "x", _pieces(path), None, SHA)
    decode_codes(mimi, torch.from_numpy(encoded.codes))
    silence_codes(mimi, 64, tmp_path, SHA)
    assert not captures
    assert compile_module._is_cuda_graph_enabled()
    # The spy sees one where nobody forbids it.
    silence = torch.zeros(1, 1, mimi.frame_size, dtype=torch.float64)
    with torch.no_grad(), mimi.streaming(1):
        mimi.encode(silence)
        with pytest.raises(AssertionError, match="captured"):
            mimi.encode(silence)
