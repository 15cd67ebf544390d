"""Codes from other programs' files, what is refused, and names that cannot leave a folder."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ttt.errors import UserError
from ttt.snac.code_files import find_code_files, read_codes, wav_names
from ttt.snac.geometry import CodeGeometry

GEOMETRY = CodeGeometry.preset("snac_24khz")
# Two coarsest tokens, written by hand: 1 coarse, 2 middle, 4 fine codes each.
SCALES = [[10, 20], [11, 12, 21, 22], [13, 14, 15, 16, 23, 24, 25, 26]]
ROWS = [[10, 11, 12, 13, 14, 15, 16], [20, 21, 22, 23, 24, 25, 26]]


def test_all_layouts_give_the_same_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(ROWS, dtype=np.int64))
    torch.save([torch.tensor(scale) for scale in SCALES], tmp_path / "b.pt")
    torch.save(tuple(torch.tensor([scale]) for scale in SCALES), tmp_path / "c.pt")
    named = {f"codes_{k}": torch.tensor(scale, dtype=torch.int32) for k, scale in enumerate(SCALES)}
    save_file(named, tmp_path / "d.safetensors")
    (tmp_path / "notes.txt").write_text("not codes")
    files = find_code_files(tmp_path)
    assert [path.name for path in files] == ["a.npy", "b.pt", "c.pt", "d.safetensors"]
    for path in files:
        codes = read_codes(path, GEOMETRY)
        assert codes.dtype == np.int16
        assert codes.tolist() == ROWS


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, ("touch exploded",))


def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save([_Bomb()], tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Bomb()))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(UserError, match=rf"{name}: holds more than tensors and is not read"):
            read_codes(tmp_path / name, GEOMETRY)
    assert not (tmp_path / "exploded").exists()


def test_refusals_name_the_file_and_the_reason(tmp_path: Path) -> None:
    def refused(name: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence) as caught:
            read_codes(tmp_path / name, GEOMETRY)
        assert str(tmp_path / name) in str(caught.value)

    np.save(tmp_path / "flat.npy", np.arange(14))
    refused("flat.npy", r"shape \(14,\); needed is \[n, 7\]")
    np.save(tmp_path / "float.npy", np.zeros((2, 7)))
    refused("float.npy", "holds float64; codes are integers")
    np.save(tmp_path / "large.npy", np.full((2, 7), 4096))
    refused("large.npy", "codes from 4096 to 4096; the codebook has 0 to 4095")
    np.save(tmp_path / "empty.npy", np.zeros((0, 7), dtype=np.int16))
    refused("empty.npy", "holds no codes")
    np.save(tmp_path / "object.npy", np.array([_Bomb()]), allow_pickle=True)
    refused("object.npy", "allow_pickle=False")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "large.npy").read_bytes()[:140])
    refused("cut.npy", "cut.npy: .")
    torch.save([torch.zeros(2, dtype=torch.long)] * 3, tmp_path / "ratio.pt")
    refused("ratio.pt", r"lengths \(2, 2, 2\) do not cover the same time")
    torch.save([torch.zeros(2, dtype=torch.long)] * 2, tmp_path / "two.pt")
    refused("two.pt", "holds 2 codebooks; the decoder has 3")
    torch.save({"codes": torch.zeros(2)}, tmp_path / "dict.pt")
    refused("dict.pt", "holds a dict; needed is a list of tensors")
    batch = [torch.zeros(3, 2 * count, dtype=torch.long) for count in (1, 2, 4)]
    torch.save(batch, tmp_path / "batch.pt")
    refused("batch.pt", "needed is one clip")
    save_file({"codes": torch.zeros(2)}, tmp_path / "names.safetensors")
    refused("names.safetensors", r"holds tensors \['codes'\]; needed are codes_0")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    refused("junk.safetensors", "junk.safetensors: .")
    (tmp_path / "x.txt").write_text("")
    refused("x.txt", "not a file of codes; known are .npy, .pt, .safetensors")
    refused("absent.npy", "No such file")


def test_wav_names_keep_folders_and_never_leave_the_output(tmp_path: Path) -> None:
    ids = ["a/b/x.flac", "../../etc/passwd", "/root/x.wav", "..", "C:\\x y\n.wav", "v1.5", "é.npy"]
    names = wav_names(ids)
    assert names[:3] == ["a/b/x.wav", "etc/passwd.wav", "root/x.wav"]
    assert names[5:] == ["v1.5.wav", "é.wav"]
    assert len(set(names)) == len(ids)
    for name in names:
        assert (tmp_path / name).resolve().is_relative_to(tmp_path.resolve())
        assert not set(name) & set("\\:\n \0")


def test_wav_names_of_colliding_ids_differ() -> None:
    names = wav_names(["x.wav", "x.flac", "X.ogg", "y.wav", "z" * 300, "z" * 301])
    assert len({name.casefold() for name in names}) == 6
    assert names[3] == "y.wav"
    assert all(len(name) < 140 for name in names)
