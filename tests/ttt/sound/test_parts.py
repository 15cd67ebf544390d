"""Every odd file is read to its end, or refused with the reason; none is read short in silence."""

from pathlib import Path

import numpy as np
import pytest

from tests.ttt.sound.odd_files import NOISE, RATE, REFUSED, SAMPLES, WHOLE, encoded, wav
from ttt.audio import read_audio, read_audio_blocks, read_header
from ttt.errors import UserError
from ttt.eval.chapters.find import find_chapters
from ttt.eval.config import ChapterConfig
from ttt.snac.cache.inputs import QualityConfig
from ttt.snac.cache.sources import list_folder, prepare_recording
from ttt.snac.geometry import CodeGeometry
from ttt.sound.splice import SoundBytes


@pytest.mark.parametrize("name", WHOLE)
def test_all_of_it_is_read(tmp_path: Path, name: str) -> None:
    suffix, content, samples, delay = WHOLE[name]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content())
    header = read_header(path)
    assert abs(header.samples - samples) <= delay
    audio, rate = read_audio(path)
    assert (rate, audio.shape) == (header.rate, (header.channels, header.samples))
    # Also at the end there is noise, and no silence that fills it up.
    assert np.abs(audio[:, -2000:]).max() > 0.05
    blocks = list(read_audio_blocks(path, 10_000))
    assert {block.shape[1] for block in blocks[:-1]} == {10_000}
    difference = np.abs(np.concatenate(blocks, axis=1) - audio)
    # libmpg123 gives frames whose bits do not suffice otherwise after another block, here of noise.
    assert (np.median(difference) if suffix == "mp3" else difference.max()) < 1e-6


@pytest.mark.parametrize("name", WHOLE)
def test_in_memory_it_is_the_same_sound(tmp_path: Path, name: str) -> None:
    suffix, content, _, _ = WHOLE[name]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content())
    sound = SoundBytes(path.name, path.read_bytes())
    assert read_header(sound) == read_header(path)
    (in_memory, rate), (on_disk, rate_on_disk) = read_audio(sound), read_audio(path)
    assert rate == rate_on_disk
    assert np.array_equal(in_memory, on_disk)


@pytest.mark.parametrize("name", REFUSED)
def test_in_memory_it_is_refused_as_on_disk(tmp_path: Path, name: str) -> None:
    suffix, content, reason = REFUSED[name]
    with pytest.raises(UserError, match=rf"^a\.{suffix}: .*({reason})"):
        read_audio(SoundBytes(f"a.{suffix}", content()))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_whole_is_refused(tmp_path: Path, name: str) -> None:
    suffix, content, reason = REFUSED[name]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content())
    for read in (read_audio, lambda path: list(read_audio_blocks(path, 10_000))):
        with pytest.raises(UserError, match=rf"a\.{suffix}: .*({reason})"):
            read(path)


@pytest.mark.parametrize("name", ["two MP3s", "two Ogg Vorbis"])
def test_a_span_may_cross_a_join(tmp_path: Path, name: str) -> None:
    suffix, content, _, _ = WHOLE[name]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content())
    whole, _ = read_audio(path)
    for start, stop in ((0, 10), (SAMPLES - 5000, SAMPLES + 5000), (SAMPLES + 7, SAMPLES + 999)):
        span = np.concatenate(list(read_audio_blocks(path, 3000, start, stop)), axis=1)
        assert span.shape == (1, stop - start)
        assert np.abs(span - whole[:, start:stop]).max() < 1e-3
    with pytest.raises(UserError, match=r"cut short, .* samples could be decoded"):
        list(read_audio_blocks(path, 3000, 0, 3 * SAMPLES))


def test_what_follows_the_audio_of_a_wav_by_right_is_no_audio(tmp_path: Path) -> None:
    """A chunk behind an empty one, a chunk behind the audio, a few odd bytes."""
    empty = encoded("WAV", "PCM_16", NOISE[:0]) + b"LIST" + (6000).to_bytes(4, "little")
    (tmp_path / "empty.wav").write_bytes(empty + b"x" * 6000)
    assert read_header(tmp_path / "empty.wav").samples == 0
    for name, behind in (
        ("chunk", b"LIST" + (6000).to_bytes(4, "little") + b"x" * 6000),
        ("odd", b"\0" * 40),
    ):
        (tmp_path / f"{name}.wav").write_bytes(encoded("WAV", "PCM_16") + behind)
        assert read_header(tmp_path / f"{name}.wav").samples == SAMPLES


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(0))
    assert read_header(path).samples == SAMPLES
    path.write_bytes(encoded("WAV", "PCM_16", NOISE[:RATE]))
    assert read_header(path).samples == RATE


@pytest.mark.parametrize("content", [b"", b"fLaC", b"OggS", b"NIST", b"RIFF", b"ID3", b"\xff\xfb"])
@pytest.mark.parametrize("suffix", ["mp3", "flac", "wav"])
def test_a_beginning_alone_is_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.{suffix}: "):
        read_header(path)


@pytest.mark.parametrize(
    "name",
    ["FLAC of unknown length", "WAV of 0 bytes", "MP3 without a length", "two MP3s"],
)
def test_a_chapter_and_a_clip_of_a_cache_are_as_long_as_their_audio(
    tmp_path: Path, name: str
) -> None:
    suffix, content, samples, delay = WHOLE[name]
    folder = tmp_path / "speaker" / "book"
    folder.mkdir(parents=True)
    (folder / f"chapter.{suffix}").write_bytes(content())
    (chapter,), unreadable = find_chapters(ChapterConfig(root=str(tmp_path)))
    assert not unreadable
    assert abs(chapter.seconds * RATE - samples) <= delay
    (clip,) = list_folder(str(tmp_path))
    prepared = prepare_recording(clip, CodeGeometry.preset("snac_24khz"), QualityConfig())
    assert len(prepared.audio) == round(chapter.seconds * RATE)
