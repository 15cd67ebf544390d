"""The same codes from every source give the same wav; nothing is overwritten; bad files named."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from ray_jobs import decode_codes
from ray_jobs.config.workers import WorkersConfig
from ray_jobs.decoder.decode import describe, plan_decode
from ray_jobs.decoder.evaluate_config import DecodeConfig
from ray_jobs.runtime import run_folder
from tests.jobs import run_decode
from ttt.errors import UserError
from ttt.files.errors import FileIdentity
from ttt.snac.cache.index import open_cache
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k, interleaved_to_codes
from ttt.snac.noise_floor import NoiseFloor

IN_PROCESS = WorkersConfig(num_workers=0)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch exploded",))


@pytest.fixture(scope="module")
def code_files(tmp_path_factory: pytest.TempPathFactory, small_cache: Path) -> Path:
    """The first clip of the cache in every layout, and five files that cannot be decoded."""
    folder = tmp_path_factory.mktemp("codes")
    cache = open_cache(small_cache)
    rows = cache.read_codes(0, 0, int(cache.catalogue.n_coarse[0]))
    scales = interleaved_to_codes(torch.from_numpy(rows)[None], cache.geometry)
    (folder / "deep").mkdir()
    np.save(folder / "n.npy", rows)
    torch.save(scales, folder / "deep" / "p.pt")
    save_file({f"codes_{k}": scale for k, scale in enumerate(scales)}, folder / "s.safetensors")
    torch.save([_Bomb()], folder / "bomb.pt")
    torch.save([scale.bfloat16() for scale in scales], folder / "floats.pt")
    (folder / "lost.npy").symlink_to("nowhere")
    (folder / "._n.npy").write_bytes(b"of another system")
    np.save(folder / "range.npy", np.full((3, 7), 64))
    (folder / "cut.npy").write_bytes((folder / "n.npy").read_bytes()[:-5])
    return folder


def test_every_source_gives_the_same_wav(
    small_export: Path, small_cache: Path, code_files: Path, tmp_path: Path
) -> None:
    config = DecodeConfig(
        decoder=str(small_export),
        input=str(small_cache),
        output=str(tmp_path / "from-cache"),
        cluster=IN_PROCESS,
    )
    run_decode(config)
    from_cache, rate = soundfile.read(tmp_path / "from-cache" / "a" / "0.wav", dtype="int16")
    assert (len(from_cache), rate) == (45_000, 48_000)
    assert soundfile.info(tmp_path / "from-cache" / "a" / "1.wav").frames == 52_345

    output = tmp_path / "from-files"
    files = dataclasses.replace(
        config, input=str(code_files), output=str(output), layout="interleaved"
    )
    with pytest.raises(UserError, match="5 clips were not decoded"):
        run_decode(files)
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.wav"))
    assert written == ["deep/p.wav", "n.wav", "s.wav"]
    for name in written:
        audio, _ = soundfile.read(output / name, dtype="int16")
        assert len(audio) == 11 * 4096
        assert np.array_equal(audio[:45_000], from_cache)

    summary = json.loads((output / "decoded.json").read_text())
    assert (summary["written"], summary["kept"], summary["coverage"]) == (3, 0, 3 / 8)
    weights = FileIdentity.of(small_export / "model.safetensors")
    assert summary["decoder"]["decoder_sha256"] == weights.sha256
    reasons = {entry["clip_id"]: entry["reason"] for entry in summary["failed"]}
    assert "holds more than tensors and is not read" in reasons["bomb.pt"]
    assert "codes from 64 to 64; the codebook has 0 to 63" in reasons["range.npy"]
    assert "cut.npy: " in reasons["cut.npy"]
    assert "holds bfloat16; codes are integers" in reasons["floats.pt"]
    assert "lost.npy: is a link to nowhere, which cannot be found" in reasons["lost.npy"]
    assert not list(Path.cwd().glob("exploded"))

    with pytest.raises(UserError, match=r"2 of the 2 files exist, a/0\.wav among them; give --res"):
        run_decode(config)
    (tmp_path / "from-cache" / "a" / "1.wav").unlink()
    kept = (tmp_path / "from-cache" / "a" / "0.wav").stat().st_mtime_ns
    run_decode(config, resume=True)
    assert (tmp_path / "from-cache" / "a" / "0.wav").stat().st_mtime_ns == kept
    assert soundfile.info(tmp_path / "from-cache" / "a" / "1.wav").frames == 52_345


def test_one_file_and_a_limit(
    small_export: Path, small_cache: Path, code_files: Path, tmp_path: Path
) -> None:
    config = DecodeConfig(
        decoder=str(small_export),
        input=str(code_files / "deep" / "p.pt"),
        output=str(tmp_path),
    )
    assert f"decode files of codes {config.input}: 1\n" in describe(plan_decode(config))
    cache = dataclasses.replace(config, input=str(small_cache), limit=1)
    assert f"decode clips of cache {small_cache}: 1\n" in describe(plan_decode(cache))


def test_what_does_not_fit_is_refused_in_one_sentence(
    small_codec: Path,
    small_export: Path,
    small_cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    command = [f"decoder={small_export}", f"output={tmp_path / 'out'}", "--dry-run"]
    assert decode_codes.main([*command, f"input={tmp_path / 'empty'}"]) == 2
    assert "empty: neither a cache (no shards in it) nor files of codes" in capsys.readouterr().err
    decoder = Decoder48k.from_snac(load_codec(small_codec).model)
    decoder.codec_sha256 = "0" * 64
    decoder.save_pretrained(tmp_path / "other")
    command[0] = f"decoder={tmp_path / 'other'}"
    assert decode_codes.main([*command, f"input={small_cache}"]) == 2
    assert "decode it with a decoder of its own codec" in capsys.readouterr().err
    words = [f"decoder={small_export}", f"input={small_cache}", f"output={tmp_path / 'out'}"]
    assert decode_codes.main([*words, "layout=orpheus", "--dry-run"]) == 2
    assert "a cache, in which layout=orpheus has no effect; remove it" in capsys.readouterr().err
    with run_folder.locked(str(tmp_path / "out")):
        assert decode_codes.main(words) == 2
    assert f"{tmp_path / 'out'}: in use by process {os.getpid()} on " in capsys.readouterr().err
    with pytest.raises(ValueError, match="output must be a local folder, got s3://x"):
        DecodeConfig(decoder="d", input="i", output="s3://x")


def test_resume_keeps_no_wav_of_other_codes_and_refuses_another_decoder(
    small_codec: Path,
    small_export: Path,
    code_files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    codes = tmp_path / "codes"
    codes.mkdir()
    rows = np.load(code_files / "n.npy")
    for name in "ab":
        np.save(codes / f"{name}.npy", rows)
    config = DecodeConfig(
        decoder=str(small_export),
        input=str(codes),
        layout="interleaved",
        output=str(tmp_path / "out"),
        limit=1,
        cluster=IN_PROCESS,
    )
    run_decode(config)
    before = (tmp_path / "out" / "a.wav").read_bytes()

    decoder = Decoder48k.from_snac(load_codec(small_codec).model, "random", seed=5)
    decoder.save_pretrained(tmp_path / "other")
    both = dataclasses.replace(config, limit=None)
    other = dataclasses.replace(both, decoder=str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"a\.wav was decoded with decoder_sha256 \w{12}, and now"):
        run_decode(other, resume=True)
    assert [path.name for path in (tmp_path / "out").glob("*.wav")] == ["a.wav"]

    np.save(codes / "a.npy", (rows + 1) % 64)  # As long as before.
    run_decode(both, resume=True)
    assert "the codes of 1 wavs have changed since" in capsys.readouterr().out
    assert (tmp_path / "out" / "a.wav").read_bytes() != before
    assert (tmp_path / "out" / "b.wav").read_bytes() == before
    summary = json.loads((tmp_path / "out" / "decoded.json").read_text())
    assert (summary["written"], summary["kept"], summary["coverage"]) == (2, 0, 1.0)


def test_an_export_with_a_weight_that_is_no_number_is_named(
    small_export: Path, code_files: Path, tmp_path: Path
) -> None:
    export = shutil.copytree(small_export, tmp_path / "export")
    weights = load_file(export / "model.safetensors")
    name = next(name for name in weights if name.endswith("bias"))
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, export / "model.safetensors")
    config = DecodeConfig(
        decoder=str(export),
        input=str(code_files / "n.npy"),
        layout="interleaved",
        output=str(tmp_path / "out"),
    )
    with pytest.raises(UserError, match=rf"model.safetensors: .* values of {name} are NaN"):
        run_decode(config)
    with pytest.raises(UserError, match="are NaN or infinite; take an earlier checkpoint"):
        Decoder48k.from_pretrained(export)
    assert not list((tmp_path / "out").glob("*.wav"))


def test_the_decoders_noise_floor_is_added_and_left_out_by_one_key(
    small_codec: Path, small_export: Path, small_cache: Path, tmp_path: Path
) -> None:
    decoder = Decoder48k.from_pretrained(small_export)
    decoder.noise_floor = NoiseFloor((-50.0,) * 16)
    decoder.save_pretrained(tmp_path / "export")
    config = DecodeConfig(
        decoder=str(tmp_path / "export"),
        input=str(small_cache),
        output=str(tmp_path / "with"),
        cluster=IN_PROCESS,
    )
    off = dataclasses.replace(config, output=str(tmp_path / "off"), noise_floor=False)
    plain = dataclasses.replace(off, decoder=str(small_export), output=str(tmp_path / "plain"))
    for each in (config, off, plain):
        run_decode(each)
    with_floor, without, expected = (
        tmp_path / name / "a" / "0.wav" for name in ("with", "off", "plain")
    )
    assert without.read_bytes() == expected.read_bytes()
    added = [soundfile.read(path)[0] for path in (with_floor, without)]
    power = float(np.mean((added[0] - added[1]) ** 2))
    assert 10 * np.log10(power) == pytest.approx(-50 + 10 * np.log10(11.55 / 24), abs=0.5)
    with pytest.raises(UserError, match=r"decoded with noise_floor .*, and now it is none; choose"):
        run_decode(dataclasses.replace(config, noise_floor=False), resume=True)


def _tokens(rows: np.ndarray) -> list[int]:
    """Orpheus's ids of interleaved rows, place by place."""
    places = (0, 1, 3, 4, 2, 5, 6)
    return [128_266 + 4096 * k + int(row[c]) for row in rows for k, c in enumerate(places)]


