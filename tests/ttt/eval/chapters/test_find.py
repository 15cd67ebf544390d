"""Chapters on disk: layouts, natural order, pieces and joins, everything unreadable named."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ttt.errors import UserError
from ttt.eval.chapters.find import Chapter, find_chapters, natural_key
from ttt.eval.config import ChapterConfig

RATE = 16_000


def _audio(path: Path, seconds: float, **described: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(round(seconds * RATE)), RATE)
    if described:
        path.with_suffix(".json").write_text(json.dumps(described))


def _find(root: Path, **settings: object) -> list[Chapter]:
    chapters, unreadable = find_chapters(ChapterConfig(root=str(root), **settings))  # type: ignore[arg-type]
    assert not unreadable
    return chapters


def _ids(chapters: list[Chapter]) -> list[str]:
    return [chapter.chapter_id for chapter in chapters]


def test_libri_light_folders_in_natural_order(tmp_path: Path) -> None:
    for name in ("10/a/ch_10", "10/a/ch_2", "9/b/ch_1", "10/a/ch_1"):
        _audio(tmp_path / f"{name}.flac", 0.1, speaker="x")
    chapters = _find(tmp_path)
    assert _ids(chapters) == ["9/b/ch_1", "10/a/ch_1", "10/a/ch_2", "10/a/ch_10"]
    assert [(c.speaker, c.book) for c in chapters][:2] == [("9", "b"), ("10", "a")]
    assert all(c.pieces[0].stop == 1600 and len(c.pieces) == 1 for c in chapters)


def test_the_order_does_not_come_from_the_disk(tmp_path: Path) -> None:
    names = [f"{k}_x{k % 3}" for k in np.random.default_rng(0).permutation(20)]
    assert sorted(names, key=natural_key) == [f"{k}_x{k % 3}" for k in range(20)]


def test_cut_pieces_become_their_chapter_again(tmp_path: Path) -> None:
    for name, seconds in (("ch_2_0010", 0.1), ("ch_2_0002", 0.2), ("ch_10_0000", 0.3)):
        _audio(tmp_path / "small/7/2044" / f"{name}.flac", seconds)
    chapters = _find(tmp_path)
    assert _ids(chapters) == ["small/7/2044/ch_2", "small/7/2044/ch_10"]
    assert [piece.seconds for piece in chapters[0].pieces] == [0.2, 0.1]
    assert chapters[0].speaker == "7"


def test_librispeech_files_are_chapters_of_their_speaker(tmp_path: Path) -> None:
    _audio(tmp_path / "test-clean/61/70968/61-70968-0000.flac", 0.1)
    _audio(tmp_path / "test-clean/61/70968/61-70968-0001.flac", 0.1)
    chapters = _find(tmp_path)
    assert len(chapters) == 2
    assert {c.speaker for c in chapters} == {"61"}


def test_flat_folder_takes_the_speaker_from_beside_or_knows_none(tmp_path: Path) -> None:
    _audio(tmp_path / "a.wav", 0.1, speaker="ann")
    _audio(tmp_path / "b.wav", 0.1)
    assert [c.speaker for c in _find(tmp_path)] == ["ann", "unknown"]


def test_voice_activity_cuts_pauses_and_its_sum_is_the_length(tmp_path: Path) -> None:
    _audio(tmp_path / "1/a/x.flac", 3.0, voice_activity=[[0.5, 1.25], [2.0, 9.0], [9.5, 9.7]])
    (chapter,) = _find(tmp_path, pauses="cut")
    assert [(p.start, p.stop) for p in chapter.pieces] == [(8_000, 20_000), (32_000, 48_000)]
    assert chapter.seconds == 1.75


SPANS = [
    ([[0, 2], [1, 3]], [(0.0, 3.0)], "1 of its 2 spans of voice activity overlap others: merged"),
    ([[0, 3], [0, 3], [0, 3]], [(0.0, 3.0)], "2 of its 3 spans"),
    ([[0, 3], [1, 2]], [(0.0, 3.0)], "1 of its 2 spans"),
    ([[2, 3], [0, 1.5], [1, 1.75]], [(0.0, 1.75), (2.0, 3.0)], "1 of its 3 spans"),
    ([[2, 3], [0, 1]], [(0.0, 1.0), (2.0, 3.0)], "not in the order of time: sorted"),
    ([[0, 1], [1, 2]], [(0.0, 1.0), (1.0, 2.0)], None),
    ([[-1, 1], [2, 99]], [(0.0, 1.0), (2.0, 3.0)], None),
    ([[1, 1], [2, 3], [50, 60]], [(2.0, 3.0)], None),
    ([[0, 1e8]], [(0.0, 3.0)], None),
]


@pytest.mark.parametrize(("activity", "seconds", "note"), SPANS)
def test_spans_are_heard_once_in_the_order_of_time(
    tmp_path: Path, activity: list[object], seconds: list[tuple[float, float]], note: str | None
) -> None:
    _audio(tmp_path / "1/a/x.flac", 3.0, voice_activity=activity)
    (chapter,) = _find(tmp_path, pauses="cut")
    assert [(p.start / RATE, p.stop / RATE) for p in chapter.pieces] == seconds
    assert [note in each for each in chapter.notes] == ([] if note is None else [True])


NO_SPANS = [
    ('{"voice_activity": [[0, Infinity]]}', "voice_activity[0] is [0, Infinity]; needed is"),
    ('{"voice_activity": [[0, 1], [NaN, 2]]}', "voice_activity[1] is [NaN, 2]; needed is"),
    ('{"voice_activity": [[-Infinity, 2]]}', "two finite numbers of seconds"),
    ('{"voice_activity": [[0, 1e999]]}', "two finite numbers"),
    (f'{{"voice_activity": [[0, 1{"0" * 400}]]}}', "two finite numbers"),
    ('{"voice_activity": [[0, 1e300]]}', "two finite numbers"),
    ('{"voice_activity": [[2, 1]]}', "voice_activity[0] is [2, 1]: it ends before it begins"),
    ('{"voice_activity": [["0", "1"]]}', "two finite numbers"),
    ('{"voice_activity": [[true, 2]]}', "two finite numbers"),
    ('{"voice_activity": [[null, 2]]}', "two finite numbers"),
    ('{"voice_activity": [[0]]}', "voice_activity[0] is [0]; needed is"),
    ('{"voice_activity": [[0, 1, 2]]}', "needed is [on, off]"),
    ('{"voice_activity": [0, 1]}', "voice_activity[0] is 0; needed is"),
    ('{"voice_activity": [{"on": 0, "off": 1}]}', "needed is [on, off]"),
    ('{"voice_activity": ["01"]}', 'voice_activity[0] is "01"; needed is'),
    ('{"voice_activity": {}}', "has no voice_activity of [on, off] in seconds"),
    ('{"voice_activity": "0 1"}', "has no voice_activity"),
    ('{"voice_activity": null}', "has no voice_activity"),
    ("{}", "has no voice_activity"),
    ('{"voice_activity": []}', "names no voice activity inside the recording"),
    ('{"voice_activity": [[7, 8]]}', "names no voice activity inside the recording"),
    ("[]", "holds no description of a chapter"),
    ("", "cannot be read as JSON"),
    ('{"voice_activity": [[0, 1]', "cannot be read as JSON"),
    ("[" * 100_000, "cannot be read as JSON (it is nested too deeply)"),
    (b"\xff\xfe{}", "cannot be read as JSON"),
    (None, "cannot be read as JSON (No such file or directory)"),
]


@pytest.mark.parametrize(("content", "reason"), NO_SPANS)
def test_spans_that_make_no_sense_are_their_chapters_reason(
    tmp_path: Path, content: str | bytes | None, reason: str
) -> None:
    _audio(tmp_path / "1/a/good.flac", 1.0, voice_activity=[[0, 1]])
    _audio(tmp_path / "1/a/bad.flac", 3.0)
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "1/a/bad.json").write_bytes(content)
    chapters, unreadable = find_chapters(ChapterConfig(root=str(tmp_path), pauses="cut"))
    assert _ids(chapters) == ["1/a/good"]
    assert [each.chapter_id for each in unreadable] == ["1/a/bad"]
    assert unreadable[0].reason.startswith(f"{tmp_path}/1/a/bad.json: ")
    assert reason in unreadable[0].reason
    assert len(unreadable[0].reason) < 600


@pytest.mark.parametrize(
    ("content", "speaker"),
    [
        ('{"speaker": "ann"}', "ann"), ('{"speaker": 7}', "7"), ('{"speaker": null}', "unknown"),
        ("{}", "unknown"), ('{"speaker": ""}', "unknown"), ('\ufeff{"speaker": "bom"}', "bom"),
        ('{"speaker": ["a"]}', None), ('{"speaker": true}', None), ("no json", None), ("3", None),
    ],
)  # fmt: skip
def test_a_flat_folders_speaker_or_the_reason_why_there_is_none(
    tmp_path: Path, content: str, speaker: str | None
) -> None:
    _audio(tmp_path / "a.wav", 0.1, speaker="good")
    _audio(tmp_path / "b.wav", 0.1)
    (tmp_path / "b.json").write_text(content, encoding="utf-8")
    chapters, unreadable = find_chapters(ChapterConfig(root=str(tmp_path)))
    found = [chapter.speaker for chapter in chapters if chapter.chapter_id == "b"]
    assert found == ([] if speaker is None else [speaker])
    assert [each.chapter_id for each in unreadable] == ([] if found else ["b"])


def test_one_bad_piece_is_the_reason_of_its_whole_chapter(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000"):
        _audio(tmp_path / f"1/x/{name}.flac", 0.1)
    (tmp_path / "1/x/a_0002.flac").symlink_to("nowhere")
    chapters, unreadable = find_chapters(ChapterConfig(root=str(tmp_path)))
    assert _ids(chapters) == ["1/x/b"]
    assert [each.chapter_id for each in unreadable] == ["1/x/a"]
    assert "a_0002.flac: is a link to nowhere" in unreadable[0].reason


def test_books_are_joined_until_long_enough_and_never_across(tmp_path: Path) -> None:
    for name in ("1/a/1", "1/a/2", "1/a/3", "1/a/4", "1/a/5", "1/b/1", "2/a/1"):
        _audio(tmp_path / f"{name}.flac", 1.0, speaker="x")
    chapters = _find(tmp_path, concatenate_seconds=1.5)
    assert _ids(chapters) == ["1/a/1..2", "1/a/3..4", "1/a/5", "1/b/1", "2/a/1"]
    assert [len(c.pieces) for c in chapters] == [2, 2, 1, 1, 1]


def test_an_unreadable_chapter_is_named_and_ends_a_join(tmp_path: Path) -> None:
    for name in ("1/a/1", "1/a/3"):
        _audio(tmp_path / f"{name}.flac", 1.0, speaker="x")
    (tmp_path / "1/a/2.flac").write_bytes(b"no audio")
    (tmp_path / "1/a/2.json").write_text("{}")
    _audio(tmp_path / "1/a/4.wav", 0.0)
    config = ChapterConfig(root=str(tmp_path), concatenate_seconds=9)
    chapters, unreadable = find_chapters(config)
    assert _ids(chapters) == ["1/a/1", "1/a/3"]
    assert [u.chapter_id for u in unreadable] == ["1/a/2", "1/a/4"]
    assert "2.flac: cannot be read as audio" in unreadable[0].reason
    assert unreadable[1].reason.endswith("4.wav: holds no audio")


def test_few_chapters_are_spread_over_speakers(tmp_path: Path) -> None:
    for name in ("1/a/1", "1/a/2", "1/a/3", "2/a/1", "3/a/1"):
        _audio(tmp_path / f"{name}.flac", 0.1, speaker="x")
    assert _ids(_find(tmp_path, max_chapters=3)) == ["1/a/1", "2/a/1", "3/a/1"]
    assert _ids(_find(tmp_path, max_chapters=4)) == ["1/a/1", "1/a/2", "2/a/1", "3/a/1"]
    assert _ids(_find(tmp_path, speakers=("3",))) == ["3/a/1"]


def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path) -> None:
    def refuse(sentence: str, **settings: object) -> None:
        with pytest.raises(UserError, match=sentence):
            _find(tmp_path, **settings)

    refuse("holds no audio")
    with pytest.raises(UserError, match="no such folder of chapters"):
        find_chapters(ChapterConfig(root=str(tmp_path / "none")))
    _audio(tmp_path / "5/a/1.flac", 0.1)
    refuse("speakers 6 not found; there are 5", speakers=("6",))
    refuse("no chapter lasts min_seconds=9 s", min_seconds=9.0)
    refuse("not named like a piece", layout="cut")
    _audio(tmp_path / "5/a/1.wav", 0.1)
    refuse("the same chapter as 1.flac by its name")
    for wrong in ({"max_chapters": 0}, {"concatenate_seconds": 0.0}, {"min_seconds": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ChapterConfig(root=".", **wrong)  # type: ignore[arg-type]


def test_the_recorded_chapters(shared_data: Path) -> None:
    chapters = _find(shared_data / "librilight_mini")
    book = "LJ/the_art_and_craft_of_printing"
    assert _ids(chapters) == [f"{book}/printing_01", f"{book}/printing_02"]
    cut = _find(shared_data / "librilight_mini", pauses="cut")
    spans = json.loads((shared_data / f"librilight_mini/{book}/printing_01.json").read_text())
    active = sum(off - on for on, off in spans["voice_activity"])
    assert cut[0].seconds == pytest.approx(active, abs=1e-3)
