"""One walk: through links, never in circles, past hidden files; and every lister takes it."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttt.errors import UserError
from ttt.eval.chapters.find import find_chapters
from ttt.eval.config import ChapterConfig
from ttt.eval.pairs.find import find_pairs
from ttt.files.walk import find_files, fitting_name, is_hidden, same_name_key, shown
from ttt.snac.cache.sources import list_folder, list_pairs
from ttt.snac.code_files import list_code_files


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _paths(root: Path) -> list[str]:
    found = find_files(root, {".x"})
    assert not [each for each in found if each.problem]
    return [each.path for each in found]


def test_links_are_followed_and_every_folder_is_entered_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    _touch(outside, "deep/2.x", "deep/10.x")
    _touch(root, "b/1.x")
    (root / "loop").symlink_to(root)
    (root / "b" / "up").symlink_to("..")
    (root / "b" / "self").symlink_to(".")
    (root / "a").symlink_to("b")  # Sorted before its target, which keeps its own name.
    (root / "z").symlink_to(outside)
    (root / "y").symlink_to(outside / "deep")
    (root / "file.x").symlink_to(outside / "deep" / "2.x")
    (outside / "back").symlink_to(root)
    assert _paths(root) == ["b/1.x", "file.x", "y/2.x", "y/10.x"]
    (tmp_path / "root link").symlink_to(root)
    assert _paths(tmp_path / "root link") == _paths(root)


def test_links_in_a_circle_of_three_and_a_chain(tmp_path: Path) -> None:
    for name, target in (("p/to_q", "q"), ("q/to_r", "r"), ("r/to_p", "p")):
        _touch(tmp_path, f"{name[0]}/{name[0]}.x")
        (tmp_path / name).symlink_to(tmp_path / target)
    assert _paths(tmp_path) == ["p/p.x", "q/q.x", "r/r.x"]
    assert _paths(tmp_path / "p") == ["p.x", "to_q/q.x", "to_q/to_r/r.x"]
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("p")
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "one").symlink_to("../one")
    assert _paths(tmp_path / "only") == ["one/p.x", "one/to_q/q.x", "one/to_q/to_r/r.x"]


@pytest.mark.parametrize(
    "name",
    [
        "._a.x", ".a.x", ".DS_Store", "__MACOSX/a.x", "__MACOSX/._a.x", ".git/a.x", "d/.cache/a.x",
        "@eaDir/a.x", ".Trash-1000/files/a.x", ".ipynb_checkpoints/a.x", "$RECYCLE.BIN/a.x",
    ],
)  # fmt: skip
def test_hidden_files_and_folders_are_passed_over(tmp_path: Path, name: str) -> None:
    _touch(tmp_path / "root", name, "seen.x")
    assert _paths(tmp_path / "root") == ["seen.x"]
    assert any(is_hidden(part) for part in name.split("/"))
    _touch(tmp_path / ".hidden root", "a.x")
    assert _paths(tmp_path / ".hidden root") == ["a.x"]


def test_suffixes_in_any_case_and_the_natural_order(tmp_path: Path) -> None:
    _touch(tmp_path, "c10.X", "c2.x", "c2/b.X", "C3.x", "c02.x", "x", "d.xx", "d.x.gz")
    assert _paths(tmp_path) == ["C3.x", "c02.x", "c2.x", "c2/b.X", "c10.X"]


@pytest.mark.parametrize(
    "name",
    ["a\nb.x", "a#b.x", "100%.x", "-rf.x", "a b.x", "?.x", "é.x", "\u0065\u0301.x", "'\".x",
     "\x1b[31m.x", "n" * 253 + ".x", "a\\b.x", "{}.x", "~.x", "a://b.x".replace("/", "_")],
)  # fmt: skip
def test_odd_names_are_files_like_others(tmp_path: Path, name: str) -> None:
    folder = name.removesuffix(".x")
    _touch(tmp_path, name, f"{folder}/{name}")
    assert set(_paths(tmp_path)) == {name, f"{folder}/{name}"}


def _broken_link(root: Path) -> None:
    (root / "bad.x").symlink_to("nowhere.x")


def _lost_folder(root: Path) -> None:
    (root / "bad").symlink_to("/no/such/disk")


def _own_tail(root: Path) -> None:
    (root / "bad.x").symlink_to("bad.x")


def _folder(root: Path) -> None:
    _touch(root, "bad.x/data.bin")


def _linked_folder(root: Path) -> None:
    _touch(root.parent, "elsewhere/readme")
    (root / "bad.x").symlink_to(root.parent / "elsewhere")


def _pipe(root: Path) -> None:
    os.mkfifo(root / "bad.x")


def _device(root: Path) -> None:
    (root / "bad.x").symlink_to("/dev/null")


def _latin_1(root: Path) -> None:
    _touch(root, os.fsdecode(b"bad\xe9.x"))


def _in_latin_1(root: Path) -> None:
    _touch(root, os.fsdecode(b"bad\xff/a.x"))


PROBLEMS = [
    (_broken_link, "bad.x", "is a link to nowhere.x, which cannot be found"),
    (_lost_folder, "bad", "is a link to /no/such/disk, which cannot be found"),
    (_own_tail, "bad.x", "is a link to bad.x, which cannot be found"),
    (_folder, "bad.x", "is a folder, not a file"),
    (_linked_folder, "bad.x", "is a folder, not a file"),
    (_pipe, "bad.x", "is no regular file but a pipe, socket or device"),
    (_device, "bad.x", "is no regular file but a pipe, socket or device"),
    (_latin_1, "bad\\xe9.x", "has a name that is not UTF-8: rename it"),
    (_in_latin_1, "bad\\xff/a.x", "has a name that is not UTF-8: rename it"),
]


@pytest.mark.parametrize(("make", "path", "problem"), PROBLEMS)
def test_what_is_no_file_is_listed_with_its_problem(
    tmp_path: Path, make: Callable[[Path], None], path: str, problem: str
) -> None:
    root = _touch(tmp_path / "root", "good.x")
    make(root)
    bad, good = find_files(root, {".x"})
    assert (good.path, good.problem) == ("good.x", None)
    assert (bad.path, bad.problem) == (path, problem)
    bad.path.encode()


def test_a_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _touch(tmp_path, "a/1.x", "locked/2.x")
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert [(each.path, each.problem) for each in find_files(tmp_path, {".x"})] == [
        ("a/1.x", None),
        ("locked", "cannot be listed (Permission denied)"),
    ]
    with pytest.raises(UserError, match=r"locked: cannot be listed \(Permission denied\)"):
        find_files(tmp_path / "locked", {".x"})
    with pytest.raises(UserError, match=r"none: cannot be listed \(No such file or directory\)"):
        find_files(tmp_path / "none", {".x"})


def test_other_suffixes_are_nobodys_problem(tmp_path: Path) -> None:
    _touch(tmp_path, "a.x", os.fsdecode(b"\xff.txt"), "b.txt/c.doc")
    (tmp_path / "b.log").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert _paths(tmp_path) == ["a.x"]


# Every lister of user data, on the same tree of links, capitals, hidden files and bad ones.


def _messy(root: Path, *stems: str, suffix: str) -> Path:
    """Each stem in a linked folder, hidden copies beside it; a loop, a lost link, a bad name."""
    store = root.parent / f"{root.name} store"
    for stem in stems:
        path = store / f"{stem}{suffix.upper()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(1600), 16_000, format="WAV")
        _touch(path.parent, f"._{path.name}", f"__MACOSX/{path.name}", ".DS_Store")
    root.mkdir(parents=True)
    (root / "linked").symlink_to(store)
    (store / "loop").symlink_to(root)
    (root / f"lost{suffix}").symlink_to("nowhere")
    _touch(root, os.fsdecode(b"\xe9") + suffix)
    return root


def test_chapters_are_listed_by_the_walk(tmp_path: Path) -> None:
    root = _messy(tmp_path / "root", "7/book/a", "7/book/b", suffix=".wav")
    (tmp_path / "root store" / "7" / "book" / "a.JSON").write_text("{}")
    chapters, unreadable = find_chapters(ChapterConfig(root=str(root)))
    assert [c.chapter_id for c in chapters] == ["linked/7/book/a", "linked/7/book/b"]
    assert {each.chapter_id: each.reason for each in unreadable} == {
        "lost": f"{root}/lost.wav: is a link to nowhere, which cannot be found",
        "\\xe9": f"{root}/\\xe9.wav: has a name that is not UTF-8: rename it",
    }
    for each in unreadable:
        json.dumps(each.reason).encode()
        each.reason.encode()


def test_folders_of_audio_are_listed_by_the_walk(tmp_path: Path) -> None:
    root = _messy(tmp_path / "root", "d/a", "d/b", suffix=".flac")
    found = {clip.clip_id: (clip.problem, clip.problem_note) for clip in list_folder(str(root))}
    assert found == {
        "linked/d/a.FLAC": (None, ""),
        "linked/d/b.FLAC": (None, ""),
        "lost.flac": ("unreadable", "is a link to nowhere, which cannot be found"),
        "\\xe9.flac": ("unreadable", "has a name that is not UTF-8: rename it"),
    }
    assert list(found) == sorted(found)  # The order in which caches were cut into shards.


def test_pairs_of_folders_match_through_links_capitals_and_accents(tmp_path: Path) -> None:
    accents = [unicodedata.normalize(form, "d/café") for form in ("NFC", "NFD")]
    source = _messy(tmp_path / "source", "d/a", accents[0], suffix=".wav")
    target = _messy(tmp_path / "target", "d/a", accents[1], suffix=".flac")
    clips = list_pairs(str(source), str(target))
    assert {clip.clip_id: (Path(clip.target).name, clip.problem) for clip in clips} == {
        "linked/d/a.WAV": ("a.FLAC", None),
        f"linked/{accents[0]}.WAV": (f"{accents[1][2:]}.FLAC", None),
        "lost.wav": ("", "unreadable"),
        "\\xe9.wav": ("", "unreadable"),
    }


@pytest.mark.parametrize(
    ("task", "stems", "pair_ids"),
    [
        ("salmon", ("rir/sample_1_0", "rir/sample_1_1"), ["rir/1"]),
        ("sstory", ("x/1_ab-c_correct", "y/1_ab-c_incorrect"), ["ab-c"]),
        ("tstory", ("1_ab-c_correct", "1_ab-c_incorrect"), ["ab-c"]),
    ],
)
def test_pairs_are_listed_by_the_walk(
    tmp_path: Path, task: str, stems: tuple[str, ...], pair_ids: list[str]
) -> None:
    root = _messy(tmp_path / "root", *stems, suffix=".wav")
    found = find_pairs(task, root)
    assert [pair.pair_id for pair in found.pairs] == pair_ids
    assert found.pairs[0].positive.audio.exists()
    assert [each.pair_id for each in found.left_out] == ["\\xe9.wav", "lost.wav"]


def test_a_pair_with_a_broken_half_has_its_reason(tmp_path: Path) -> None:
    _touch(tmp_path, "a/sample_1_0.wav", "a/sample_1_1.wav", "a/sample_2_0.wav")
    (tmp_path / "a" / "sample_2_1.wav").symlink_to("nowhere")
    found = find_pairs("salmon", tmp_path)
    assert [pair.pair_id for pair in found.pairs] == ["a/1"]
    assert [(each.pair_id, each.reason) for each in found.left_out] == [
        ("a/2", "sample_2_1.wav is a link to nowhere, which cannot be found")
    ]


@pytest.mark.parametrize(
    ("in_table", "on_disk"),
    [
        ("a", "a.WAV"),
        ("A", "a.wav"),
        ("caf\u00e9", "cafe\u0301.wav"),
        ("cafe\u0301", "CAF\u00c9.Wav"),
    ],
)
def test_words_of_a_table_meet_files_that_other_systems_renamed(
    tmp_path: Path, in_table: str, on_disk: str
) -> None:
    _touch(tmp_path, on_disk, "other.wav")
    rows = ["filename,id,voice,correct", f"{in_table},0,A,1", "other,0,A,0"]
    (tmp_path / "gold.csv").write_text("\n".join(rows), encoding="utf-8")
    (pair,) = find_pairs("swuggy", tmp_path).pairs
    assert pair.positive.audio == tmp_path / on_disk


def test_codes_are_listed_by_the_walk(tmp_path: Path) -> None:
    root = _messy(tmp_path / "root", "d/a", suffix=".npy")
    _touch(tmp_path / "root store", "d/b.PT", "d/c.SafeTensors", "d/x.npz", "d/._b.pt")
    found = list_code_files(root)
    assert [each.path for each in found if each.problem is None] == [
        "linked/d/a.NPY", "linked/d/b.PT", "linked/d/c.SafeTensors",
    ]  # fmt: skip
    assert {each.path for each in found if each.problem} == {"lost.npy", "\\xe9.npy"}
    assert [each.path for each in list_code_files(root / "linked" / "d" / "b.PT")] == ["b.PT"]


@pytest.mark.parametrize("name", ["a", "a" * 255, "a" * 256, "é" * 128, "é" * 300, "字" * 90])
@pytest.mark.parametrize("most", [233, 255])
def test_a_fitting_name_fits_and_stays_different(name: str, most: int) -> None:
    fitting = fitting_name(name, most)
    assert len(fitting.encode()) <= most
    assert (fitting == name) == (len(name.encode()) <= most)
    assert fitting_name(name + "x" * 300, most) != fitting_name(name + "y" * 300, most)
    assert fitting_name(fitting, most) == fitting


def test_names_that_some_disks_confuse_have_one_key() -> None:
    names = ["É.wav", "é.WAV", "e\u0301.wav", "E\u0301.Wav"]
    assert len({same_name_key(name) for name in names}) == 1
    assert same_name_key("a") != same_name_key("b")
    assert shown(os.fsdecode(b"a\xff\xe9")) == "a\\xff\\xe9"
    assert shown("é") == "é"