def test_an_array_without_a_layout_is_refused_by_dry_run_and_run(
    small_export: Path, code_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"decoder={small_export}", f"output={tmp_path / 'out'}", "cluster.num_workers=0"]
    for given in (code_files / "n.npy", code_files):
        for dry in ([], ["--dry-run"]):
            assert decode_codes.main([*words, f"input={given}", *dry]) == 2
            error = capsys.readouterr().err
            assert "n.npy: an array [n, 7] whose layout is not named; give layout=inter" in error
            assert "layout=orpheus" in error
            assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    bad = code_files / "range.npy"
    assert decode_codes.main([*words, f"input={bad}", "layout=interleaved", "--dry-run"]) == 2
    assert "codes from 64 to 64; the codebook has 0 to 63" in capsys.readouterr().err
    key = ["layout=scales", "orpheus.base=5", f"input={bad}"]
    assert decode_codes.main([*words, *key, "--dry-run"]) == 2
    assert "orpheus has no effect with layout=scales" in capsys.readouterr().err
    assert decode_codes.main([*words, "layout=orpheos", f"input={bad}", "--dry-run"]) == 2
    assert decode_codes.main([*words, "orpheus.order=[0, 1]", f"input={bad}", "--dry-run"]) == 2
    assert "order must name each of 0 to 6 once, got [0, 1]" in capsys.readouterr().err


