"""Pairs from the published layouts: by key, whatever the order on disk; nothing lost in silence."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.ttt.eval.scored_pairs import made_pairs
from ttt.errors import UserError
from ttt.eval.pairs.find import TASKS, find_pairs, subsample, task_title

LEXICAL = "filename,id,voice,frequency,word,phones,length,correct"
SYNTACTIC = "filename,id,voice,type,subtype,correct,transcription"


def _touch(root: Path, names: list[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _lexical(folder: Path, words: int = 3, seed: int = 0) -> Path:
    rows = [
        f"{word}_{voice}_{correct},{word},{voice},{word * 4},w{word},p,{3 + word},{correct}"
        for word in range(words)
        for voice in "AB"
        for correct in (1, 0)
    ]
    random.Random(seed).shuffle(rows)
    _touch(folder, [f"{row.split(',')[0]}.wav" for row in rows])
    (folder / "gold.csv").write_text("\n".join([LEXICAL, *rows]))
    return folder


def test_words_of_both_splits_are_found_from_every_folder_above(tmp_path: Path) -> None:
    dev = _lexical(tmp_path / "sLM21" / "lexical" / "dev")
    _lexical(tmp_path / "sLM21" / "lexical" / "test", words=2)
    for root in (tmp_path / "sLM21", tmp_path / "sLM21" / "lexical"):
        found = find_pairs("swuggy", root)
        assert Counter(pair.split for pair in found.pairs) == {"dev": 6, "test": 4}
        assert len({pair.pair_id for pair in found.pairs}) == 10
    found = find_pairs("swuggy", str(dev))
    assert len(found.pairs) == 6
    pair = found.pairs[3]
    assert (pair.pair_id, pair.cluster_id, pair.voice) == ("dev/1/B", "dev/1", "B")
    assert pair.positive.item_id == "dev/1_B_1"
    assert pair.positive.audio == dev / "1_B_1.wav"
    assert pair.negative.audio == dev / "1_B_0.wav"
    assert pair.strata == {"frequency": "1-5", "vocabulary": "in", "length": "4"}
    assert found.pairs[0].strata["vocabulary"] == "oov"


def test_the_order_of_rows_and_of_the_disk_means_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [find_pairs("swuggy", _lexical(tmp_path / "dev", seed=seed)) for seed in (1, 2)]
    assert found[0] == found[1]
    stories = [
        f"{n}_{n:x}a-{n}b_{side}.wav" for n in range(12) for side in ("correct", "incorrect")
    ]
    _touch(tmp_path / "stories", [f"folder {n[-6]}/{n}" for n in stories])
    before = find_pairs("sstory", tmp_path / "stories")
    rglob = Path.rglob
    monkeypatch.setattr(
        Path, "rglob", lambda self, pattern: sorted(rglob(self, pattern), reverse=True)
    )
    assert find_pairs("sstory", tmp_path / "stories") == before
    assert len(before.pairs) == 12


def test_a_gold_table_elsewhere(tmp_path: Path) -> None:
    dev = _lexical(tmp_path / "audio")
    gold = tmp_path / "tables" / "dev" / "gold.csv"
    gold.parent.mkdir(parents=True)
    (dev / "gold.csv").rename(gold)
    assert find_pairs("swuggy", dev, gold).pairs[0].pair_id == "dev/0/A"
    with pytest.raises(UserError, match=r"audio: has no gold.csv, nor lexical/\{dev,test\}"):
        find_pairs("swuggy", dev)
    with pytest.raises(UserError, match="Topic StoryCloze has no gold table"):
        find_pairs("tstory", dev, gold)


def test_the_first_columns_suffice(tmp_path: Path) -> None:
    _touch(tmp_path, ["a.wav", "b.wav"])
    (tmp_path / "gold.csv").write_text("filename,id,voice,correct\na.wav,0,A,1\nb.wav,0,A,0\n")
    (pair,) = find_pairs("swuggy", tmp_path).pairs
    assert (pair.split, pair.strata, pair.positive.audio.name) == ("unnamed", {}, "a.wav")


def test_sentences_are_paired_by_type_subtype_id_and_voice(tmp_path: Path) -> None:
    rows = [
        f"{kind}{sub}{number}{voice}{correct},{number},{voice},{kind},{kind}_{sub},{correct},text"
        for correct in (0, 1)  # By position, the official script would pair them so.
        for kind in ("npi", "agreement")
        for sub in (1, 2)
        for number in (0, 1)
        for voice in ("A", "B")
    ]
    _touch(tmp_path / "dev", [f"{row.split(',')[0]}.wav" for row in rows])
    (tmp_path / "dev" / "gold.csv").write_text("\n".join([SYNTACTIC, *rows]))
    found = find_pairs("sblimp", tmp_path)
    assert len(found.pairs) == 16
    assert len({pair.cluster_id for pair in found.pairs}) == 8
    for pair in found.pairs:
        assert pair.positive.item_id[:-1] == pair.negative.item_id[:-1]
        assert (pair.positive.item_id[-1], pair.negative.item_id[-1]) == ("1", "0")
        assert pair.strata["subtype"].startswith(pair.strata["type"])


def test_samples_are_counted_as_numbers(tmp_path: Path) -> None:
    _touch(tmp_path, [f"rir/sample_{n}_{k}.wav" for n in (10, 2, 1) for k in (1, 0)])
    _touch(tmp_path, ["rir/readme_1_0.wav", "sentiment/sample_1_0.wav", "sentiment/sample_1_1.wav"])
    found = find_pairs("salmon", tmp_path)
    assert [pair.pair_id for pair in found.pairs] == ["rir/1", "rir/2", "rir/10", "sentiment/1"]
    assert found.pairs[2].positive.audio.name == "sample_10_0.wav"
    assert found.pairs[2].strata == {"part": "rir"}
    assert [p.pair_id for p in find_pairs("salmon", tmp_path / "rir").pairs][-1] == "rir/10"


def test_what_has_no_partner_or_no_audio_is_left_out_with_its_reason(tmp_path: Path) -> None:
    dev = _lexical(tmp_path / "dev")
    (dev / "1_A_0.wav").unlink()
    lines = (dev / "gold.csv").read_text().splitlines()
    (dev / "gold.csv").write_text("\n".join(line for line in lines if not line.startswith("2_B_1")))
    found = find_pairs("swuggy", dev)
    assert len(found.pairs) == 4
    assert [(each.pair_id, each.reason) for each in found.left_out] == [
        ("dev/1/A", "no such recording: 1_A_0.wav"),
        ("dev/2/B", "no positive recording"),
    ]
    stories = _touch(
        tmp_path / "stories",
        [
            "1_a-b_correct.wav", "1_a-b_incorrect.wav", "x/1_a-b_correct.wav", "2_c_correct.wav",
            "2_c_incorrect.wav", "3_d_incorrect.wav", "4_NO_correct.wav",
        ],
    )  # fmt: skip
    found = find_pairs("tstory", stories)
    assert [pair.pair_id for pair in found.pairs] == ["c"]
    assert [each.reason for each in found.left_out] == [
        "2 positive recordings: 1_a-b_correct.wav, x/1_a-b_correct.wav",
        "no positive recording",
    ]


def test_what_is_no_task_or_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such task; there are salmon, sblimp, sstory"):
        find_pairs("blimp", tmp_path)
    with pytest.raises(UserError, match="no such folder of sWUGGY recordings"):
        find_pairs("swuggy", tmp_path / "none")
    with pytest.raises(
        UserError, match=r"holds no pair of SALMon \(see ttt/eval/pairs/tasks/salmon.py"
    ):
        find_pairs("salmon", tmp_path)
    _touch(tmp_path, ["p/sample_1_0.wav"])
    with pytest.raises(UserError, match=r"no pair of SALMon \(no negative recording\)"):
        find_pairs("salmon", tmp_path)


def test_every_task_says_what_it_is() -> None:
    assert set(TASKS) == {"swuggy", "sblimp", "sstory", "tstory", "salmon"}
    assert task_title("swuggy") == "sWUGGY"
    assert len({task_title(task) for task in TASKS}) == 5


def test_a_subsample_is_drawn_from_every_stratum_and_repeats() -> None:
    found = made_pairs(clusters=200)
    few = subsample(found, 20, seed=3)
    assert len(few.pairs) == 20
    assert few == subsample(found, 20, seed=3)
    assert few.sha256 == subsample(found, 20, seed=3).sha256 != found.sha256
    assert few != subsample(found, 20, seed=4)
    ids = [pair.pair_id for pair in few.pairs]
    assert set(ids) <= {pair.pair_id for pair in subsample(found, 60, seed=3).pairs}
    assert [pair.pair_id for pair in found.pairs if pair.pair_id in ids] == ids  # In their order.
    assert subsample(found, None, seed=3) is found
    assert subsample(found, 10_000, seed=3).pairs == found.pairs


def test_a_subsample_keeps_rare_strata_and_proportions() -> None:
    common = made_pairs(clusters=300, voices=("A",), type="common").pairs
    rare = made_pairs("sblimp", clusters=3, voices=("Z",), type="rare").pairs
    found = made_pairs()
    found = type(found)("swuggy", common + rare)
    assert Counter(p.strata["type"] for p in subsample(found, 4, 0).pairs) == {
        "common": 3,
        "rare": 1,
    }
    assert Counter(p.strata["type"] for p in subsample(found, 101, 0).pairs) == {
        "common": 100, "rare": 1,
    }  # fmt: skip
    assert len(subsample(found, 1, 0).pairs) == 1
