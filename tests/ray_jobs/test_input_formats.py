"""Caching from parquet, tars and manifests: the clips of a folder of files, wherever they lie."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_jobs import cache_codes
from ray_jobs.decoder.cache_config import InputConfig
from tests.object_store import ObjectStore
from ttt import records, storage
from ttt.snac.cache.index import open_cache
from ttt.snac.cache.shards import read_shard_table

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ROOT / "tests" / "input_formats"
PARQUET = FORMATS / "speech.parquet"
TARS = [FORMATS / f"speech-00000{part}.tar" for part in range(2)]
COLUMNS = ("codes_0", "codes_1", "codes_2", "audio", "n_samples", "crc32", "bandwidth_hz")
BYTES = ("shards/*.parquet", "shards/*.jsonl", "manifest.jsonl", "index.arrow", "codes.bin")


def _words(codec: Path, output: object, *overrides: str) -> list[str]:
    config = ROOT / "configs" / "cache_folder.yaml"
    return [
        f"--config={config}", f"codec.name={codec}", f"output={output}", "clips_per_shard=2",
        "cluster.num_workers=0", *overrides,
    ]  # fmt: skip


def _cache(codec: Path, output: object, kind: str, audio: object, *overrides: str) -> None:
    named = f"[{', '.join(map(str, audio))}]" if isinstance(audio, list) else audio
    words = (f"input.kind={kind}", f"input.audio={named}")
    assert cache_codes.main(_words(codec, output, *words, *overrides)) == 0


def _manifest(cache: Path) -> dict[str, dict]:
    lines = list(records.read_jsonl(cache / "manifest.jsonl"))
    assert len({line["clip_id"] for line in lines}) == len(lines)
    return {line["clip_id"]: line for line in lines}


def _clips(cache: Path) -> list[dict]:
    shards = sorted(cache.glob("shards/*.parquet"))
    return [row for shard in shards for row in read_shard_table(shard, COLUMNS).to_pylist()]


def _contents(cache: Path) -> dict[str, bytes]:
    paths = [path for pattern in BYTES for path in cache.glob(pattern)]
    return {str(path.relative_to(cache)): path.read_bytes() for path in paths}


def _refused(capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    capsys.readouterr()
    assert cache_codes.main([*words, "--dry-run"]) == 2
    return capsys.readouterr().err


def _write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def sounds() -> list[bytes]:
    """What datasets wrote, read by pyarrow."""
    return [row["bytes"] for row in pq.read_table(PARQUET)["audio"].to_pylist()]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, sounds: list[bytes]) -> Path:
    """The sounds as files."""
    folder = tmp_path_factory.mktemp("sounds")
    for number, content in enumerate(sounds):
        (folder / f"{number:04d}.flac").write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def from_folder(
    tmp_path_factory: pytest.TempPathFactory, small_codec: Path, folder: Path
) -> list[dict]:
    """The clips of their cache."""
    cache = tmp_path_factory.mktemp("cache") / "cache"
    _cache(small_codec, cache, "folder", folder)
    return _clips(cache)


def test_every_format_gives_the_clips_of_the_folder(
    tmp_path: Path, small_codec: Path, folder: Path, from_folder: list[dict], sounds: list[bytes]
) -> None:
    lines = [json.dumps({"audio_filepath": f"{folder}/{n:04d}.flac", "who": n % 2 + 7})
             for n in range(len(sounds))]  # fmt: skip
    (tmp_path / "nemo.jsonl").write_text("\n".join(lines))
    relative = os.path.relpath(folder, tmp_path)
    (tmp_path / "list.txt").write_text("\n".join(f"{relative}/{n:04d}.flac" for n in range(6)))
    speakers = ["anna", "bela"] * 3
    for kind, audio, rule, found in (
        ("parquet", PARQUET, "column:speaker_id", speakers),
        ("tar", TARS, "json:speaker", speakers),
        ("manifest", tmp_path / "nemo.jsonl", "json:who", ["7", "8"] * 3),
        ("manifest", tmp_path / "list.txt", "folder:1", [folder.parent.name] * 6),
    ):
        cache = tmp_path / f"{kind}-{rule[-3:]}"
        _cache(small_codec, cache, kind, audio, f"input.speaker={rule}")
        assert _clips(cache) == from_folder
        if rule != "folder:1":
            assert open_cache(cache).catalogue.speakers[:] == found
        assert cache_codes.main(["--verify", str(cache)]) == 0
    assert list(_manifest(tmp_path / "tar-ker"))[-1] == "speech-000001.tar/0005.flac"
    assert list(_manifest(tmp_path / "parquet-_id"))[-1] == "speech.parquet/5"
    assert not list(tmp_path.rglob("*.flac"))


def test_from_an_object_store_with_the_same_bytes(
    tmp_path: Path, small_codec: Path, object_store: ObjectStore, from_folder: list[dict],
    sounds: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for path in (PARQUET, *TARS):
        storage.write_bytes(object_store.uri(f"data/deep/{path.name}"), path.read_bytes())
    for number, content in enumerate(sounds):
        storage.write_bytes(object_store.uri(f"files/a-{number}.flac"), content)
    lines = "\n".join(json.dumps({"path": f"../files/a-{n}.flac"}) for n in range(6))
    storage.write_bytes(object_store.uri("lists/all.jsonl"), lines.encode())
    for kind, place in (("parquet", "data"), ("tar", "data"), ("manifest", "lists/all.jsonl")):
        object_store.fail_once_each()
        _cache(small_codec, tmp_path / kind, kind, f'"{object_store.uri(place)}"')
        object_store.fails = lambda _method, _path: False
        assert _clips(tmp_path / kind) == from_folder
    assert next(iter(_manifest(tmp_path / "tar"))) == "deep/speech-000000.tar/0000.flac"
    for place in ("none", "data/none.tar"):
        there = object_store.uri(place)
        words = _words(small_codec, tmp_path / "x", "input.kind=tar", f'input.audio="{there}"')
        assert f"error: {there}: no such file or folder" in _refused(capsys, words)


def test_the_plan_says_what_each_root_holds(
    tmp_path: Path, small_codec: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _words(small_codec, tmp_path / "c", "input.kind=tar", f"input.audio={FORMATS}")
    assert cache_codes.main([*words, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert f"root     {FORMATS}: 6 .flac in 2 .tar of 0.00 GiB" in plan
    assert "6 inputs (6 .flac), about 0.00 h of audio" in plan
    words = _words(small_codec, tmp_path / "c", f"input.audio=[{folder}, {FORMATS}]")
    assert "for its .parquet files set input.kind: parquet" in _refused(capsys, words)


def test_several_roots_keep_their_clips_apart(
    tmp_path: Path, small_codec: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.flac").write_bytes((folder / "0000.flac").read_bytes())
    _cache(small_codec, tmp_path / "c", "folder", [tmp_path / "a", tmp_path / "b"])
    assert list(_manifest(tmp_path / "c")) == ["a/0.flac", "b/0.flac"]
    twice = f"input.audio=[{tmp_path / 'a'}, {tmp_path / 'a'}/]"
    error = _refused(capsys, _words(small_codec, tmp_path / "d", twice))
    assert error.startswith("error: a/0.flac: ")
    assert error.endswith("0.flac is given twice; name each input once\n")


def test_bad_tars(
    tmp_path: Path, small_codec: Path, sounds: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = TARS[0].read_bytes()
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(TARS[0]) as tar:
        places = {member.name: member.offset_data for member in tar}
    (data / "cut.tar").write_bytes(whole[: places["0001.flac"] + 5000])
    (data / "header.tar").write_bytes(whole[: places["0001.flac"] - 300])
    (data / "markless.tar").write_bytes(whole[: places["0001.flac"] - 512])
    damaged = bytearray(whole)
    damaged[places["0001.flac"] - 500] ^= 0xFF
    (data / "damaged.tar").write_bytes(damaged)
    (data / "joined.tar").write_bytes(whole[: places["0000.json"] + 512] + b"\0" * 1024 + whole)
    (data / "text.tar").write_text("<html>not found</html>")
    (data / "bad.tar").write_bytes(b"")
    _cache(small_codec, tmp_path / "c", "tar", data, "min_cached_share=0")
    notes = {name: line["note"] for name, line in _manifest(tmp_path / "c").items() if line["note"]}
    size = len(sounds[1])
    assert notes.pop("cut.tar/0001.flac") == (
        f"0001.flac: the tar is cut short, 5,000 of {size:,} bytes are there"
    )
    assert notes.pop("cut.tar") == "cut.tar: is cut short inside 0001.flac, what followed is lost"
    for name in ("header", "markless"):
        assert "has no end mark at byte" in notes.pop(f"{name}.tar")
    assert "has a damaged header at byte" in notes.pop("damaged.tar")
    assert "goes on behind its end mark" in notes.pop("joined.tar")
    assert "cannot be read as a tar" in notes.pop("text.tar")
    assert "cannot be read as a tar" in notes.pop("bad.tar")
    assert not notes
    summary = records.read_json(tmp_path / "c/summary.json")
    assert "cut.tar: is cut short inside 0001.flac, what followed is lost" in summary["notes"]

    words = _words(small_codec, tmp_path / "d", "input.kind=tar")
    for name in ("x.tar.gz", "x.tgz", "x.tar"):
        (tmp_path / name).write_bytes(b"\x1f\x8b" + bytes(600))
        error = _refused(capsys, [*words, f"input.audio={tmp_path / name}"])
        assert f"error: {tmp_path / name}: is compressed" in error
    _write_tar(tmp_path / "none.tar", {"readme.txt": b"x"})
    error = _refused(capsys, [*words, f"input.audio={tmp_path / 'none.tar'}"])
    assert "no audio in 1 tar(s)" in error
    error = _refused(capsys, [*words, f"input.audio={tmp_path / 'missing'}"])
    assert f"error: {tmp_path / 'missing'}: no such file or folder" in error


def test_two_members_of_one_name_are_refused(
    tmp_path: Path, small_codec: Path, sounds: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as tar:
        for content in sounds[:2]:
            info = tarfile.TarInfo("a.flac")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    words = _words(small_codec, tmp_path / "d", "input.kind=tar")
    error = _refused(capsys, [*words, f"input.audio={tmp_path / 'twice.tar'}"])
    assert "error: twice.tar/a.flac: two clips have this id, " in error
    assert "at byte 512 and " in error


def test_bad_parquet(
    tmp_path: Path, small_codec: Path, sounds: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"bytes": each, "path": None} for each in sounds]
    rows[1], rows[2] = {"bytes": None, "path": "1.flac"}, None
    table = pa.table({"sound": rows, "who": ["a", None, "b", "b", "b", "b"], "n": range(6)})
    path = tmp_path / "rows.parquet"
    pq.write_table(table, path, row_group_size=4, compression="zstd")
    _cache(small_codec, tmp_path / "c", "parquet", path, "min_cached_share=0")
    lines = _manifest(tmp_path / "c")
    left_out = {name: line["note"] for name, line in lines.items() if line["reason"]}
    assert left_out == {f"rows.parquet/{row}": f"{path}: row {row} has no bytes" for row in (1, 2)}
    _cache(small_codec, tmp_path / "d", "parquet", path, "input.speaker=column:who")
    assert _manifest(tmp_path / "d")["rows.parquet/1"]["reason"] == "no speaker"

    words = _words(small_codec, tmp_path / "e", "input.kind=parquet", f"input.audio={path}")
    for override, sentence in (
        ("input.column=audio", "has no column audio; it has sound, who, n"),
        ("input.column=n", "column n holds int64, and sound is a struct of bytes and path"),
        ("input.speaker=column:whom", "has no column whom; it has sound, who, n"),
        ("input.speaker=json:who", "speaker: json:who has no effect for kind parquet"),
        ("input.kind=tar", "no audio in 1 tar(s)"),
    ):
        assert sentence in _refused(capsys, [*words, override])
    pq.write_table(table.append_column("again", table["sound"]), tmp_path / "two.parquet")
    two = f"input.audio={tmp_path / 'two.parquet'}"
    assert "sound and again both hold sound" in _refused(capsys, [*words, two])
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-50])
    cut = f"input.audio={tmp_path / 'cut.parquet'}"
    assert "cut.parquet: cannot be read as parquet" in _refused(capsys, [*words, cut])


def test_bad_manifests(
    tmp_path: Path, small_codec: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [json.dumps({"path": f"{folder}/{n:04d}.flac"}) for n in range(2)]
    bad = ['{"path": ', "[1]", '{"audio": "x.wav"}', '{"path": "gone.flac"}', '{"path": "s3:/x"}']
    path = tmp_path / "all.jsonl"
    path.write_text("\n".join([*good, "", *bad]))
    _cache(small_codec, tmp_path / "c", "manifest", path, "min_cached_share=0")
    notes = {name: line["note"] for name, line in _manifest(tmp_path / "c").items()}
    assert list(notes.values())[:2] == [None, None]
    assert notes["all.jsonl:4"].startswith("all.jsonl: line 4 is no JSON (")
    assert notes["all.jsonl:5"] == "all.jsonl: line 5 is no JSON object"
    assert notes["all.jsonl:6"] == (
        "all.jsonl: line 6 has neither audio_filepath nor path, but audio"
    )
    assert notes["gone.flac"].endswith("gone.flac: cannot be read as audio (no such file)")
    assert "one slash makes this a local folder" in notes["all.jsonl:8"]

    words = _words(small_codec, tmp_path / "d", "input.kind=manifest", f"input.audio={path}")
    for content, sentence in (
        ("\n".join([*good, good[0]]), "0000.flac is given twice; name each input once"),
        ('{"path": "a.wav", "offset": 1.5}', "line 1 has an offset of 1.5 s"),
        ("", "no line names an audio file (it is empty)"),
        ("[]\n", "no line names an audio file (all.jsonl: line 1 is no JSON object)"),
    ):
        path.write_text(content)
        assert sentence in _refused(capsys, words)
    for place in (tmp_path, tmp_path / "none.jsonl"):
        error = _refused(capsys, [*words, f"input.audio={place}"])
        assert "is a folder; name the manifest" in error or "no such file or folder" in error


def test_a_tar_of_another_size_is_refused(
    tmp_path: Path, small_codec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = tmp_path / "a.tar"
    tar.write_bytes(TARS[0].read_bytes())
    _cache(small_codec, tmp_path / "c", "tar", tar)
    tar.write_bytes(TARS[0].read_bytes() + bytes(512))
    words = _words(small_codec, tmp_path / "c", "input.kind=tar", f"input.audio={tar}")
    error = _refused(capsys, words)
    assert f"{tar}: has 82,432 bytes and had 81,920" in error


def test_settings_without_effect_are_refused() -> None:
    for wrong, sentence in (
        ({"kind": "tar"}, "audio must name a folder or file for kind tar"),
        ({"kind": "manifest", "audio": ()}, "audio must name a file for kind manifest"),
        ({"audio": "a", "column": "b"}, "column has no effect for kind folder"),
        ({"audio": "a", "speaker": "column:b"}, "column: is for parquet"),
        ({"audio": "a", "kind": "tar", "speaker": "json:"}, "names nothing behind the colon"),
    ):
        with pytest.raises(ValueError, match=sentence):
            InputConfig(**wrong)


@pytest.mark.faults
@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_killed_midway_on_ray_it_ends_with_the_same_bytes(
    tmp_path: Path, small_codec: Path, kind: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for copy in range(4):
        for path in (PARQUET, *TARS):
            (data / f"{copy}-{path.name}").write_bytes(path.read_bytes())
    _cache(small_codec, tmp_path / "here", kind, data, "cluster.read_threads=3")
    words = [*_words(small_codec, tmp_path / "there"), f"input.kind={kind}", f"input.audio={data}"]
    job = subprocess.Popen(
        [sys.executable, "-m", "ray_jobs.cache_codes", *words, "cluster.num_workers=1",
         "cluster.local_cpus=1"],
        start_new_session=True,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    first = tmp_path / "there/shards/shard-00000.jsonl"
    try:
        while not first.exists() and job.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert not (tmp_path / "there/summary.json").exists()
    assert cache_codes.main([*words, "cluster.num_workers=2"]) == 0
    assert _contents(tmp_path / "there") == _contents(tmp_path / "here")