def test_a_dry_run_refuses_what_the_run_would(
    small_export: Path, small_cache: Path, code_files: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [f"decoder={small_export}", "cluster.num_workers=0", f"output={tmp_path / 'out'}"]
    damaged = [*words, f"input={code_files}", "layout=interleaved"]
    assert decode_codes.main([*damaged, "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "cannot be decoded (" in said.err
    assert said.err.rstrip().endswith("and min_coverage is 1; mend or remove them, or lower it")
    assert "writes:" in said.out
    assert not (tmp_path / "out").exists()
    assert decode_codes.main([*damaged, "min_coverage=0.1", "--dry-run"]) == 0
    whole = [*words, f"input={small_cache}", "limit=1"]
    assert decode_codes.main([*whole, "--dry-run"]) == 0
    assert decode_codes.main(whole) == 0
    assert decode_codes.main([*whole, "--dry-run"]) == 2
    assert "1 of the 1 files exist" in capsys.readouterr().err
    assert decode_codes.main([*whole, "--dry-run", "--resume"]) == 0


def test_tokens_of_every_file_give_the_codes_wav_and_damage_is_named(
    small_export: Path, code_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.load(code_files / "n.npy")
    ids, folder, output = _tokens(rows), tmp_path / "codes", tmp_path / "out"
    folder.mkdir()
    np.save(folder / "ids.npy", ids)
    np.save(folder / "frames.npy", rows[:, [0, 1, 3, 4, 2, 5, 6]])
    text = "".join(f"<custom_token_{each - 128_256}>" for each in ids)
    (folder / "text.txt").write_text(f"Hello. {text}")
    damaged = [*ids[:23], 5, *ids[24:-2]]
    lines = [{"id": "a", "ids": ids}, {"id": "b", "ids": damaged}, {"id": "c", "ids": [1, 2]}]
    lines += [{"text": text}]
    (folder / "more.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "notes.txt").write_text("of Ann")
    config = DecodeConfig(
        decoder=str(small_export),
        input=str(folder),
        output=str(output),
        layout="orpheus",
        min_coverage=0.8,
        cluster=IN_PROCESS,
    )
    words = describe(plan_decode(config))
    assert "1 of them cannot be decoded (" in words
    assert "2 damaged frames are left out; decoded.json will name them" in words
    run_decode(config)
    assert "2 damaged frames of 1 clips are left out (more.jsonl/b, frame 3: id 5 is none of" in (
        capsys.readouterr().out
    )
    files = dataclasses.replace(
        config, input=str(code_files / "n.npy"), layout="interleaved", output=str(tmp_path / "n")
    )
    run_decode(files)
    expected = (tmp_path / "n" / "n.wav").read_bytes()
    same = ("ids", "frames", "text", "more.jsonl/a", "more.jsonl/4")
    for name in same:
        assert (output / f"{name}.wav").read_bytes() == expected, name
    np.save(tmp_path / "kept.npy", np.delete(rows, [3, len(rows) - 1], axis=0))
    kept = dataclasses.replace(files, input=str(tmp_path / "kept.npy"), output=str(tmp_path / "k"))
    run_decode(kept)
    assert (output / "more.jsonl" / "b.wav").read_bytes() == (tmp_path / "k/kept.wav").read_bytes()

    summary = json.loads((output / "decoded.json").read_text())
    assert (summary["written"], [each["clip_id"] for each in summary["failed"]]) == (
        6, ["more.jsonl/c"],
    )  # fmt: skip
    (reason,) = (each["reason"] for each in summary["failed"])
    assert reason.startswith(f"{folder}/more.jsonl: line 3: none of its 2 ids is one of 128266 to")
    assert [frame.partition(":")[0] for frame in summary["bad_frames"]["more.jsonl/b"]] == [
        "frame 3", f"frame {len(rows) - 1}",
    ]  # fmt: skip
    run_decode(config, resume=True)
    again = json.loads((output / "decoded.json").read_text())
    assert (again["kept"], again["bad_frames"]) == (6, summary["bad_frames"])


def test_resume_decodes_again_what_another_layout_reads(
    small_export: Path, code_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DecodeConfig(
        decoder=str(small_export),
        input=str(code_files / "n.npy"),
        output=str(tmp_path / "out"),
        layout="interleaved",
        cluster=IN_PROCESS,
    )
    run_decode(config)
    wav, lines = tmp_path / "out" / "n.wav", tmp_path / "out" / "decoded.jsonl"
    before = wav.read_bytes()
    line = json.loads(lines.read_text())
    assert line["source"].pop("layout") == "interleaved"
    lines.write_text(json.dumps(line) + "\n")  # As commit 8b30563's successors wrote it.
    kept = wav.stat().st_mtime_ns
    run_decode(config, resume=True)
    assert wav.stat().st_mtime_ns == kept
    run_decode(dataclasses.replace(config, layout="orpheus"), resume=True)
    assert "the codes of 1 wavs have changed since" in capsys.readouterr().out
    assert wav.read_bytes() != before
