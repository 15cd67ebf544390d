"""Codes from other programs' files, what is refused, and names that cannot leave a folder."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ttt.errors import UserError
from ttt.files.walk import same_name_key
from ttt.snac.code_files import Layout, list_code_files, read_codes, wav_names
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
    files = [tmp_path / found.path for found in list_code_files(tmp_path)]
    assert [path.name for path in files] == ["a.npy", "b.pt", "c.pt", "d.safetensors"]
    for path in files:
        codes = _rows(path)
        assert codes.dtype == np.int16
        assert codes.tolist() == ROWS


def _rows(path: Path, layout: str | None = "interleaved") -> np.ndarray:
    return read_codes(path, GEOMETRY, Layout(layout)).rows


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
            _rows(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


def test_refusals_name_the_file_and_the_reason(tmp_path: Path) -> None:
    def refused(name: str, sentence: str) -> None:
        with pytest.raises(UserError, match=sentence) as caught:
            _rows(tmp_path / name)
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
    refused("object.npy", "holds Python objects and is not read")
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
    save_file({name: torch.zeros(2) for name in "ab"}, tmp_path / "names.safetensors")
    refused("names.safetensors", r"holds the tensors a, b; needed are codes_0")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    refused("junk.safetensors", "junk.safetensors: .")
    (tmp_path / "x.csv").write_text("")
    refused("x.csv", "not a file of codes; known are .npy, .pt, .safetensors, .txt, .jsonl")
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


def _tensors(*scales: torch.Tensor) -> Callable[[Path], None]:
    return lambda path: torch.save(list(scales), path)


def _script(path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def _named(dtype: torch.dtype) -> Callable[[Path], None]:
    named = {f"codes_{k}": torch.tensor(scale).to(dtype) for k, scale in enumerate(SCALES)}
    return lambda path: save_file(named, path)


def _numpy(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(_saved(array)) and None


def _saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _header(text: str) -> Callable[[Path], None]:
    return _bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode())


FLOATS = [torch.tensor(scale, dtype=torch.bfloat16) for scale in SCALES]
BAD_FILES = [
    ("a.npy", _bytes(b""), "not a NumPy array (.npy): empty, damaged or of another program"),
    ("a.npy", _bytes(b"junk" * 99), "not a NumPy array (.npy)"),
    ("a.npy", _bytes(b"PK\x03\x04 an .npz"), "not a NumPy array (.npy)"),
    ("a.npy", _bytes(b"\x93NUMPY"), ""),
    ("a.npy", _bytes(b"\x93NUMPY\x09\x00"), ""),
    ("a.npy", _header("{'descr': "), ""),
    ("a.npy", _header("{'descr': '<i8', 'fortran_order': False, 'shape': (2, 7), }"), ""),
    ("a.npy", _header(f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**60}, 7), }}"), ""),
    ("a.npy", _header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, 7), }"), ""),
    ("a.npy", _header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 7), }"), "holds Py"),
    ("a.npy", _numpy(np.array([ROWS, None], dtype=object)), "could run code; save an array of"),
    ("a.npy", _numpy(np.array(ROWS, dtype=np.float32)), "holds float32; codes are integers"),
    ("a.npy", _numpy(np.array(ROWS, dtype=np.complex64)), "holds complex64; codes are integers"),
    ("a.npy", _numpy(np.array(ROWS, dtype=bool)), "holds bool; codes are integers"),
    ("a.npy", _numpy(np.array(ROWS, dtype="U3")), "holds <U3; codes are integers"),
    ("a.npy", _numpy(np.array([[1] * 7], dtype="M8[s]")), "holds datetime64[s]"),
    ("a.npy", _numpy(np.zeros((2, 7), dtype=[("a", "<i4")])), "codes are integers"),
    ("a.npy", _numpy(np.array(3)), "shape (); needed is [n, 7]"),
    ("a.npy", _numpy(np.zeros((7, 2), int)), "shape (7, 2); needed is [n, 7]"),
    ("a.npy", _numpy(np.zeros((1, 2, 7), int)), "shape (1, 2, 7); needed is [n, 7]"),
    ("a.npy", _numpy(np.full((1, 7), 2**63, dtype=np.uint64)), "codes from 9223372036854775808"),
    ("a.npy", _numpy(np.full((1, 7), -1)), "codes from -1 to -1"),
    ("a.NPY", _bytes(b"x"), "not a NumPy array (.npy)"),
    ("a.npy", lambda path: path.mkdir(), "Is a directory"),
    ("a.pt", lambda path: path.mkdir(), "Is a directory"),
    ("a.pt", _bytes(b""), "empty"),
    ("a.pt", _bytes(b"junk" * 99), "damaged, or no file of torch.save"),
    ("a.pt", _bytes(b"\x80\x02"), "damaged, or no file of torch.save"),
    ("a.pt", _bytes(b"\x89PNG\r\n\x1a\n"), "damaged, or no file of torch.save"),
    ("a.pt", _bytes(b"PK\x03\x04" + b"\0" * 99), "damaged, or no file of torch.save"),
    ("a.pt", _tensors(*FLOATS), "holds bfloat16; codes are integers"),
    ("a.pt", _tensors(*(t.half() for t in FLOATS)), "holds float16; codes are integers"),
    ("a.pt", _tensors(*(t.float().requires_grad_() for t in FLOATS)), "holds float32"),
    ("a.pt", _tensors(*(t.to(torch.complex64) for t in FLOATS)), "holds complex64"),
    ("a.pt", _tensors(*(t.bool() for t in FLOATS)), "holds bool; codes are integers"),
    ("a.pt", _tensors(*(t.long().to_sparse() for t in FLOATS)), ""),
    ("a.pt", _tensors(*(t.long().to("meta") for t in FLOATS)), ""),
    ("a.pt", _tensors(), "holds 0 codebooks; the decoder has 3"),
    ("a.pt", _tensors(*[torch.zeros(0, dtype=torch.long)] * 3), ""),
    ("a.pt", lambda path: torch.save("text", path), "holds a str; needed is a list of tensors"),
    ("a.pt", lambda path: torch.save([ROWS], path), "holds a list; needed is a list of tensors"),
    ("a.pt", lambda path: torch.save([np.array(ROWS)], path), "holds more than tensors"),
    ("a.pt", lambda path: torch.save(torch.nn.Linear(1, 1), path), "holds more than tensors"),
    ("a.pt", _script, "a TorchScript program, which is not read, since it could run code"),
    ("a.safetensors", _bytes(b""), "damaged or no safetensors file"),
    ("a.safetensors", _bytes(b"\xff" * 64), "damaged or no safetensors file"),
    ("a.safetensors", _named(torch.bfloat16), "holds bfloat16; codes are integers"),
    ("a.safetensors", _named(torch.float64), "holds float64; codes are integers"),
    ("a.safetensors", lambda path: path.mkdir(), ""),
    ("a.npz", _bytes(b"x"), "not a file of codes; known are .npy, .pt, .safetensors"),
    ("a.npy", lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ("a.npy", lambda path: path.symlink_to("none"), "No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "reason"), BAD_FILES)
def test_every_bad_file_is_one_sentence_with_its_name(
    tmp_path: Path, name: str, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError) as caught:
        _rows(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert reason in sentence
    assert "\n" not in sentence
    assert "weights_only" not in sentence
    assert 0 < len(sentence) - len(str(path)) < 400


@pytest.mark.parametrize("name", ["a.npy", "b.pt", "d.safetensors"])
def test_a_file_cut_or_changed_anywhere_is_named_or_gives_codes(tmp_path: Path, name: str) -> None:
    path, random = tmp_path / name, np.random.default_rng(0)
    if name == "a.npy":
        np.save(path, np.array(ROWS))
    elif name == "b.pt":
        torch.save([torch.tensor(scale) for scale in SCALES], path)
    else:
        _named(torch.int64)(path)
    whole = path.read_bytes()
    assert _rows(path).tolist() == ROWS
    cuts = [whole[:length] for length in random.integers(0, len(whole) - 1, 40)]
    changed = []
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            content[place] = random.integers(256)
        changed.append(bytes(content))
    for content in [*cuts, *changed]:
        path.write_bytes(content)
        codes = _codes_or_sentence(path)
        if isinstance(codes, str):
            assert codes.startswith(f"{path}: ")
        else:
            assert codes.shape[1] == 7
            assert ((codes >= 0) & (codes < 4096)).all()


def _codes_or_sentence(path: Path) -> np.ndarray | str:
    try:
        return _rows(path)
    except UserError as error:
        return str(error)


def test_integers_of_every_type_and_suffixes_in_capitals_are_read(tmp_path: Path) -> None:
    for kind in ("int8", "uint8", "int16", ">i2", "uint16", "int32", ">i8", "uint64"):
        np.save(tmp_path / "a.npy", np.asfortranarray(np.array(ROWS, dtype=kind)))
        assert _rows(tmp_path / "a.npy").tolist() == ROWS
    (tmp_path / "a.npy").rename(tmp_path / "a.NPY")
    torch.save([torch.tensor(scale, dtype=torch.uint8) for scale in SCALES], tmp_path / "b.PT")
    _named(torch.int16)(tmp_path / "c.SafeTensors")
    files = [tmp_path / found.path for found in list_code_files(tmp_path)]
    assert [path.name for path in files] == ["a.NPY", "b.PT", "c.SafeTensors"]
    assert all(_rows(path).tolist() == ROWS for path in files)
    assert wav_names([path.name for path in files]) == ["a.wav", "b.wav", "c.wav"]


@pytest.mark.parametrize(
    "ids",
    [
        ["caf\u00e9.npy", "cafe\u0301.npy", "CAF\u00c9.npy"], ["a/x.npy", "A/x.npy", "a/X.npy"],
        ["ß.npy", "ss.npy", "SS.npy"], ["a#b", "a%b", "a b", "a?b"], ["-rf", "--", "-"],
        ["n" * 250 + "1.npy", "n" * 250 + "2.npy"], ["\udce9.npy", "\udcff.npy"],
        ["/".join(["d" * 100] * 30) + "/1", "/".join(["d" * 100] * 30) + "/2"], ["a\nb", "a\tb"],
        ["con.npy", "nul.npy"], ["..", ".", "...", "/"],
    ],
)  # fmt: skip
def test_wav_names_differ_on_every_disk_and_fit_on_it(tmp_path: Path, ids: list[str]) -> None:
    names = wav_names(ids)
    assert len({same_name_key(name) for name in names}) == len(ids)
    for name in names:
        assert len(name.encode()) < 2100
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        assert (tmp_path / name).resolve().is_relative_to(tmp_path.resolve())
