"""Which wavs --resume keeps: those of this decoder and of these codes, whatever was killed when."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs.decoder.decoded_folder import WITHOUT_FLOOR, DecodedFolder
from ttt.errors import UserError
from ttt.files.errors import FileIdentity

MADE_BY = {
    "decoder_sha256": "a" * 64,
    "codec_sha256": "c" * 64,
    "device": "cpu",
    "noise_floor": WITHOUT_FLOOR,
}
THERE = [("one", "one.wav"), ("two", "two.wav")]


def _wavs(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("*.wav"))


def _open(
    output: Path,
    made_by: dict[str, str] = MADE_BY,
    is_same: Callable[[str, object], bool] = lambda clip_id, source: True,
) -> DecodedFolder:
    there = [(clip_id, wav) for clip_id, wav in THERE if (output / wav).exists()]
    return DecodedFolder.open(output, made_by, there, is_same)


def _made(output: Path) -> Path:
    folder = _open(output)
    for clip_id, wav in THERE:
        (output / wav).touch()
        folder.add(clip_id, wav, {"crc32": "0"})
    return output


def test_wavs_of_the_same_decoder_and_codes_are_kept_in_silence(tmp_path: Path) -> None:
    folder = _open(_made(tmp_path))
    assert folder.notes == []
    assert set(folder.lines) == {"one.wav", "two.wav"}
    assert _wavs(tmp_path) == ["one.wav", "two.wav"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("decoder_sha256", "b" * 64),
        ("codec_sha256", "b" * 64),
        ("device", "cuda"),
        ("noise_floor", "b" * 12),
    ],
)
def test_another_decoder_codec_or_device_is_refused(tmp_path: Path, key: str, value: str) -> None:
    _made(tmp_path)
    with pytest.raises(UserError, match=f"one.wav was decoded with {key} {MADE_BY[key][:12]}, and"):
        _open(tmp_path, {**MADE_BY, key: value})
    assert _wavs(tmp_path) == ["one.wav", "two.wav"]
    for wav in _wavs(tmp_path):
        (tmp_path / wav).unlink()
    assert _open(tmp_path, {**MADE_BY, key: value}).lines == {}


def test_lines_of_before_there_were_floors_are_without(tmp_path: Path) -> None:
    lines = _made(tmp_path) / "decoded.jsonl"
    older = [json.loads(line) for line in lines.read_text().splitlines()]
    for line in older:
        del line["made_by"]["noise_floor"]
    lines.write_text("".join(json.dumps(line) + "\n" for line in older))
    assert set(_open(tmp_path).lines) == {"one.wav", "two.wav"}
    with pytest.raises(UserError, match="was decoded with noise_floor none, and now it is bbbb"):
        _open(tmp_path, {**MADE_BY, "noise_floor": "b" * 12})


def test_changed_codes_and_wavs_without_a_line_are_decoded_again(tmp_path: Path) -> None:
    _made(tmp_path)
    folder = _open(tmp_path, is_same=lambda clip_id, source: clip_id == "one")
    assert folder.notes == ["the codes of 1 wavs have changed since; they are decoded again"]
    assert _wavs(tmp_path) == ["one.wav"]
    (tmp_path / "two.wav").touch()  # Its writer was killed before the line.
    (note,) = _open(tmp_path).notes
    assert note.startswith("1 wavs have no line in decoded.jsonl, as a killed job leaves them")
    assert _wavs(tmp_path) == ["one.wav"]


def test_a_line_cut_short_costs_its_wav_and_no_other(tmp_path: Path) -> None:
    lines = _made(tmp_path) / "decoded.jsonl"
    lines.write_text(lines.read_text()[:-9])
    assert set(_open(tmp_path).lines) == {"one.wav"}
    assert [json.loads(line)["wav"] for line in lines.read_text().splitlines()] == ["one.wav"]


def test_a_folder_from_before_is_kept_and_said(tmp_path: Path) -> None:
    (tmp_path / "one.wav").touch()
    summary = {"provenance": {"config": {"decoder": "runs/old"}}}
    (tmp_path / "decoded.json").write_text(json.dumps(summary))
    folder = _open(tmp_path)
    assert folder.notes == [
        "1 wavs were decoded before the decoder and codes of each were noted; they are kept "
        "without a check (decoded.json names runs/old)"
    ]
    folder.add("two", "two.wav", {"crc32": "0"})
    (tmp_path / "two.wav").touch()
    again = _open(tmp_path)
    assert again.notes == []
    assert set(again.lines) == {"one.wav", "two.wav"}


def test_the_identity_of_a_file_is_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = FileIdentity.from_dict(json.loads(json.dumps(FileIdentity.of(path).to_dict())))
    assert before.is_of(path)
    path.touch()
    assert before.is_of(path)
    status = path.stat()
    path.write_bytes(b"two")  # As long, and with the old time of change put back.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not before.is_of(path)
    path.write_bytes(b"one")
    assert before.is_of(path)
    path.unlink()
    with pytest.raises(UserError, match="a: No such file or directory"):
        before.is_of(path)
