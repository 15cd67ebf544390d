"""The same codes from every source give the same wav; nothing is overwritten; bad files named."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from ray_jobs import decode_codes, run_folder
from ray_jobs.decode_worker import decode, describe
from ray_jobs.evaluate_config import DecodeConfig
from ttt.errors import UserError
from ttt.snac.cache import open_cache
from ttt.snac.load import load_codec
from ttt.snac.model import Decoder48k, interleaved_to_codes


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch exploded",))


@pytest.fixture(scope="module")
def code_files(tmp_path_factory: pytest.TempPathFactory, small_cache: Path) -> Path:
    """The first clip of the cache in every layout, and three files that cannot be decoded."""
    folder = tmp_path_factory.mktemp("codes")
    cache = open_cache(small_cache)
    rows = cache.read_codes(0, 0, int(cache.catalogue.n_coarse[0]))
    scales = interleaved_to_codes(torch.from_numpy(rows)[None], cache.geometry)
    (folder / "deep").mkdir()
    np.save(folder / "n.npy", rows)
    torch.save(scales, folder / "deep" / "p.pt")
    save_file({f"codes_{k}": scale for k, scale in enumerate(scales)}, folder / "s.safetensors")
    torch.save([_Bomb()], folder / "bomb.pt")
    np.save(folder / "range.npy", np.full((3, 7), 64))
    (folder / "cut.npy").write_bytes((folder / "n.npy").read_bytes()[:-5])
    return folder


def test_every_source_gives_the_same_wav(
    ray_local: None, small_export: Path, small_cache: Path, code_files: Path, tmp_path: Path
) -> None:
    config = DecodeConfig(
        decoder=str(small_export), input=str(small_cache), output=str(tmp_path / "from-cache")
    )
    decode(config, resume=False, address=None)
    from_cache, rate = soundfile.read(tmp_path / "from-cache" / "a" / "0.wav", dtype="int16")
    assert (len(from_cache), rate) == (45_000, 48_000)
    assert soundfile.info(tmp_path / "from-cache" / "a" / "1.wav").frames == 52_345

    output = tmp_path / "from-files"
    files = dataclasses.replace(config, input=str(code_files), output=str(output))
    with pytest.raises(UserError, match="3 clips were not decoded"):
        decode(files, resume=False, address=None)
    written = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.wav"))
    assert written == ["deep/p.wav", "n.wav", "s.wav"]
    for name in written:
        audio, _ = soundfile.read(output / name, dtype="int16")
        assert len(audio) == 11 * 4096
        assert np.array_equal(audio[:45_000], from_cache)

    summary = json.loads((output / "decoded.json").read_text())
    assert (summary["written"], summary["kept"]) == (3, 0)
    reasons = {entry["clip_id"]: entry["reason"] for entry in summary["failed"]}
    assert "holds more than tensors and is not read" in reasons["bomb.pt"]
    assert "codes from 64 to 64; the codebook has 0 to 63" in reasons["range.npy"]
    assert "cut.npy: " in reasons["cut.npy"]
    assert not list(Path.cwd().glob("exploded"))

    with pytest.raises(UserError, match=r"2 of the 2 files exist, a/0\.wav among them; give --res"):
        decode(config, resume=False, address=None)
    (tmp_path / "from-cache" / "a" / "1.wav").unlink()
    kept = (tmp_path / "from-cache" / "a" / "0.wav").stat().st_mtime_ns
    decode(config, resume=True, address=None)
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
    assert f"decode files of codes {config.input}: 1\n" in describe(config)
    cache = dataclasses.replace(config, input=str(small_cache), limit=1)
    assert f"decode clips of cache {small_cache}: 1\n" in describe(cache)


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
    with run_folder.locked(str(tmp_path / "out")):
        assert decode_codes.main(words) == 2
    assert f"{tmp_path / 'out'}: in use by process {os.getpid()} on " in capsys.readouterr().err
    with pytest.raises(ValueError, match="output must be a local folder, got s3://x"):
        DecodeConfig(decoder="d", input="i", output="s3://x")
