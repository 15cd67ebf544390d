"""One clip in every file and layout is the same rows; what names no layout is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ttt.errors import UserError
from ttt.snac.code_files import (
    Layout,
    Place,
    UnnamedLayout,
    list_code_files,
    read_codes,
    utterances,
)
from ttt.snac.geometry import CodeGeometry

GEOMETRY = CodeGeometry.preset("snac_24khz")
# Two coarsest tokens, by hand: 1 coarse, 2 middle and 4 fine codes each, code 0 among them.
SCALES = [[0, 20], [11, 12, 21, 22], [13, 14, 15, 16, 23, 24, 25, 4095]]
ROWS = [[0, 11, 12, 13, 14, 15, 16], [20, 21, 22, 23, 24, 25, 4095]]
FRAMES = [[0, 11, 13, 14, 12, 15, 16], [20, 21, 23, 24, 22, 25, 4095]]
IDS = [128_266 + 4096 * k + code for frame in FRAMES for k, code in enumerate(frame)]
OTHER = [4096 * k + code for frame in FRAMES for k, code in enumerate(frame)]
TEXT = "".join(f"<custom_token_{each - 128_256}>" for each in IDS)

Make = Callable[[Path], None]


def _npy(values: object) -> Make:
    return lambda path: np.save(path, np.array(values))


def _pt(value: object) -> Make:
    return lambda path: torch.save(value, path)


def _named(value: object, layout: str | None = None, name: str = "codes") -> Make:
    metadata = None if layout is None else {"layout": layout}
    return lambda path: save_file({name: torch.tensor(value)}, path, metadata=metadata)


def _scales(layout: str | None = None) -> Make:
    named = {f"codes_{k}": torch.tensor(scale) for k, scale in enumerate(SCALES)}
    return lambda path: save_file(named, path, metadata={"layout": layout} if layout else None)


def _text(text: str) -> Make:
    return lambda path: path.write_text(text) and None


def _line(value: object) -> Make:
    return _text(json.dumps(value) + "\n")


def _lines(rows: list[list[int]], separator: str = " ") -> str:
    return "\n".join(separator.join(map(str, row)) for row in rows)


ROW = [row for frame in ROWS for row in frame]
GOOD: list[tuple[str, Make, str | None]] = [
    ("a.npy", _npy(ROWS), "interleaved"),
    ("a.npy", _npy(FRAMES), "orpheus"),
    ("a.npy", _npy(IDS), "orpheus"),
    ("a.npy", _npy([IDS]), "orpheus"),
    ("a.npy", _npy(np.array(IDS, dtype=np.uint32).reshape(2, 7)), "orpheus"),
    ("a.pt", _pt(torch.tensor(ROWS)), "interleaved"),
    ("a.pt", _pt(torch.tensor(FRAMES)), "orpheus"),
    ("a.pt", _pt(torch.tensor(IDS)), "orpheus"),
    ("a.pt", _pt({"layout": "interleaved", "codes": torch.tensor(ROWS)}), None),
    ("a.pt", _pt({"layout": "orpheus", "codes": torch.tensor(IDS)}), None),
    ("a.pt", _pt([torch.tensor(scale) for scale in SCALES]), None),
    ("a.pt", _pt([torch.tensor(scale) for scale in SCALES]), "orpheus"),
    ("a.safetensors", _scales(), None),
    ("a.safetensors", _scales("scales"), "interleaved"),
    ("a.safetensors", _named(ROWS), "interleaved"),
    ("a.safetensors", _named(ROWS, "interleaved"), None),
    ("a.safetensors", _named(FRAMES, "orpheus"), None),
    ("a.safetensors", _named(IDS, "orpheus", "tokens"), None),
    ("a.safetensors", _named(IDS, "orpheus"), "orpheus"),
    ("a.txt", _text(TEXT), None),
    ("a.txt", _text("Hello,\n" + TEXT.replace(">", "> <b>\r\n") + "bye"), "orpheus"),
    ("a.txt", _text(_lines([IDS])), "orpheus"),
    ("a.txt", _text("\ufeff" + _lines([[each] for each in IDS]) + "\n\n"), "orpheus"),
    ("a.txt", _text(_lines(FRAMES, ", ")), "orpheus"),
    ("a.txt", _text(_lines(ROWS, "\t")), "interleaved"),
    ("a.txt", _text(_lines(ROWS[:1]) + "\r\n" + _lines(ROWS[1:])), "interleaved"),
    ("a.txt", _text(_lines(SCALES)), None),
    ("a.txt", _text(_lines(SCALES)), "scales"),
]


@pytest.mark.parametrize(("name", "make", "layout"), GOOD)
def test_every_file_and_layout_gives_the_same_rows(
    tmp_path: Path, name: str, make: Make, layout: str | None
) -> None:
    make(tmp_path / name)
    read = read_codes(tmp_path / name, GEOMETRY, Layout(layout))
    assert read.rows.tolist() == ROWS
    assert (read.rows.dtype, read.bad_frames) == (np.int16, ())
    (looked_at,) = utterances(tmp_path / name, Layout(layout), GEOMETRY)
    assert looked_at.problem is None
    assert [found.path for found in list_code_files(tmp_path)] == [name]


LINES: list[tuple[object, str | None]] = [
    (IDS, "orpheus"),
    (TEXT, None),
    (FRAMES, "orpheus"),
    (ROWS, "interleaved"),
    (SCALES, None),
    ({"ids": IDS, "layout": "orpheus"}, None),
    ({"tokens": IDS, "text": "what is said", "layout": "orpheus", "speaker": "x"}, None),
    ({"text": TEXT}, None),
    ({"codes": SCALES, "id": "clip"}, None),
    ({"codes": ROWS, "layout": "interleaved", "id": 7}, None),
    ({f"codes_{k}": scale for k, scale in enumerate(SCALES)}, None),
]


@pytest.mark.parametrize(("value", "layout"), LINES)
def test_every_kind_of_line_gives_the_same_rows(
    tmp_path: Path, value: object, layout: str | None
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"\ufeff\n{json.dumps(value)}\r\n\n{json.dumps(value)}", encoding="utf-8")
    found = utterances(path, Layout(layout), GEOMETRY)
    assert [each.place.number for each in found if each.place] == [2, 4]
    named = value.get("id") if isinstance(value, dict) else None
    if named is None:
        assert [each.name for each in found] == ["2", "4"]
        assert [each.problem for each in found] == [None, None]
        rows = [read_codes(path, GEOMETRY, Layout(layout), each.place).rows for each in found]
        assert [each.tolist() for each in rows] == [ROWS, ROWS]
    else:
        assert [each.name for each in found] == [str(named), f"{named}-4"]
        assert found[1].problem == f"line 4: its id {named} is that of line 2"


def test_other_bases_and_orders_are_settings(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", OTHER)
    assert read_codes(tmp_path / "a.npy", GEOMETRY, Layout("orpheus", 0)).rows.tolist() == ROWS
    plain = Layout("orpheus", 0, (0, 1, 2, 3, 4, 5, 6))
    assert read_codes(tmp_path / "a.npy", GEOMETRY, plain).rows.tolist() == FRAMES
    np.save(tmp_path / "b.npy", FRAMES)
    assert read_codes(tmp_path / "b.npy", GEOMETRY, Layout("orpheus", 0)).rows.tolist() == ROWS
    (tmp_path / "c.txt").write_text(TEXT)  # Text counts from its own first number.
    assert read_codes(tmp_path / "c.txt", GEOMETRY, Layout("orpheus", 5)).rows.tolist() == ROWS


UNNAMED: list[tuple[str, Make]] = [
    ("a.npy", _npy(ROWS)),
    ("a.npy", _npy(FRAMES)),
    ("a.npy", _npy(IDS)),
    ("a.npy", _npy(np.array(IDS).reshape(2, 7))),
    ("a.npy", _npy(np.zeros((3, 5), int))),
    ("a.pt", _pt(torch.tensor(ROWS))),
    ("a.safetensors", _named(ROWS)),
    ("a.safetensors", _named(IDS, name="x")),
    ("a.txt", _text(_lines(ROWS))),
    ("a.txt", _text(_lines([IDS]))),
    ("a.jsonl", _line(ROWS)),
    ("a.jsonl", _line({"ids": IDS})),
    ("a.jsonl", _text(f'"{TEXT}"\n{json.dumps(ROWS)}')),
]


@pytest.mark.parametrize(("name", "make"), UNNAMED)
def test_an_array_whose_order_is_not_named_is_refused_with_both_names(
    tmp_path: Path, name: str, make: Make
) -> None:
    make(tmp_path / name)
    with pytest.raises(UnnamedLayout) as refused:
        utterances(tmp_path / name, Layout(), None)
    for word in ("layout=interleaved", "layout=orpheus", "not named", "in the file"):
        assert word in str(refused.value)
    if name != "a.jsonl":
        with pytest.raises(UserError, match="whose layout is not named"):
            read_codes(tmp_path / name, GEOMETRY)


def test_a_file_that_names_another_layout_is_refused(tmp_path: Path) -> None:
    _named(FRAMES, "orpheus")(tmp_path / "a.safetensors")
    with pytest.raises(UnnamedLayout, match="its own layout is orpheus, and layout=interleaved is"):
        utterances(tmp_path / "a.safetensors", Layout("interleaved"), GEOMETRY)


BAD: list[tuple[str, Make, str | None, str]] = [
    ("a.safetensors", _named(ROWS, "rows"), None, "its layout is rows; known are orpheus, scales"),
    ("a.safetensors", _scales("orpheus"), None, "its layout is orpheus, and it holds an array for"),
    ("a.pt", _pt({"layout": 3, "codes": torch.tensor(ROWS)}), None, "its layout is 3; needed is"),
    ("a.pt", _pt({"layout": "orpheus", "ids": torch.tensor(IDS)}), None, "holds a dict; needed"),
    ("a.npy", _npy(ROWS), "scales", "shape (2, 7); layout scales needs an array for each scale"),
    ("a.npy", _npy(IDS), "interleaved", "shape (14,); needed is [n, 7]"),
    ("a.npy", _npy(np.array(IDS).reshape(2, 7)), "interleaved", "the codebook has 0 to 4095"),
    ("a.npy", _npy(OTHER), "orpheus", "none of its 14 ids is one of 128266 to 156937; give the b"),
    ("a.npy", _npy([[4096] * 7] * 2), "orpheus", "(frame 0: code 4096 is none of 0 to 4095)"),
    ("a.npy", _npy([[-1] * 7] * 2), "orpheus", "(frame 0: code -1 is none of 0 to 4095)"),
    ("a.npy", _npy([[0] * 6 + [4096]] * 2), "orpheus", "(frame 0: code 4096 is none of 0 to 4095)"),
    ("a.npy", _npy(np.reshape(OTHER, (2, 7))), "orpheus", "none of its 14 ids is one of 128266"),
    ("a.npy", _npy([1.5] * 7), None, "holds float64; codes are integers"),
    ("a.npy", _npy([1.5] * 7), "orpheus", "holds float64; codes are integers"),
    ("a.npy", _npy(np.zeros((2, 5), int)), "orpheus", "shape (2, 5); needed are the ids of one"),
    ("a.npy", _npy(np.zeros((0, 7), int)), "orpheus", "holds no codes"),
    ("a.npy", _npy(IDS[:6]), "orpheus", "holds no whole frame (frame 0: the utterance ends after"),
    ("a.txt", _text("<custom_token_10>"), None, "holds no whole frame (frame 0: the utterance en"),
    ("a.txt", _text(""), "orpheus", "holds no codes"),
    ("a.txt", _text("1 2 x"), "orpheus", "holds 'x', neither a number nor <custom_token_N>"),
    ("a.txt", _text("1.5 2"), "orpheus", "holds '1.5', neither a number nor"),
    ("a.txt", lambda path: path.write_bytes(b"1 \xff") and None, None, "line 1 is not UTF-8"),
    ("a.txt", lambda path: path.write_bytes("1 2".encode("utf-16")) and None, None, "UTF-16"),
    ("a.txt", _text("1 " + "9" * 99), "orpheus", "none of its 2 ids is one of"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "make", "layout", "reason"), BAD)
def test_bad_input_is_one_sentence(
    tmp_path: Path, name: str, make: Make, layout: str | None, reason: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError) as refused:
        read_codes(path, GEOMETRY, Layout(layout))
    sentence = str(refused.value)
    assert sentence.startswith(f"{path}: ")
    assert reason in sentence
    assert "\n" not in sentence
    assert len(sentence) - len(str(path)) < 300


BAD_LINES: list[tuple[str, str]] = [
    ("{", "line 1: no JSON (Expecting property name"),
    ("[1, 2", "line 1: no JSON (Expecting"),
    ("3", "line 1: holds a int; needed is a list of numbers or text"),
    ("null", "line 1: holds a NoneType"),
    ("[]", "line 1: holds no codes"),
    ("[[], [], []]", "line 1: holds no codes"),
    ("[true]", "line 1: holds True; codes are integers"),
    ("[1.5]", "line 1: holds 1.5; codes are integers"),
    ('["a"]', "line 1: holds a; codes are integers"),
    ("[[1, 2], [3]]", "line 1: holds 2 lists of 1 to 2 numbers; needed are rows of 7 or a list"),
    ("[[1], 2]", "line 1: holds a int; needed is a list of numbers"),
    ('"hello"', "line 1: holds 'hello', neither a number nor <custom_token_N>"),
    ('{"a": [1]}', "line 1: holds the keys a; needed is one of codes, ids, tokens, text"),
    ('{"ids": [1], "codes": [1]}', "line 1: holds the keys codes, ids; needed is one of"),
    ("{}", "line 1: holds no key; needed is one of codes, ids, tokens, text"),
    ('{"ids": [1], "id": {}}', "line 1: its id is {}; needed is a text or a number"),
    ('{"ids": [1], "layout": 5}', "line 1: its layout is 5; needed is a text"),
    ('{"ids": [1], "layout": "rows"}', "line 1: its layout is rows; known are"),
    ('{"codes_0": [1], "codes_2": [1]}', "line 1: holds the tensors codes_0, codes_2; needed"),
    ("[" * 100_000, "line 1: "),
    (json.dumps([10**400]), "line 1: "),
]


@pytest.mark.parametrize(("text", "reason"), BAD_LINES)
def test_a_bad_line_is_named_and_the_others_are_read(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{text}\n{json.dumps(IDS)}\n")
    bad, good = utterances(path, Layout("orpheus"), GEOMETRY)
    assert (bad.problem or "").startswith(reason)
    assert (good.problem, good.name) == (None, "2")
    read = read_codes(path, GEOMETRY, Layout("orpheus"), good.place)
    assert read.rows.tolist() == ROWS
    assert [found.path for found in list_code_files(tmp_path)] == ["a.jsonl"]


DAMAGED: list[tuple[object, list[str]]] = [
    (np.array([*IDS[:3], 7, *IDS[4:]]), ["frame 0: id 7 is none of 128266 to 156937"]),
    ([[*FRAMES[0][:6], 4096], FRAMES[1]], ["frame 0: code 4096 is none of 0 to 4095"]),
    ([[*FRAMES[0][:6], -1], FRAMES[1]], ["frame 0: code -1 is none of 0 to 4095"]),
    ([[4096] * 7, FRAMES[1]], ["frame 0: code 4096 is none of 0 to 4095"]),
    (
        np.array([FRAMES[0], FRAMES[1], [2**63] * 7], np.uint64)[[2, 1]],
        ["frame 0: code 9223372036854775808 is none of 0 to 4095"],
    ),
    ([[*IDS[:6], 5], IDS[7:]], ["frame 0: id 5 is none of 128266 to 156937"]),
    (IDS[1:], ["frame 0: tokens of the places 1 2 3 4 5 6 where 0 to 6 belong"]),
    ([*IDS[:7], IDS[0], *IDS[7:]][7:], ["frame 0: tokens of the places 0 where 0 to 6 belong"]),
]


@pytest.mark.parametrize(("value", "bad"), DAMAGED)
def test_damaged_frames_are_named_and_move_nothing(
    tmp_path: Path, value: object, bad: list[str]
) -> None:
    np.save(tmp_path / "a.npy", value)
    read = read_codes(tmp_path / "a.npy", GEOMETRY, Layout("orpheus"))
    assert [str(frame) for frame in read.bad_frames] == bad
    assert read.rows.tolist() == ROWS[1:]
    (looked_at,) = utterances(tmp_path / "a.npy", Layout("orpheus"), GEOMETRY)
    assert looked_at.bad_frames == len(bad)


def test_notes_that_lie_beside_codes_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "notes.txt").write_text("2 clips of Ann")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "decoded.jsonl").write_text('{"clip_id": "a.npy", "wav": "a.wav"}\n')
    (tmp_path / "b.txt").write_text(TEXT)
    (tmp_path / "c.jsonl").write_text(json.dumps({"ids": IDS}))
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe1\x00")
    found = [each.path for each in list_code_files(tmp_path)]
    assert found == ["a.npy", "b.txt", "c.jsonl", "d.txt"]


def test_a_line_that_has_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(IDS))
    with pytest.raises(UserError, match=r"a\.jsonl: ."):
        read_codes(tmp_path / "a.jsonl", GEOMETRY, Layout("orpheus"), Place(9, 10_000, 20))
